"""K25: the whole Kimi K2.5 system as open, practical Python. Start at the README's picture of the house."""

__version__ = "0.1.0"
