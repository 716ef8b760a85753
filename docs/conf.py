"""How the site is built from these pages and the docstrings: `make docs`.

Nothing is fetched: formulas become MathML, which browsers draw by themselves.
"""

import inspect
import re

from docutils import nodes, utils
from docutils.parsers.rst import roles
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

import quped_jax

project = "quped_jax"
copyright = "The quped_jax authors"
version = release = quped_jax.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath"]
# Anchors of headings are those of GitHub, as the links between pages have them.
myst_heading_anchors = 3
# The README, which is the first page, begins with the title of all.
suppress_warnings = ["myst.header"]

# What is in single backticks in a docstring is code, or a name to link to.
default_role = "code_or_name"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72

html_theme = "furo"
html_title = f"quped_jax {version}"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False

NAMES = set(quped_jax.__all__)
# What settings and arguments are called too: docstrings may mean these.
AMBIGUOUS = {"callbacks", "data", "methods", "models", "partition"}


# Files beside the README, which are not on the site.
OUTSIDE = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}


def link(name, text):
  """A reference to a public name, that shows the text as code."""
  reference = addnodes.pending_xref(
    "",
    nodes.literal(text, text),
    refdomain="py",
    reftype="obj",
    reftarget=f"quped_jax.{name}",
    refexplicit=True,
    refwarn=False,
  )
  reference["py:module"] = reference["py:class"] = None
  return reference


def code_or_name(
  role, rawtext, text, lineno, inliner, options=None, content=()
):
  """What single backticks mean in a docstring."""
  del role, lineno, inliner, options, content
  shown = utils.unescape(text, restore_backslashes=True)
  named = shown.removeprefix("qj.")
  known = shown != named or named not in AMBIGUOUS
  if known and named in NAMES:
    return [link(named, shown)], []
  return [nodes.literal(rawtext, shown)], []


class LinkNames(SphinxPostTransform):
  """Links `qj.NAME` in the pages to what the page of the API says of it."""

  default_priority = 5  # Before references are resolved.

  def run(self, **kwargs):
    """Replaces the code that names something public."""
    del kwargs
    for node in list(self.document.findall(nodes.literal)):
      found = re.fullmatch(r"qj\.(\w+)(\(.*\))?", node.astext())
      inside = isinstance(node.parent, (addnodes.pending_xref, nodes.reference))
      if found and found[1] in NAMES and not inside:
        node.replace_self(link(found[1], node.astext()))


class NameFiles(SphinxPostTransform):
  """Names the files that are not on the site, instead of linking to them."""

  default_priority = 5  # Before references are resolved.

  def run(self, **kwargs):
    """Leaves the text of such links."""
    del kwargs
    for node in list(self.document.findall(addnodes.pending_xref)):
      if node["reftarget"] in OUTSIDE:
        node.replace_self(node.children)


def mathml(node, **how):
  """A formula as MathML, whose brackets are as large as they need to be."""
  tex = re.sub(r"\\[bB]ig(?![a-zA-Z])", "", node.astext())
  return latex2mathml.tex2mathml(tex, **how)


def draw_math(self, node):
  """Writes a formula of a line."""
  self.body.append(mathml(node))
  raise nodes.SkipNode


def draw_math_block(self, node):
  """Writes a formula that stands by itself."""
  self.body.append(mathml(node, as_block=True))
  raise nodes.SkipNode


def short_signature(app, what, name, thing, options, signature, returns):
  """Leaves out the fields of a class, which its attributes describe."""
  del app, name, options, signature, returns
  documented = "Attributes:" in (inspect.getdoc(thing) or "")
  return ("(...)", None) if what == "class" and documented else None


def within_the_site(app, docname, source):
  """Links to the README lead to the first page, which has its text."""
  del app, docname
  source[0] = source[0].replace("](../README.md", "](index.md")


def setup(app):
  """Called by sphinx."""
  roles.register_local_role("code_or_name", code_or_name)
  app.add_html_math_renderer(
    "mathml",
    inline_renderers=(draw_math, None),
    block_renderers=(draw_math_block, None),
  )
  app.add_post_transform(LinkNames)
  app.add_post_transform(NameFiles)
  app.connect("autodoc-process-signature", short_signature)
  app.connect("source-read", within_the_site)
