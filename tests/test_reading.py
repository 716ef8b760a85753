"""Text, JSON and CSV are read strictly, or refused."""

import os
import threading

import pytest

from quped_jax import reading


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "Expecting value"),
    ("[" * 100_000, "nested too deeply"),
    ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ('{"a":' * 33 + "1" + "}" * 33, "nested too deeply"),
    ('{"a": 1, "b": 2, "a": 1}', "'a': must be given only once"),
    ('[{"b": {"a": 1, "a": 1}}]', "'a': must be given only once"),
    ("NaN", "NaN is no number"),
    ("[-Infinity]", "-Infinity is no number"),
    ("1e999", "'1e999' is too large a number"),
    ("9" * 5000, "limit"),
    ("1 2", "Extra data"),
    (b"\xff", "decode"),
  ],
)
def test_what_is_no_json_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    reading.parse_json(text)


def test_json_says_what_it_says():
  assert reading.parse_json("[" * 32 + "]" * 32)
  assert reading.parse_json('{"a": [1, 1.5, true, null, "x"]}') == {
    "a": [1, 1.5, True, None, "x"]
  }
  assert str(reading.parse_json("[NaN, 1e999]", nan=True)) == "[nan, inf]"
  deep = reading.parse_json("[" * 100 + "]" * 100, depth=None)
  assert len(deep) == 1


def test_many_keys_are_compared_quickly():
  """Not each with all others."""
  names = [str(i) for i in range(200_000)]
  text = "{" + ",".join(f'"{name}":1' for name in [*names, names[-1]]) + "}"
  with pytest.raises(ValueError, match="'199999': must be given only once"):
    reading.parse_json(text)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
  with pytest.raises(ValueError, match="it has more than 5,000,000 bytes"):
    reading.read_text("/dev/zero", most=5_000_000)
  (tmp_path / "text").write_bytes(b"\xef\xbb\xbf12345")
  assert reading.read_text(tmp_path / "text", most=8) == "12345"
  with pytest.raises(ValueError, match="more than 7 bytes"):
    reading.read_text(tmp_path / "text", most=7)


def test_a_pipe_is_read(tmp_path):
  """Such as those of a shell, <(command)."""
  path = tmp_path / "pipe"
  os.mkfifo(path)
  writer = threading.Thread(target=lambda: path.write_text("[1]"))
  writer.start()
  assert reading.read_json(path) == [1]
  writer.join()


def test_lines_of_json_say_where_they_are_wrong(tmp_path):
  path = tmp_path / "lines"
  path.write_text('{"a": 1}\n[2]\n')
  assert reading.read_json_lines(path) == [{"a": 1}, [2]]
  path.write_text('{"a": 1}\n{"a"\n')
  with pytest.raises(ValueError, match="^line 2: Expecting"):
    reading.read_json_lines(path)


def test_rows_are_named_by_the_first_line(tmp_path):
  path = tmp_path / "table.csv"
  path.write_text('a,b\r\n1,"2\n3"\n\n4,\n', newline="")
  assert reading.read_csv(path, ("a",)) == [
    ("line 3", {"a": "1", "b": "2\n3"}),
    ("line 5", {"a": "4", "b": ""}),
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "must have the columns a,b, each once; got none"),
    ("a\n1", "must have the columns a,b, each once; got 'a'"),
    ("a,b,b\n1,2,3", "must have the columns a,b, each once; got 'a,b,b'"),
    ("a,b\n1", "line 2: must have 2 entries; got 1"),
    ("a,b\n1,2,3", "line 2: must have 2 entries; got 3"),
    ('a,b\n1,"2', "line 2: unexpected end of data"),
    ('a,b\n1,"2"3', "line 2: .*expected after"),
    ("a,b\n1," + "2" * 200_000, "line 2: field larger than"),
  ],
)
def test_what_is_no_table_is_refused(text, message, tmp_path):
  (tmp_path / "table.csv").write_text(text)
  with pytest.raises(ValueError, match=message):
    reading.read_csv(tmp_path / "table.csv", ("a", "b"))


def test_errors_name_the_file_in_one_line():
  def raised(error, **how):
    with pytest.raises(Exception) as caught, reading.naming("x", "y", **how):
      raise error
    return caught.value

  assert str(raised(ValueError("a\nb"))) == "x: must be y (a b)"
  assert str(raised(MemoryError())) == "x: must be y (MemoryError)"
  assert str(raised(OSError(13, "Denied", "z"))) == "x: must be y (Denied)"
  gone = FileNotFoundError(2, "Gone", "z")
  assert str(raised(gone)) == "x: must be y (Gone)"
  assert raised(gone, absent=True) is gone
  assert isinstance(raised(KeyError("a")), KeyError)
  assert str(raised(ValueError("a" * 300))) == f"x: must be y ({'a' * 300})"
  assert str(raised(ValueError("a" * 301))) == f"x: must be y ({'a' * 300}...)"


def test_a_long_or_deep_value_is_shown_in_part():
  deep = []
  for _ in range(100_000):
    deep = [deep]
  assert reading.shown(deep) == "[[[...]]]"
  assert len(reading.shown("x" * 1000)) < 110
  assert reading.shown("params/first/kernel") == "'params/first/kernel'"
