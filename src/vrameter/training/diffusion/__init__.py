"""A training step of a diffusion pipeline."""
