"""`quped export`: writes a packed model as a file that other programs run.

The file takes samples as in the model's dataset, before they are normalised,
and returns logits; a batch may have any size. ONNX files are about as small as
packed ones; StableHLO is for JAX. See docs/model-files.md.
"""

import argparse
import pathlib

from quped_jax.export import model_export

SUMMARY = "write a packed model as an ONNX or StableHLO file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the options of the command."""
  parser.add_argument(
    "--model", metavar="FILE", required=True, help="packed model file"
  )
  parser.add_argument(
    "--format",
    metavar="FORMAT",
    required=True,
    choices=model_export.FORMATS,
    help=" or ".join(model_export.FORMATS),
  )
  parser.add_argument(
    "--output",
    metavar="FILE",
    help="file to write; by default the model's name, ending in the format",
  )
  parser.add_argument(
    "--check",
    action="store_true",
    help="run the file on random samples, and compare with the library",
  )


def run(args: argparse.Namespace) -> None:
  """Exports the model of the command line."""
  output = args.output
  if output is None:
    output = pathlib.Path(args.model).with_suffix(f".{args.format}")
  done = model_export.export_model(
    args.model, output, args.format, check=args.check
  )
  said = ""
  if done.difference is not None:
    said = f"; its logits are the library's, up to {done.difference:.1g}"
  print(f"{done.path}: {done.size:,} bytes{said}")
