"""Estimators with latent weights, one file each."""
