"""The tables of docs/RESULTS.md: what is run for them, kept, and shown."""
