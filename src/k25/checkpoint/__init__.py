"""Checkpoints: the released Hugging Face layout, INT4, streaming load and save."""
