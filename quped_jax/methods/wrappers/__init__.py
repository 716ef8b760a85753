"""Wrappers of methods: robust averages, privacy, and Byzantine clients."""
