"""Checkpoints: the released Hugging Face layout, INT4, streaming load and save."""

from k25.checkpoint.load import load_model
from k25.checkpoint.save import save_model

__all__ = ["load_model", "save_model"]
