r"""FedFTG: the server fine-tunes the mean model on inputs that it generates.

The server averages the clients' models k as FedAvg does, and then trains the
mean w and a generator G against each other. From Gaussian noise e and a label
y, drawn with its frequency among the clients, G makes inputs v = G(e, y) on
which w and the clients' models disagree, which these recognise as y, and which
differ from each other. With logits s of w and t_k of the clients, weighted by
their samples of the label, a step of G for one client minimises

.. math::
  \operatorname{mean}_b \alpha_k(y_b) \Big(
    \lambda\, \mathrm{CE}(t_k, y_b) - \operatorname{mean}_c |s_c - t_{kc}|\Big)
    + \frac{\delta}{|S|} \exp\Big(-\operatorname{mean}_{i,j}
    \operatorname{mean}|v_i - v_j| \operatorname{mean}(e_i - e_j)^2\Big),
  \quad \alpha_k(y) = \frac{n_k(y)}{\sum_{j \in S} n_j(y)},

without a gradient through t_k in the difference; and a step of w learns the
ensemble on the same inputs,

.. math::
  \min_w \; -\operatorname{mean}_{b,c} \Big(\sum_k \alpha_k(y_b)\,
    \mathrm{softmax}(t_k)_c\Big) \log \mathrm{softmax}(s)_c.

G takes a step for each client in turn, then w some steps, and so on; noise and
labels are drawn anew each time.

Down: the model. Up: the difference, and the number of samples per label.
Quantized clients train as in FedAvg: the server sees their weights in training.
The batch-norm statistics of their quantized models move, at the server, as
those of the model do. The server holds the models of a round all at once.

Unlike the released code: the cross entropy is weighted sample by sample, not
its mean; labels are drawn one by one; G is made of dense layers, and always
standardises its outputs over the batch; w is not decayed. In the paper, w and
the clients differ by a divergence where the code has absolute differences of
logits. Inputs must be such that a network is differentiable in them: not
tokens, say.

Optimizer states: that of the weights starts afresh each round, with the
download; that of the levels stays with the client; those of the server's two
networks start afresh each round.

References:
  Zhang, Shen, Ding, Tao, Duan, Fine-tuning Global Model via Data-Free Knowledge
  Distillation for Non-IID Federated Learning, 2022.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from quped_jax import checks, random_keys
from quped_jax.data.federation import Batch, Federation
from quped_jax.methods import api
from quped_jax.methods.blocks import (
  averaging,
  counted,
  messages,
  personal,
  requirements,
)
from quped_jax.methods.blocks import generator as generator_lib
from quped_jax.methods.blocks import generator_inputs as inputs_lib
from quped_jax.methods.blocks import server as server_lib
from quped_jax.methods.blocks.training import Training
from quped_jax.models import pass_keys, training_pass
from quped_jax.quantization import optimizers


@dataclasses.dataclass(frozen=True)
class FedftgOptions(inputs_lib.TurnsOptions):
  """Settings of FedFTG, in addition to those of `TurnsOptions`.

  The generator takes its steps once for each client.

  Attributes:
    recognition: lambda, weight of the cross entropy.
    diversity: delta, weight of the term that keeps inputs diverse.
    weighting: weights of the clients in the mean: by "samples" or "uniform".
  """

  method: ClassVar[str] = "fedftg"

  generator_learning_rate: float = api.traced(0.01)
  distill_learning_rate: float = api.traced(0.1)
  distill_optimizer: str = "sgd"
  recognition: float = api.traced(1.0)
  diversity: float = api.traced(1.0)
  weighting: str = "samples"

  def __post_init__(self):
    super().__post_init__()
    checks.not_negative("fedftg.recognition", self.recognition)
    checks.not_negative("fedftg.diversity", self.diversity)
    checks.choice("fedftg.weighting", self.weighting, api.WEIGHTINGS)


class FedftgServer(NamedTuple):
  """State of the server.

  Attributes:
    model: the GlobalModel.
    generator: parameters of G.
  """

  model: api.GlobalModel
  generator: Any


def make_fedftg(
  models: api.Models,
  training: Training,
  options: FedftgOptions,
  federation: Federation,
) -> api.FederatedMethod:
  """Makes FedFTG.

  Args:
    models: the networks; every cohort must use the global architecture.
    training: how clients train.
    options: the method's own settings.
    federation: has the shape of the inputs, and the number of classes.

  Raises:
    ValueError: a cohort with another architecture; a loss that is not over
      classes; a network of tokens.
  """
  requirements.check_classes("fedftg", training, "it generates inputs by label")
  method = averaging.averaging_method(
    "fedftg", models, training, weighting=options.weighting
  )
  model, classes = models.shared, federation.num_classes
  requirements.check_follows_inputs("fedftg", model, federation.example())
  made = inputs_lib.make_input_generator(options, federation, classes)
  optimizer = optimizers.base_optimizer(options.generator_optimizer)
  model_optimizer = optimizers.base_optimizer(options.distill_optimizer)

  def init_server(key, inputs):
    shared = method.init_server(key, inputs)
    key = jax.random.fold_in(key, random_keys.INPUT_GENERATOR)
    return FedftgServer(shared, made.init(key))

  def client_update(download, client, data, context, cohort):
    result = method.client_update(download, client, data, context, cohort)
    counts = generator_lib.label_counts(data, classes)
    return result._replace(message=counted.Counted(result.message, counts))

  def collect(message, context):
    del context
    return message._replace(model=message.model._replace(quantized_stats=None))

  def generator_loss(params, student, teacher, share, drawn, clients):
    """For one client, of whose label counts `share [classes]` are shares."""
    noise, labels = drawn
    inputs = made.inputs(params, noise, labels)
    ours = inputs_lib.logits_of(model, student, inputs)
    theirs = inputs_lib.logits_of(model, teacher, inputs)
    apart = jnp.mean(jnp.abs(ours - jax.lax.stop_gradient(theirs)), axis=-1)
    unknown = optax.softmax_cross_entropy(theirs, labels)
    weights = jnp.matmul(labels, share, precision="highest")
    flat = inputs.reshape(inputs.shape[0], -1)
    alike = generator_lib.diversity_loss(noise, flat)
    return (
      jnp.mean(weights * (options.recognition * unknown - apart))
      + options.diversity * alike / clients
    )

  def train_generator(generator, opt_state, student, teachers, drawn):
    heard, shown, shares = teachers
    clients = jnp.maximum(jnp.sum(heard), 1)

    def of_client(carry, slot):
      counts, teacher, share = slot

      def loss(params, stats, _):
        args = student, teacher, share, drawn, clients
        return generator_loss(params, *args), stats

      def go():
        own, opt_state = server_lib.step(
          optimizer,
          options.generator_learning_rate,
          loss,
          api.GlobalModel(carry[0], {}),
          carry[1],
          None,
        )
        return own.params, opt_state

      return jax.lax.cond(counts, go, lambda: carry), None

    def once(carry, _):
      return jax.lax.scan(of_client, carry, (heard, shown, shares))[0], None

    carry = generator, opt_state
    return jax.lax.scan(once, carry, length=options.generator_steps)[0]

  def train_model(student, opt_state, teachers, inputs, labels, key):
    heard, shown, shares = teachers

    def say(teacher, share):
      outputs = jax.nn.softmax(inputs_lib.logits_of(model, teacher, inputs))
      weights = jnp.matmul(labels, share, precision="highest")
      return weights[:, None] * outputs

    targets = inputs_lib.sum_over_teachers(say, shown, heard, shares)

    def loss(params, stats, x):
      _, own = x
      batch = Batch(inputs, targets, own)
      logits, stats = training_pass(model, params, stats, batch)
      return -jnp.mean(targets * jax.nn.log_softmax(logits)), stats

    steps = options.distill_steps
    keys = jnp.arange(steps), pass_keys(model, key, steps)
    return server_lib.descend(
      model_optimizer,
      options.distill_learning_rate,
      loss,
      student,
      opt_state,
      keys,
    )

  def server_update(server, aggregates, context):
    _, sent, weights = server_lib.all_collected(aggregates)
    heard = weights > 0
    counts = jnp.where(heard[:, None], sent.counts, 0)
    before = server.model._replace(quantized_stats=None)
    shown = jax.vmap(lambda d: messages.add(before, d))(sent.model)
    teachers = heard, shown, generator_lib.label_shares(counts)
    mean = personal.add_mean(server.model, aggregates, context)

    def take_turns(carry, key):
      student, model_state, generator, state = carry
      noise_key, label_key, model_key = jax.random.split(key, 3)
      noise = made.noise(noise_key, training.batch_size)
      labels = jax.random.categorical(
        label_key, jnp.log(jnp.sum(counts, axis=0)), shape=(noise.shape[0],)
      )
      labels = jax.nn.one_hot(labels, classes)
      generator, state = train_generator(
        generator, state, student, teachers, (noise, labels)
      )
      inputs = made.inputs(generator, noise, labels)
      student, model_state = train_model(
        student, model_state, teachers, inputs, labels, model_key
      )
      return (student, model_state, generator, state), None

    key = jax.random.fold_in(context.key, random_keys.INPUT_GENERATOR)
    start = mean._replace(quantized_stats=None)
    (tuned, _, generator, _), _ = jax.lax.scan(
      take_turns,
      (
        start,
        model_optimizer.init(start.params),
        server.generator,
        optimizer.init(server.generator),
      ),
      jax.random.split(key, options.iterations),
    )
    followed = messages.follow(mean, tuned.stats)
    tuned = tuned._replace(quantized_stats=followed)
    return messages.if_heard(aggregates, FedftgServer(tuned, generator), server)

  return method.replace(
    init_server=init_server,
    client_update=client_update,
    server_update=server_update,
    receive=counted.receive,
    collect=collect,
    plausible=counted.plausible,
    averages=False,
    server_moves=lambda server: (server.model.params, server.generator),
  )
