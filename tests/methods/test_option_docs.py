"""What options mean, as their docstrings say it."""

from quped_jax.methods import option_docs


class Base:
  """Options.

  Attributes:
    first: of the base.
    second: over
      two lines: both.
  """


class Own(Base):
  """More options.

  Attributes:
    first: of its own.
  """


class Bare(Own):
  pass


def test_docstrings_of_bases_count_and_the_last_one_wins():
  expected = {"first": "of its own.", "second": "over two lines: both."}
  assert option_docs.meanings(Own) == expected
  assert option_docs.meanings(Bare) == expected
  assert option_docs.meanings(int) == {}
