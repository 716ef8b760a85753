"""Settings that check themselves, and groups of settings."""

import collections
import dataclasses
import inspect

import pytest

import quped_jax as qj
from quped_jax import checks
from quped_jax.experiment.settings import fields
from quped_jax.experiment.settings.execution import OutputSettings
from quped_jax.experiment.settings.fields import Group, group, setting

GROUPS = qj.Settings.__bases__


@group
class Lens(Group):
  """How clients look at their samples."""

  zoom: int = setting(1, "magnification.", fields.at_least(1))
  tints: tuple[float, ...] = setting(
    (0.5,), "of the glass.", fields.each(checks.unit_interval), free=True
  )
  notes: dict = setting({}, "more.")

  def _check(self):
    if self.zoom > 9 and self.tints:
      raise ValueError(f"tints={self.tints}: must be () with zoom={self.zoom}")


@group
class Frame(Group):
  """What holds the lens."""

  shape: str = setting(
    "round", "of the frame.", fields.one_of(("round", "square"))
  )

  def _check(self):
    if self.shape == "square":
      raise ValueError("shape='square': must be 'round' today")


@group
class Glasses(Lens, Frame):
  """Both."""

  def _check(self):
    if self.zoom == 7:
      raise ValueError("zoom=7: must be another with these frames")


@pytest.mark.parametrize("make", [Lens, Glasses])
@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"zoom": 0}, "zoom=0: must be at least 1"),
    ({"zoom": 1.5}, "zoom=1.5: must be a whole number"),
    ({"tints": (0.5, 2.0)}, "tints=2.0: must be from 0 to 1"),
    ({"zoom": 10}, "tints=(0.5,): must be () with zoom=10"),
    # Types are checked before all rules, and fields' own rules before groups'.
    ({"zoom": 10, "tints": (3.0,)}, "tints=3.0: must be from 0 to 1"),
    ({"zoom": 0, "tints": "red"}, "tints='red': must be numbers"),
  ],
)
def test_a_group_checks_itself_alone_and_among_others(make, values, message):
  with pytest.raises(ValueError) as error:
    make(**values)
  assert str(error.value).startswith(message)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"shape": "oval"}, "shape='oval': must be one of round, square"),
    ({"shape": "square"}, "shape='square': must be 'round' today"),
    ({"zoom": 7}, "zoom=7: must be another with these frames"),
  ],
)
def test_every_group_of_several_is_checked(values, message):
  with pytest.raises(ValueError) as error:
    Glasses(**values)
  assert str(error.value) == message


def test_values_are_flat_typed_and_not_shared():
  made = Glasses(zoom=2, tints=(1,))
  assert made.zoom == 2 and made.shape == "round"
  assert type(made.tints[0]) is float
  assert dataclasses.replace(made, shape="round").tints == (1.0,)
  assert Glasses().notes is not Glasses().notes
  with pytest.raises(dataclasses.FrozenInstanceError):
    made.zoom = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_docstrings_list_what_fields_say():
  assert Lens.__doc__ == (
    "How clients look at their samples.\n\n"
    "Attributes:\n"
    "  zoom: magnification.\n"
    "  tints: of the glass. May change when a run goes on.\n"
    "  notes: more."
  )


@pytest.mark.parametrize(
  ("rule", "good", "bad", "message"),
  [
    (fields.widths, (1, 8), (8, 0), "x=(8, 0): must be positive widths"),
    (fields.rounds_in_order, (1, 3), (3, 1), "x=(3, 1): must be rounds from 1"),
    (fields.rounds_in_order, (), (2, 2), "x=(2, 2): must be rounds from 1"),
    (fields.rounds_in_order, (1,), (0, 2), "x=(0, 2): must be rounds from 1"),
    (fields.at_least(2), 2, 1, "x=1: must be at least 2"),
    (fields.one_of({"a": 1}), "a", "b", "x='b': must be one of a"),
    (fields.each(fields.at_least(2)), (2, 3), (2, 1), "x=1: must be at least"),
  ],
)
def test_rules_pass_what_is_allowed_and_name_what_is_not(
  rule, good, bad, message
):
  rule("x", good)
  with pytest.raises(ValueError) as error:
    rule("x", bad)
  assert str(error.value).startswith(message)


def test_a_rule_knows_what_a_registry_holds_by_then():
  registry = {"a": 1}
  rule = fields.one_of(registry)
  registry["b"] = 2
  rule("x", "b")


# The real `Settings`.


def test_the_groups_are_small_and_make_up_the_settings():
  own = {cls.__name__: list(inspect.get_annotations(cls)) for cls in GROUPS}
  assert len(own) == 16
  for name, names in own.items():
    assert 0 < len(names) <= 15, name
  counts = collections.Counter(name for names in own.values() for name in names)
  assert set(counts.values()) == {1}, counts.most_common(3)
  assert set(counts) == {f.name for f in dataclasses.fields(qj.Settings)}


def test_every_setting_says_what_it_is_where_help_shows_it():
  doc = qj.Settings.__doc__ or ""
  lines = doc.splitlines()
  assert max(map(len, lines)) <= 80
  for field in dataclasses.fields(qj.Settings):
    assert field.metadata["doc"].endswith("."), field.name
    assert sum(line.startswith(f"  {field.name}: ") for line in lines) == 1


@pytest.mark.parametrize("cls", GROUPS)
def test_every_group_can_be_made_alone(cls):
  made, whole = cls(), qj.Settings()
  for field in dataclasses.fields(made):
    assert getattr(made, field.name) == getattr(whole, field.name)


def test_a_group_alone_refuses_what_settings_refuse():
  for cls in (OutputSettings, qj.Settings):
    with pytest.raises(ValueError, match="keep_checkpoints=0: must be at leas"):
      cls(keep_checkpoints=0)


def test_these_settings_and_no_others_change_no_result():
  free = {
    "data_dir", "strategy", "chunk_size", "devices", "client_state",
    "clients_per_block", "rounds_per_dispatch", "deterministic",
    "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "save_models",
    "figures",
  }  # fmt: skip
  # They do once they are not at their defaults.
  later = {
    "anneal_end", "anneal_rounds", "anneal_start", "assumed_byzantine",
    "compression", "compression_bits", "compression_norm", "compression_share",
    "epochs_of", "error_feedback", "feature_noise", "feature_skew",
    "focal_gamma",
    "initial_levels", "krum_clients", "label_smoothing", "loss", "metrics",
    "padding", "parq_steepness", "relax_growth", "relax_start",
    "self_balancing",
  }  # fmt: skip
  made = qj.Settings(method="fedavg")
  options = set(qj.methods.METHODS) - {"fedavg"}
  assert set(made.to_dict()) - set(made.identity()) == free | later | options
  values = made.to_dict()
  assert all(values[name] == value for name, value in made.identity().items())
  assert "loss" in qj.Settings(loss="focal").identity()
