"""Checkpoints: the released Hugging Face layout, INT4, streaming load, save and conversion.

Read in this order: layout, spellings, safetensors_file, config_json (and config_write), folder, load, writer, save,
convert; summary counts, source finds folders.
"""

from k25.checkpoint.load import load_model
from k25.checkpoint.save import save_model

__all__ = ["load_model", "save_model"]
