"""Chooses the mutants, by a seed, from the current code."""

import ast
import collections
import copy
import pathlib
import random
from collections.abc import Iterator
from typing import Any

from tests.mutants import address

PACKAGES = ("quantization", "methods", "simulation", "files")
COUNT = 50
_PER_FUNCTION = 3

# What opens sockets, chooses how fast XLA compiles and waits, or words what
# people read: results do not depend on it.
_EXCLUDED = {
  "join",
  "_gather",
  "_answer",
  "_report",
  "join_cluster",
  "compile_lowered",
  "use_compilation_cache",
  "wait_for_devices",
  "use_cores",
  "_check_kinds.text",
  "__repr__",
  "__str__",
}

_COMPARED = {
  ast.Lt: ast.LtE,
  ast.LtE: ast.Lt,
  ast.Gt: ast.GtE,
  ast.GtE: ast.Gt,
  ast.Eq: ast.NotEq,
  ast.NotEq: ast.Eq,
  ast.Is: ast.IsNot,
  ast.IsNot: ast.Is,
  ast.In: ast.NotIn,
  ast.NotIn: ast.In,
}
_COMPUTED = {
  ast.Add: ast.Sub,
  ast.Sub: ast.Add,
  ast.Mult: ast.Div,
  ast.Div: ast.Mult,
  ast.FloorDiv: ast.Mult,
  ast.Mod: ast.FloorDiv,
  ast.Pow: ast.Mult,
  ast.BitAnd: ast.BitOr,
  ast.BitOr: ast.BitAnd,
}
_CALLED = {
  "minimum": "maximum",
  "maximum": "minimum",
  "min": "max",
  "max": "min",
  "argmin": "argmax",
  "argmax": "argmin",
  "any": "all",
  "all": "any",
  "floor": "ceil",
  "ceil": "floor",
  "zeros": "ones",
  "ones": "zeros",
  "zeros_like": "ones_like",
  "ones_like": "zeros_like",
  "mean": "sum",
  "sum": "mean",
}
# How much more or less often a kind is drawn; 1 if it is not named. A function
# that returns its argument mostly fails at once and tells little.
_WEIGHTS = {"return": 0.2, "bool": 0.5}
# Checkpoint paths, where a slash is not a division.
_PATHS = ("part", "path", "folder", "self._folder")
# Calls that are replaced by their first argument.
_UNWRAPPED = ("abs", "clip", "sqrt", "stop_gradient", "square", "negative")


def _unlike(node: Any, **fields: Any) -> str:
  changed = copy.copy(node)
  for name, value in fields.items():
    setattr(changed, name, value)
  return ast.unparse(changed)


def _is_text(node: ast.AST) -> bool:
  return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple)) or (
    isinstance(node, ast.Constant) and isinstance(node.value, str)
  )


def _called(node: ast.Call) -> Iterator[tuple[str, str]]:
  """Changes of a call: another function, or arguments that swap places."""
  fn = node.func
  attribute = isinstance(fn, ast.Attribute)
  name = fn.attr if attribute else getattr(fn, "id", "")
  # The built-in sum has no mean to swap with.
  if name in _CALLED and (attribute or name not in ("sum", "mean")):
    other = _CALLED[name]
    new = _unlike(fn, **{"attr" if attribute else "id": other})
    yield "call", _unlike(node, func=ast.parse(new, mode="eval").body)
  if name in ("where", "cond") and len(node.args) >= 3:
    first, second, third, *rest = node.args
    yield "branches", _unlike(node, args=[first, third, second, *rest])
  if name in _UNWRAPPED and node.args:
    yield "call", ast.unparse(node.args[0])


