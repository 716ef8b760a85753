from tests import tiny
def test_a():
  t = tiny.tiny("local")
  s = t.play(2)
  assert t.simulation.program.compilations == 1
  print(tiny.midpoint_margin(s.clients["clients"].params, s.clients["clients"].codebooks))
  print(jax.tree.structure(s)) if 0 else None
