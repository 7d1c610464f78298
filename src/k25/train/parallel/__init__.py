"""Parallelism, applied from outside in one visible order: the model's files know nothing of it."""
