"""config.json -> Architecture, one module per kind of network."""
