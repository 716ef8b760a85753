"""Suite `model_files`: models at 1, 2, 4, 8 and 32 bits, as they are shipped.

One model on a whole dataset, trained as `experiments.centralized` does: an MLP
64-64-64-10 on digits, for 60 epochs; and CNN1 on 2,000 training samples of
MNIST, for 5 epochs. By bits: the size of the packed file, of the ONNX and of
the StableHLO file; accuracy on all test samples; seconds to load a file; and
seconds of a call with 1 sample, and with 100. The contestants read the same
packed file, or what is exported of it: the library (`predict`), NumPy alone
(`numpy_networks.predict`), and onnxruntime, each with all cores.

All of this is left as one table too, `model_files_DEVICE.md`.
"""

import dataclasses
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

import quped_jax as qj
from experiments.benchmarks.bench import Bench
from experiments.benchmarks.timing import Contestant
from quped_jax import paths
from quped_jax.export import model_export
from quped_jax.files import numpy_networks, numpy_reader

_BITS = (1, 2, 4, 8, 32)
_CONTESTANTS = _LIBRARY, _NUMPY, _ONNX = "library", "NumPy", "onnxruntime"
_LOADED, _ONE = "loaded", "1 sample"
_COLUMNS = (
  *("model", "bits", "packed, KB", "ONNX, KB", "accuracy, %"),
  *(f"a call, {name}, ms" for name in _CONTESTANTS),
  *(f"loading, {name}, ms" for name in _CONTESTANTS),
)


class _Case(NamedTuple):
  """A network, and how it is trained.

  Attributes:
    title: of the network and its data.
    settings: of a run, besides those that are common.
    most: training samples; None for all.
  """

  title: str
  settings: dict[str, Any]
  most: int | None = None


_DIGITS: dict[str, Any] = {"dataset": "digits", "hidden": (64, 64)}
_CASES = (
  _Case("MLP on digits", {**_DIGITS, "rounds": 60, "finetune_at": 48}),
  _Case(
    "CNN1 on MNIST",
    {"dataset": "mnist", "model": "cnn1", "rounds": 5, "finetune_at": 4},
    most=2000,
  ),
)
_TINY = (_Case("MLP on digits", {**_DIGITS, "rounds": 1}, most=64),)

# As in configs/centralized.py.
_COMMON: dict[str, Any] = {
  "method": "local",
  "clients": 1,
  "partition": "iid",
  "train_fraction": 0.8,
  "epochs": 1,
  "batch_size": 32,
  "optimizer": "momentum",
  "learning_rate": (0.02,),
  "centers_learning_rate": (1e-4,),
  "finetune_centers_learning_rate": 1e-5,
  "strength": 1e-5,
  "save_models": "clients",
}


class _Shipped(NamedTuple):
  """A model as files.

  Attributes:
    packed: path of the packed file.
    onnx: path of the ONNX file.
    row: its sizes in bytes, and its accuracy.
  """

  packed: pathlib.Path
  onnx: pathlib.Path
  row: dict[str, Any]


def run(bench: Bench) -> None:
  """Measures the suite."""
  bits = (2, 32) if bench.quick else _BITS
  with tempfile.TemporaryDirectory() as folder:
    for case in _TINY if bench.quick else _CASES:
      try:
        dataset = _dataset(case)
      except FileNotFoundError as error:
        bench.note(f"{case.title} is left out: {error}")
        continue
      shipped = {
        b: _ship(case, dataset, b, pathlib.Path(folder, case.title, str(b)))
        for b in bits
      }
      bench.derive(
        f"{case.title}: files, and accuracy in %",
        {f"{b} bits": found.row for b, found in shipped.items()},
      )
      for b, found in shipped.items():
        _time(bench, f"{case.title}, {b} bits", found, dataset.inputs)
  bench.folder.mkdir(parents=True, exist_ok=True)
  paths.replace_text(
    bench.folder / f"{bench.suite}_{bench.stem}.md",
    table(bench.rows, bench.derived),
  )


