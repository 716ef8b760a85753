"""Simulation: a federation's rounds, compiled and run."""
