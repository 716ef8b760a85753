"""What federated methods share."""