def table(rows: list[dict[str, Any]], derived: list[dict[str, Any]]) -> str:
  """All of it as one table.

  Args:
    rows: those of the suite's file.
    derived: likewise.
  """
  times = {(row["group"], row["name"]): row["seconds_min"] for row in rows}
  lines = [_COLUMNS, ("---",) * len(_COLUMNS)]
  for found in derived:
    title, bits = found["group"].partition(":")[0], found["name"]
    milliseconds = [
      _two_digits(1000 * times[f"{title}, {bits}, {what}", name])
      for what in (_ONE, _LOADED)
      for name in _CONTESTANTS
    ]
    sizes = [
      f"{found[f'{name}_bytes'] / 1000:,.0f}" for name in ("packed", "onnx")
    ]
    accuracy = f"{found['accuracy']:.1f}"
    lines.append((title, bits.split()[0], *sizes, accuracy, *milliseconds))
  return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _two_digits(value: float) -> str:
  return f"{float(f'{value:.2g}'):g}"


def _dataset(case: _Case) -> qj.data.Dataset:
  """The samples, of which fewer may be for training."""
  dataset = qj.load_dataset(case.settings["dataset"])
  if case.most is None:
    return dataset
  is_test = dataset.is_test
  if is_test is None:
    rows = np.arange(case.most)
  else:
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(~is_test))
    rows = np.concatenate([chosen[: case.most], np.flatnonzero(is_test)])
    is_test = is_test[rows]
  return dataclasses.replace(
    dataset,
    inputs=dataset.inputs[rows],
    labels=dataset.labels[rows],
    is_test=is_test,
  )


def _ship(
  case: _Case, dataset: qj.data.Dataset, bits: int, folder: pathlib.Path
) -> _Shipped:
  """Trains a model, and writes its files."""
  settings = qj.Settings(**_COMMON, **case.settings, bits=(bits,))
  parts = qj.partition(dataset, "iid", 1, train_fraction=0.8)
  federation = qj.make_federation(dataset, parts)
  qj.run(
    settings, folder, federation=federation, display=qj.Display(quiet=True)
  )
  path = folder / "models" / "client_00000.safetensors"
  row: dict[str, Any] = {"packed_bytes": path.stat().st_size}
  for name in model_export.FORMATS:
    done = qj.export_model(path, path.with_suffix(f".{name}"), name, check=True)
    row[f"{name}_bytes"] = done.size
  rows = parts.test[0]
  logits = qj.load_packed(path).predict(dataset.inputs[rows])
  right = logits.argmax(axis=1) == dataset.labels[rows]
  row["accuracy"] = 100 * float(right.mean())
  return _Shipped(path, path.with_suffix(".onnx"), row)


def _session(path: pathlib.Path) -> onnxruntime.InferenceSession:
  return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _time(
  bench: Bench, title: str, shipped: _Shipped, inputs: np.ndarray
) -> None:
  """Times loading, and calls of two sizes."""

  def measure(what: str, unit: str, runs: dict[str, Any], **sizes: int):
    bench.measure(
      f"{title}, {what}",
      unit,
      [Contestant(name, run, 1) for name, run in runs.items()],
      sizes=sizes,
      reference=_LIBRARY,
    )

  measure(
    _LOADED,
    "file",
    {
      _LIBRARY: lambda: qj.load_packed(shipped.packed),
      _NUMPY: lambda: numpy_reader.read(shipped.packed),
      _ONNX: lambda: _session(shipped.onnx),
    },
  )
  packed = qj.load_packed(shipped.packed)
  alone = numpy_reader.read(shipped.packed)
  session = _session(shipped.onnx)
  for size in (1, 100):
    batch = inputs[:size].astype(np.float32)
    measure(
      f"{size} samples" if size > 1 else _ONE,
      "call",
      {
        _LIBRARY: lambda batch=batch: packed.predict(batch),
        _NUMPY: lambda batch=batch: numpy_networks.predict(alone, batch),
        _ONNX: lambda batch=batch: session.run(None, {"inputs": batch}),
      },
      samples=size,
    )
