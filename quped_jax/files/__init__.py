"""Files: checkpoints, weights and packed models."""
