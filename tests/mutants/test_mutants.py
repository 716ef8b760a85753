"""The frozen mutants are where they say they are."""

import collections
import functools
import pathlib

import pytest

from tests.mutants import address, choose
from tests.mutants.run import tests_of as judges_of

ROOT = pathlib.Path(__file__).parents[2]
FROZEN = address.frozen()


@functools.cache
def code():
  return address.Code(ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", FROZEN, ids=lambda mutant: mutant.id)
def test_every_mutant_is_found_once_and_can_be_made(mutant):
  place = code().find(mutant)
  assert place, f"{mutant.id} is lost; see __main__.py on moved.json: {mutant}"
  address.apply(*place)
  paths, _ = judges_of(ROOT, place[1].path.relative_to(ROOT))
  assert paths


def test_there_are_as_many_of_each_package_and_no_two_alike():
  counts = collections.Counter(mutant.package for mutant in FROZEN)
  assert counts == dict.fromkeys(choose.PACKAGES, choose.COUNT)
  assert len({mutant.id for mutant in FROZEN}) == len(FROZEN)
  assert len({mutant._replace(id="") for mutant in FROZEN}) == len(FROZEN)


def test_what_is_said_of_mutants_names_them():
  ids = {mutant.id for mutant in FROZEN}
  assert address.load("equivalent.json").keys() <= ids
  assert address.load("moved.json")["restated"].keys() <= ids


def make_code(tmp_path, **files):
  for name, text in files.items():
    path = tmp_path / "quped_jax" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  return address.Code(tmp_path)


MUTANT = address.Mutant(
  "files-00", "files", "make.step", "total = first + second", "first + second",
  0, "first - second",
)  # fmt: skip
STEP = "def {}():\n  def step():\n    total = (  # é\n      first+second)\n"


def test_a_mutant_is_found_in_another_file_class_or_function(tmp_path):
  for outer in ("make", "build"):
    place = make_code(tmp_path, new=STEP.format(outer)).find(MUTANT)
    assert place
    changed = address.apply(*place)
    assert changed == STEP.format(outer).replace(
      "first+second", "(first - second)"
    )
  other = "class New:\n  def other(self):\n    total = first + second\n"
  assert make_code(tmp_path, new=other).find(MUTANT) is None
  longer = MUTANT._replace(statement="the_total_of_both = first + second")
  renamed = other.replace("total", "the_total_of_both")
  assert make_code(tmp_path, new=renamed).find(longer)


def test_of_two_places_neither_is_taken(tmp_path):
  step = STEP.format("make")
  assert make_code(tmp_path, one=step, two=step).find(MUTANT) is None
  other = step.replace("second", "third")
  assert make_code(tmp_path, one=step, two=other).find(MUTANT)


def test_names_that_changed_are_looked_for(tmp_path, monkeypatch):
  moved = {"renamed": {"first": "one", "make": "build"}, "restated": {}}
  monkeypatch.setattr(address, "load", lambda _: moved)
  code = make_code(tmp_path, new=STEP.format("build").replace("first", "one"))
  place = code.find(MUTANT)
  assert place and "(one - second)" in address.apply(*place)


def test_a_change_that_changes_nothing_is_refused(tmp_path):
  code = make_code(tmp_path, new=STEP.format("make"))
  mutant, found = code.find(MUTANT) or pytest.fail("not found")
  with pytest.raises(ValueError, match="changes nothing"):
    address.apply(mutant._replace(after="first + second"), found)


def test_a_block_is_judged_by_its_tests_and_those_of_its_methods(tmp_path):
  files = {
    "quped_jax/methods/blocks/near.py": "",
    "quped_jax/methods/blocks/far.py": "import quped_jax.methods.blocks.near",
    "quped_jax/methods/fedx.py": "from quped_jax.methods.blocks import far",
    "quped_jax/methods/fedy.py": "from quped_jax.methods.blocks.far import f",
    "tests/methods/blocks/test_far.py": "",
    "tests/methods/test_fedx.py": "",
    "tests/methods/test_all.py": "",
  }
  for name, text in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

  def judges(name):
    return judges_of(tmp_path, pathlib.Path("quped_jax/methods") / name)

  fedx = ("tests/methods/test_fedx.py", "tests/methods/test_all.py")
  chosen = "not test_all.py or [fedx]"
  assert judges("fedx.py") == (fedx, chosen)
  far = "tests/methods/blocks/test_far.py"
  assert judges("blocks/far.py") == ((far, *fedx), chosen)
  assert judges("blocks/near.py") == ((far,), "")
  assert judges("fedy.py") == ((), "")
