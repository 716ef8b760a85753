"""Wrappers: robust averages, privacy, Byzantine clients, compression."""
