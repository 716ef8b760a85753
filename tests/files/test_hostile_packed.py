"""Packed files that anyone may have written are right, or refused."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import quped_jax as qj
from tests.files.packed_files import (
  build,
  measured,
  parts,
  same_bits,
)
from tests.hostile import NUMBERS, VALUES, cases

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = st.dictionaries(
  st.sampled_from(["features", "blocks", "width", "heads", "dtype", "x"]),
  st.one_of(VALUES, st.lists(NUMBERS, max_size=5)),
  max_size=3,
)

PATTERNS = st.sampled_from(["*", "hidden_1/*", "*kernel", "[", "*a*a*a*a*"])

HOSTILE = {
  "model": st.sampled_from(["mlp", "normed", "transformer", "resnet8", "bare"]),
  "options": OPTIONS,
  "input_shape": st.lists(st.integers(-1, 70_000), max_size=4),
  "num_classes": NUMBERS,
  "bits": NUMBERS | st.dictionaries(PATTERNS, NUMBERS, max_size=3),
  "quantized": st.dictionaries(
    st.sampled_from(["params/hidden_1/kernel", "params/x"]),
    st.fixed_dictionaries({"bits": NUMBERS, "shape": st.lists(NUMBERS)}),
    max_size=2,
  ),
  "activations": st.lists(st.sampled_from(["relu", "gelu_tanh", "x"])),
  "conv": st.sampled_from(["auto", "native", "shift", "x"]),
  "granularity": st.sampled_from(["tensor", "channel"]),
  "compute_dtype": st.sampled_from(["float32", "bfloat16"]),
  "back": st.none()
  | st.fixed_dictionaries(
    {
      "model": st.sampled_from(["mlp", "transformer", "bare", "x"]),
      "options": OPTIONS,
    }
  ),
}


def seldom(data):
  return data.draw(st.integers(0, 9)) == 0


@given(data=st.data())
@cases(30)
def test_hostile_metadata_is_right_or_refused(files, data):
  """With the right checksum: its maker can compute it."""
  good, path = files
  header, about, tensors = parts(data.draw(st.sampled_from(good))[0])
  for key in data.draw(st.lists(st.sampled_from(sorted(HOSTILE)), max_size=3)):
    about[key] = data.draw(HOSTILE[key])
  if seldom(data):
    about[data.draw(st.sampled_from(sorted(about)))] = data.draw(VALUES)
  if seldom(data):
    about.pop(data.draw(st.sampled_from(sorted(about))))
  path.write_bytes(build(header, about, tensors))
  check_what_it_says(path)


@given(data=st.data())
@cases(30)
def test_a_hostile_table_of_tensors_is_right_or_refused(files, data):
  good, path = files
  header, about, tensors = parts(data.draw(st.sampled_from(good))[0])
  for _ in range(data.draw(st.integers(1, 2))):
    names = sorted(set(header) - {"__metadata__"})
    name, other = (data.draw(st.sampled_from(names)) for _ in range(2))
    entry = header[name]
    change = data.draw(
      st.sampled_from(["swap", "rename", "type", "turn", "flat", "any", "drop"])
    )
    if change == "swap":
      header[name], header[other] = header[other], entry
    elif change == "type":
      entry["dtype"] = data.draw(
        st.sampled_from(["F32", "I32", "U8", "I8", "X"])
      )
    elif change == "turn":
      entry["shape"] = entry["shape"][::-1]
    elif change == "flat":
      entry["shape"] = [1] * data.draw(st.integers(0, 70)) + [
        int(np.prod(entry["shape"]))
      ]
    elif change == "any":
      size = st.integers(0, 2**70) | st.integers(0, 2 * len(tensors))
      field = data.draw(st.sampled_from(["shape", "data_offsets"]))
      entry[field] = data.draw(VALUES | st.lists(size, max_size=4))
      break
    else:
      header.pop(name)
      if change == "rename":
        header[data.draw(st.text(max_size=5))] = entry
  if seldom(data):
    tensors = data.draw(st.sampled_from([tensors[:-1], tensors + b"\0", b""]))
  path.write_bytes(build(header, about, tensors))
  check_what_it_says(path)


@given(data=st.data())
@cases(15)
def test_other_numbers_are_another_model(files, data):
  """A consistent file is a model, whatever its weights."""
  good, path = files
  header, about, tensors = parts(data.draw(st.sampled_from(good))[0])
  seed = data.draw(st.integers(0, 2**32))
  noise = np.random.default_rng(seed).bytes(len(tensors))
  for name in ("inputs/mean", "inputs/std"):
    begin, end = header[name]["data_offsets"]
    noise = noise[:begin] + tensors[begin:end] + noise[end:]
  path.write_bytes(build(header, about, noise))
  assert check_what_it_says(path)


def check_what_it_says(path) -> bool:
  """A file that is not refused has the tensors of the architecture it names."""
  found = measured(path)
  if found is None:
    return False
  model = found.info.create()
  inputs = jax.ShapeDtypeStruct((1, *found.info.input_shape), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
  assert jax.tree.structure(found[1:3]) == jax.tree.structure(shapes)
  for x, like in zip(
    jax.tree.leaves(found[1:3]), jax.tree.leaves(shapes), strict=True
  ):
    assert (x.shape, x.dtype) == (like.shape, like.dtype)
  again = path.with_name("again.safetensors")
  qj.save_packed(again, *found[1:3], found.info, mean=found.mean, std=found.std)
  # Its codebooks may have levels that no weight has, and are not compared.
  assert same_bits(qj.load_packed(again)[1:5], found[1:5])
  return True


def test_nothing_reads_pickles():
  """No module is imported that runs what it reads; NumPy is told not to."""
  runs_what_it_reads = {"pickle", "cloudpickle", "dill", "joblib", "marshal"}
  for folder in ("quped_jax", "experiments", "configs"):
    for path in (ROOT / folder).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
          names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
          names = [node.module or ""]
        assert not {n.split(".")[0] for n in names} & runs_what_it_reads, path
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        assert called not in ("eval", "exec"), path
        if isinstance(node, ast.Call) and called.endswith("np.load"):
          allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
          assert [ast.unparse(v) for v in allowed] == ["False"], path
