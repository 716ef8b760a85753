"""Where a mutant's code is: found by function and statement, not by path.

A mutant is one small change to one expression or statement of a function:

- `package`: the one of four packages whose tests it judges;
- `function`: the qualified name inside its module, as `Layout.slots`;
- `statement`: the statement that is changed; for a compound one, its header;
- `before`: the changed part of the statement;
- `occurrence`: which of several such parts of the function, from 0;
- `after`: what replaces it.

Code is compared as `ast.unparse` writes it, so that comments, line breaks and
formatting do not matter.
"""

import ast
import collections
import copy
import functools
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).parent

# A shorter statement says too little to be found without its function.
_TELLING = 25

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


class Mutant(NamedTuple):
  """One change; see above."""

  id: str
  package: str
  function: str
  statement: str
  before: str
  occurrence: int
  after: str


class Function(NamedTuple):
  """A function of the code.

  Attributes:
    path: of its file.
    name: its qualified name inside the module.
    statements: its own, not those of inner functions: their text, and in order
      the nodes that may be changed.
    arguments: the names of its positional arguments.
  """

  path: pathlib.Path
  name: str
  statements: list[tuple[str, list[ast.AST]]]
  arguments: list[str]


class Found(NamedTuple):
  """A mutant's place: the node in a file."""

  path: pathlib.Path
  node: ast.AST


def load(name: str) -> Any:
  """The content of one of the files beside this one."""
  return json.loads((HERE / name).read_text())


def frozen() -> list[Mutant]:
  """The mutants that were chosen once and for all."""
  return [Mutant(**record) for record in load("frozen.json")]


def _simple_part(statement: ast.stmt) -> ast.stmt:
  """A statement without the blocks in it."""
  simple: Any = copy.copy(statement)
  for block in _BLOCKS:
    if hasattr(simple, block):
      setattr(simple, block, [])
  return simple


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
  """A node and those inside it, in source order.

  Strings and annotations are left out.
  """
  if hasattr(node, "lineno"):
    yield node
  for name, value in ast.iter_fields(node):
    if name == "annotation" or isinstance(value, ast.JoinedStr):
      continue
    for child in value if isinstance(value, list) else [value]:
      if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
        yield from _nodes(child)


def _statements(body: list[Any]) -> Iterator[ast.stmt]:
  for statement in body:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
      continue
    if isinstance(statement, ast.stmt):
      yield statement
    for block in _BLOCKS:
      yield from _statements(getattr(statement, block, []))


def _functions(path: pathlib.Path) -> Iterator[Function]:
  def visit(node, outer):
    for child in ast.iter_child_nodes(node):
      if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
        yield from visit(child, outer)
        continue
      name = f"{outer}{child.name}"
      if isinstance(child, ast.FunctionDef):
        statements = []
        for statement in _statements(child.body):
          simple = _simple_part(statement)
          whole, *parts = _nodes(simple)
          compound = hasattr(statement, "body")
          nodes = parts if compound else [whole, *parts]
          statements.append((ast.unparse(simple), nodes))
        arguments = [a.arg for a in child.args.args]
        yield Function(path, name, statements, arguments)
      yield from visit(child, f"{name}.")

  yield from visit(ast.parse(path.read_text()), "")


def _normal(code: str) -> str:
  """Code as this version of Python writes it."""
  header = code.endswith(":")
  try:
    text = ast.unparse(ast.parse(code + " pass" if header else code))
  except SyntaxError:  # The header of a try, say.
    return code
  return text.rpartition("\n")[0] if header else text


class Code:
  """The functions of a checkout's library, in which mutants are found.

  Attributes:
    functions: all of them.
  """

  def __init__(self, tree: pathlib.Path):
    paths = sorted((tree / "quped_jax").rglob("*.py"))
    self.functions = [f for path in paths for f in _functions(path)]
    moved = load("moved.json")
    self._renamed: dict[str, str] = moved["renamed"]
    self._restated: dict[str, dict[str, Any]] = moved["restated"]
    self._named = collections.defaultdict(list)
    self._stating = collections.defaultdict(list)
    for function in self.functions:
      self._named[function.name.rpartition(".")[2]].append(function)
      for text in {text for text, _ in function.statements}:
        self._stating[text].append(function)

  def forms(self, mutant: Mutant) -> list[Mutant]:
    """A mutant as it may read by now, the newest first."""
    names = "|".join(map(re.escape, self._renamed)) or "(?!)"
    new = functools.partial(
      re.sub, rf"\b(?:{names})\b", lambda match: self._renamed[match[0]]
    )
    renamed = mutant._replace(
      **{
        field: new(getattr(mutant, field))
        for field in ("function", "statement", "before", "after")
      }
    )
    restated = renamed._replace(**self._restated.get(mutant.id, {}))
    return list(dict.fromkeys((restated, renamed, mutant)))

  def find(self, mutant: Mutant) -> tuple[Mutant, Found] | None:
    """Looks for a mutant's place, which must be the only one.

    First in the function of its name; then in one whose name ends in the same
    way, such as a function that moved into a class; then wherever its statement
    is.

    Returns:
      The mutant as it reads by now, and its place; None if it is lost.
    """
    forms = [
      form._replace(
        statement=_normal(form.statement), before=_normal(form.before)
      )
      for form in self.forms(mutant)
    ]
    for how in (self._by_name, self._by_last_name, self._by_statement):
      for form in forms:
        places = [
          Found(function.path, nodes[form.occurrence])
          for function in how(form)
          for nodes in [_matching(function, form)]
          if len(nodes) > form.occurrence
        ]
        if len(places) == 1:
          return form, places[0]
    return None

  def _by_name(self, mutant):
    return [f for f in self._by_last_name(mutant) if f.name == mutant.function]

  def _by_last_name(self, mutant):
    return self._named[mutant.function.rpartition(".")[2]]

  def _by_statement(self, mutant):
    if len(mutant.statement) < _TELLING:
      return []
    return self._stating[mutant.statement]


def _matching(function: Function, mutant: Mutant) -> list[ast.AST]:
  return [
    node
    for text, nodes in function.statements
    if text == mutant.statement
    for node in nodes
    if ast.unparse(node) == mutant.before
  ]


@functools.lru_cache(4)
def _dump(source: str) -> str:
  return ast.dump(ast.parse(source))


def apply(mutant: Mutant, found: Found) -> str:
  """The file's source with the change.

  Args:
    mutant: as it reads by now.
    found: its place.

  Raises:
    ValueError: the change changes nothing.
    SyntaxError: the change cannot be parsed.
  """
  source = found.path.read_text()
  # Columns count bytes.
  lines = source.encode().splitlines(keepends=True)
  node: Any = found.node

  def offset(line, column):
    return sum(map(len, lines[: line - 1])) + column

  whole = b"".join(lines)
  start = offset(node.lineno, node.col_offset)
  end = offset(node.end_lineno, node.end_col_offset)
  expression = isinstance(node, ast.expr)
  after = f"({mutant.after})" if expression else mutant.after
  changed = (whole[:start] + after.encode() + whole[end:]).decode()
  if ast.dump(ast.parse(changed)) == _dump(source):
    raise ValueError(f"{mutant.id}: changes nothing")
  return changed
