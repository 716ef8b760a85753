"""A table as text: terminal, Markdown, HTML, LaTeX."""

import html.parser

from quped_jax.experiment.comparison import sheet
from quped_jax.experiment.comparison.sheet import Cell, Sheet

TABLE = Sheet(
  ("method", "held-out", "minus a_b"),
  [
    [Cell("a_b"), Cell("9.5 (0.1)", best=True), Cell("")],
    [Cell("<50 %|x"), Cell("8"), Cell("-0.1 [-0.9, +0.8]")],
  ],
  title="Mean & more",
  notes=("held-out: 5 % of all",),
)


def test_plain_text_has_all_of_it_without_marks():
  lines = sheet.plain(TABLE, width=70).splitlines()
  assert lines[0] == "Mean & more" and lines[-1] == "held-out: 5 % of all"
  assert lines[2].split() == ["method", "held-out", "minus", "a_b"]
  assert lines[5].split()[:3] == ["<50", "%|x", "8"]
  assert "[-0.9, +0.8]" in lines[5] and "\x1b" not in "".join(lines)
  # Names are to the left, and numbers to the right.
  assert lines[4].startswith("a_b") and lines[5].endswith("+0.8]")


def test_a_narrow_terminal_has_columns_below_each_other():
  lines = sheet.plain(TABLE, width=30).splitlines()
  assert max(map(len, lines)) <= 30
  assert sum(line.startswith("a_b") for line in lines) == 2


def test_markdown_marks_the_best_and_keeps_cells_apart():
  lines = sheet.markdown(TABLE).splitlines()
  assert lines[0] == "| method | held-out | minus a_b |"
  assert lines[1] == "| --- | ---: | ---: |"
  assert lines[2] == "| a_b | **9.5 (0.1)** |  |"
  assert lines[3] == "| <50 %&#124;x | 8 | -0.1 [-0.9, +0.8] |"
  assert lines[5] == "- held-out: 5 % of all"
  broken = Sheet(("a", "b"), [[Cell("in\ntwo"), Cell("1")]])
  assert sheet.markdown(broken).splitlines()[2] == "| in two | 1 |"


def test_latex_says_what_is_meant():
  lines = sheet.latex(TABLE).splitlines()
  assert lines[:3] == [
    "% needs \\usepackage{booktabs}",
    "% Mean & more",
    "% held-out: 5 % of all",
  ]
  assert lines[3] == r"\begin{tabular}{lrr}"
  assert lines[5] == r"method & held-out & minus a\_b \\"
  assert lines[7] == r"a\_b & \textbf{9.5 (0.1)} &  \\"
  # A minus, and no hyphen; but a hyphen inside a word.
  assert lines[8] == r"$<$50 \%\textbar{}x & 8 & $-$0.1 [$-$0.9, +0.8] \\"
  assert lines[4::5][0] == r"\toprule" and lines[-2] == r"\bottomrule"


def test_latex_takes_no_character_for_a_command():
  found = sheet.escaped("\\~^&%$#_{}<>")
  assert found == (
    r"\textbackslash{}\textasciitilde{}\textasciicircum{}"
    r"\&\%\$\#\_\{\}$<$$>$"
  )
  row = sheet.latex(Sheet(("[a]",), [[Cell("*b")]])).splitlines()
  # They would be arguments of the line break before.
  assert r"{}[a] \\" in row and r"{}*b \\" in row


class Reader(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.rows, self.open = [], []

  def handle_starttag(self, tag, attrs):
    del attrs
    self.open.append(tag)
    if tag == "tr":
      self.rows.append([])

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "tr" in self.open:
      self.rows[-1].append((data, "b" in self.open))


def test_html_is_whole_and_has_the_same_cells():
  reader = Reader()
  reader.feed(sheet.to_html(TABLE))
  assert reader.open == []
  assert reader.rows == [
    [("method", False), ("held-out", False), ("minus a_b", False)],
    [("a_b", False), ("9.5 (0.1)", True)],
    [("<50 %|x", False), ("8", False), ("-0.1 [-0.9, +0.8]", False)],
  ]


def test_values_of_settings_are_short():
  assert sheet.value(0.1 + 0.2) == "0.3"
  assert sheet.value((1, 32)) == "1, 32"
  assert sheet.value("samples") == "samples"
