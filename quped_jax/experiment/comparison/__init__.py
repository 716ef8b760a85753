"""Comparisons of methods: what to run, running it, tables, figures, tuning."""
