"""Building blocks that federated methods share."""
