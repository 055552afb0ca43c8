"""Programs of image models, by the library whose modules they stand for."""
