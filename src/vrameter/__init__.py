"""How much GPU memory a model needs, whether it fits, and why."""
