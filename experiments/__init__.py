"""The commands of quped_jax; run them as modules, from the checkout."""
