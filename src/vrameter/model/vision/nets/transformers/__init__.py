"""Image models of transformers 5.23, under the names of its own parameters."""
