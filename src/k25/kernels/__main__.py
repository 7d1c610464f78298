"""`python -m k25.kernels`: compile the kernels now and say what runs here."""

from k25.kernels.variants import available

found = available()
print(f"{found.variant} ({found.reason}); runs here: {', '.join(found.variants)}")  # noqa: T201