def _changes(node: Any) -> Iterator[tuple[str, str]]:
  """The changes of one expression: kind and code."""
  match node:
    case ast.Compare(ops=[op]):
      yield "compare", _unlike(node, ops=[_COMPARED[type(op)]()])
    case ast.BinOp(op=op) if type(op) in _COMPUTED:
      if not (
        _is_text(node.left)
        or _is_text(node.right)
        or ast.unparse(node.left) in _PATHS
      ):
        yield "arithmetic", _unlike(node, op=_COMPUTED[type(op)]())
    case ast.Constant(value=bool(value)):
      yield "bool", str(not value)
    case ast.Constant(value=int(value)):
      yield "number", str(value + 1)
    case ast.Constant(value=float(value)):
      yield "number", str(2 * value or 1.0)
    case ast.UnaryOp(op=ast.Not() | ast.Invert()):
      yield "logic", ast.unparse(node.operand)
    case ast.UnaryOp(op=ast.USub()) if not isinstance(
      node.operand, ast.Constant
    ):
      yield "arithmetic", ast.unparse(node.operand)
    case ast.BoolOp(op=op):
      other = ast.Or() if isinstance(op, ast.And) else ast.And()
      yield "logic", _unlike(node, op=other)
    case ast.IfExp():
      yield "branches", _unlike(node, body=node.orelse, orelse=node.body)
    case ast.Call():
      yield from _called(node)


def _of_statement(function, node: Any) -> Iterator[tuple[str, str]]:
  """The changes of a whole statement."""
  match node:
    case ast.Expr(value=ast.Call()):
      yield "delete", "pass"
    case ast.AugAssign(op=op) if type(op) in _COMPUTED:
      yield "arithmetic", _unlike(node, op=_COMPUTED[type(op)]())
    case ast.Return(value=ast.expr()):
      arguments = [a for a in function.arguments if a != "self"]
      if 1 <= len(arguments) <= 2 and ast.unparse(node) != (
        f"return {arguments[0]}"
      ):
        yield "return", f"return {arguments[0]}"


def candidates(
  function: address.Function,
) -> list[tuple[str, address.Mutant]]:
  """All mutants of a function, with the kind of each."""
  found, seen = [], collections.Counter()
  for text, nodes in function.statements:
    if text.startswith(("raise", "assert", "import", "from")):
      continue
    # `strict=True` in zip only checks our own code.
    strict = {
      id(node.value)
      for node in nodes
      if isinstance(node, ast.keyword) and node.arg == "strict"
    }
    for node in nodes:
      before = ast.unparse(node)
      occurrence = seen[text, before]
      seen[text, before] += 1
      if id(node) in strict:
        continue
      changes = list(
        _of_statement(function, node)
        if isinstance(node, ast.stmt)
        else _changes(node)
      )
      # A condition may have been forgotten, such as that of a check that
      # raises.
      if node is nodes[0] and text.startswith("if "):
        changes.append(("condition", "False"))
      for kind, after in changes:
        found.append(
          (
            kind,
            address.Mutant(
              "", "", function.name, text, before, occurrence, after
            ),
          )
        )
  return found


def _excluded(name: str) -> bool:
  return name in _EXCLUDED or name.rpartition(".")[2] in ("__repr__", "__str__")


def choose(tree: pathlib.Path, seed: int) -> list[address.Mutant]:
  """Draws the mutants of all packages.

  Functions are drawn with weights that are the square root of the number of
  their candidates, at most three mutants of each; within a function all kinds
  of changes are equally likely.

  Args:
    tree: the checkout.
    seed: of the draw.
  """
  code = address.Code(tree)
  chosen = []
  for package in PACKAGES:
    rng = random.Random(f"{seed} {package}")
    pool = {}
    for function in code.functions:
      inside = package in function.path.relative_to(tree).parts[:2]
      if not inside or _excluded(function.name):
        continue
      kinds = collections.defaultdict(list)
      for kind, mutant in candidates(function):
        if code.find(mutant):  # Not if two places read the same.
          kinds[kind].append(mutant)
      if kinds:
        pool[function.path, function.name] = kinds
    drawn = collections.Counter()
    mutants = []
    while len(mutants) < COUNT:
      names = list(pool)
      sizes = [sum(map(len, pool[n].values())) ** 0.5 for n in names]
      (name,) = rng.choices(names, sizes)
      kinds = pool[name]
      ordered = sorted(kinds)
      weights = [_WEIGHTS.get(kind, 1.0) for kind in ordered]
      (kind,) = rng.choices(ordered, weights)
      mutant = rng.choice(kinds.pop(kind))
      mutants.append(mutant)
      drawn[name] += 1
      if drawn[name] == _PER_FUNCTION or not kinds:
        del pool[name]
    mutants.sort(key=lambda m: (m.function, m.statement, m.before))
    chosen += [
      mutant._replace(id=f"{package}-{i:02}", package=package)
      for i, mutant in enumerate(mutants)
    ]
  return chosen
