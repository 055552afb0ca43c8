"""Image models of timm 1.0 [1]_.

References
----------
.. [1] R. Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models, Apache-2.0.
"""
