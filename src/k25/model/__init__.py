"""The K2.5 network: text decoder, vision tower, projector. Pure PyTorch, one definition for training and inference."""
