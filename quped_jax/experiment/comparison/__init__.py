"""Parts of `experiments.compare`: what to run, running it, tables, figures."""
