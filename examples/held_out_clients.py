"""What do clients gain that took no part in training?

python examples/held_out_clients.py

Each starts from the global model, takes a few steps on its own samples, and is
tested on its own test data. A client that had nothing to start from would do as
in local training after as many steps.
"""

import quped_jax as qj

qj.use_compilation_cache()  # A further run need not compile.

settings = qj.Settings(
  clients=8,
  held_out_clients=4,
  held_out_client_steps=10,
  bits=(2,),
  method="quped",
  # The global model learns from labels too: better for those who come later.
  quped={"global_loss": "distill+labels"},
  rounds=5,
)
summary = qj.run(settings).summary
who = {"took part": "accuracy", "held out": "held_out_clients"}
for name, entry in who.items():
  print(f"{name}: {100 * summary[entry]['quantized']['mean']:.1f} %")
