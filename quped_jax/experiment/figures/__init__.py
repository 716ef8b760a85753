"""Figures of a run, and the look of all figures."""
