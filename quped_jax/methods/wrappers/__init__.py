"""Wrappers, which turn a method into another: robust averages, privacy."""
