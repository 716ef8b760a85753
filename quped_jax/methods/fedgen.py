r"""FedGen: FedAvg with a generator of features, which the server learns.

From noise e, uniform in [0, 1), and a label y, the server's generator G makes
features z = G(e, y), the input of a classifier's last layer. The server sees no
samples: the clients' last layers h_k, weighted by their numbers of samples of
y, must recognise the label of the generated features,

.. math::
  \min_G \; \mathrm{CE}\Big(\sum_k \tfrac{n_k(y)}{\sum_j n_j(y)}\, h_k(z),\;
    y\Big) + \delta \exp\Big(-\operatorname{mean}_{i,j}
    \operatorname{mean}|z_i - z_j| \operatorname{mean}(e_i - e_j)^2\Big),

where the last term keeps the features diverse (the inner means are over the
entries of features and of noise, as in the released code), and y is drawn with
its frequency among the clients. A client adds alpha CE(h(G(e, y)), y) to its
loss, with uniform y, so that its last layer does not forget the classes of
which it has no samples.

Down: the model and the generator. Up: the difference of the model, and the
number of samples per label. Quantized clients do all this by alternating steps;
their last layer, which the server uses, has full precision. `gradients` does
not count the additional passes through the last layer.

Left out: the term of the released code that pulls a sample's outputs towards
those for generated features of its label, and the decay of alpha. Clients draw
labels uniformly; in the paper they draw them with their frequency over all
clients.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; the generator's stays at the
server.

References:
  Zhu, Hong, Zhou, Data-Free Knowledge Distillation for Heterogeneous Federated
  Learning, 2021.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks, random_keys
from quped_jax.data.federation import Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  counted,
  divided,
  local_steps,
  messages,
  personal,
  requirements,
)
from quped_jax.methods.blocks import generator as generator_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.quantization import optimizers


@dataclasses.dataclass(frozen=True)
class FedgenOptions:
  """Settings of FedGen.

  Attributes:
    alpha: weight of the clients' loss on generated features.
    diversity: delta, weight of the term that keeps generated features diverse.
    noise_size: number of entries of the noise.
    hidden: widths of the generator's hidden layers.
    generator_steps: steps of the generator per round, at the server, each on a
      batch of the clients' batch size.
    generator_learning_rate: step size of these steps.
    generator_optimizer: their optimizer: "sgd", "momentum", "adam" or "adamw".
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  alpha: float = api.traced(1.0)
  diversity: float = api.traced(1.0)
  noise_size: int = 32
  hidden: tuple[int, ...] = (64,)
  generator_steps: int = 50
  generator_learning_rate: float = api.traced(1e-3)
  generator_optimizer: str = "adam"
  weighting: str = "samples"

  def __post_init__(self):
    checks.not_negative("fedgen.alpha", self.alpha)
    checks.not_negative("fedgen.diversity", self.diversity)
    checks.at_least("fedgen.noise_size", self.noise_size, 1)
    for width in self.hidden:
      checks.at_least("fedgen.hidden", width, 1)
    server_lib.check_steps("fedgen", self, "generator")
    checks.choice("fedgen.weighting", self.weighting, api.WEIGHTINGS)


class FedgenServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the GlobalModel.
    generator: parameters of G.
    opt_state: state of their optimizer.
  """

  model: api.GlobalModel
  generator: Any
  opt_state: Any


class FedgenDownload(NamedTuple):
  """What a client receives: the server's model and generator."""

  model: api.GlobalModel
  generator: Any


def make_fedgen(
  models: api.Models,
  training: Training,
  options: FedgenOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedGen.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the samples.

  Raises:
    ValueError: labels are no classes; a cohort with another architecture, or a
      model without a last layer that classifies features.
  """
  requirements.check_classes(
    "fedgen", training, "its generator makes features of each class"
  )
  method = averaging.averaging_method(
    "fedgen", models, training, weighting=options.weighting
  )
  model = models.shared
  width, classes = divided.check_divided("fedgen", model, federation)
  head: Any = model.head
  made = generator_lib.make_generator(
    width, classes, options.noise_size, options.hidden, training.batch_size
  )
  optimizer = optimizers.base_optimizer(options.generator_optimizer)

  def init_server(key, inputs):
    shared = method.init_server(key, inputs)
    params = made.init(jax.random.fold_in(key, random_keys.FEDGEN_GENERATOR))
    return FedgenServer(shared, params, optimizer.init(params))

  def broadcast(server, context, cohort):
    model = method.broadcast(server, context, cohort)
    return FedgenDownload(model, server.generator)

  def client_update(download, client, data, context, cohort):
    del cohort
    key = jax.random.fold_in(context.key, random_keys.FEDGEN_SAMPLES)

    def step(carry, batch):
      learner, index = carry
      _, labels, features = made.draw(
        jax.random.fold_in(key, index), download.generator, jnp.ones(classes)
      )
      on_samples = training.label_objective(model, batch)

      def objective(params, stats):
        loss, stats = on_samples(params, stats)
        logits = head(params, features)
        generated = jnp.mean(optax.softmax_cross_entropy(logits, labels))
        # In the first round the generator is untrained.
        known = context.round > 0
        return loss + jnp.where(known, options.alpha * generated, 0.0), stats

      learner, loss = training.alternating.step(
        learner, objective, context.rates
      )
      return (learner, index + 1), {"loss": loss}

    carry = (averaging.resume(training, download.model, client), jnp.int32(0))
    (learner, _), metrics = local_steps.run(
      step, carry, data, context, training
    )
    message = counted.Counted(
      averaging.difference(learner, download.model),
      generator_lib.label_counts(data, classes),
    )
    weight = messages.client_weight(options.weighting, data)
    return api.ClientResult(averaging.keep(learner), message, weight, metrics)

  def collect(message, context):
    del context
    return divided.head_params(message.model.params), message.counts

  def server_update(server, aggregates, context):
    _, (differences, counts), weights = server_lib.all_collected(aggregates)
    before = divided.head_params(server.model.params)
    heads = jax.tree.map(lambda w, d: w[None] + d, before, differences)
    counts = jnp.where(weights[:, None] > 0, counts, 0)

    def loss(params, stats, key):
      return generator_lib.generator_loss(
        made, head, params, heads, counts, key, options.diversity
      ), stats

    key = jax.random.fold_in(context.key, random_keys.FEDGEN_SERVER)
    learned, opt_state = server_lib.descend(
      optimizer,
      options.generator_learning_rate,
      loss,
      api.GlobalModel(server.generator, {}),
      server.opt_state,
      jax.random.split(key, options.generator_steps),
    )
    new = personal.add_mean(server, aggregates, context)
    new = new._replace(generator=learned.params, opt_state=opt_state)
    return messages.if_heard(aggregates, new, server)

  return method.replace(
    init_server=init_server,
    broadcast=broadcast,
    client_update=client_update,
    server_update=server_update,
    receive=counted.receive,
    averages=False,
    collect=collect,
    plausible=counted.plausible,
    server_moves=lambda server: server.generator,
  )
