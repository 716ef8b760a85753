"""Quantization: codebooks, quantizers, proximal maps, training steps."""
