"""The memory terms, one module each: pure functions from whole numbers to bytes."""
