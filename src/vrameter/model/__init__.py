"""What a model is: layers as data, tensors, formats."""
