"""Command lines over quped_jax; run from the checkout as modules."""
