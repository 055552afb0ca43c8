"""Diffusion models: pipelines of a denoiser, text encoders and an autoencoder, as diffusers stores them."""
