"""Training: data, MuonClip, parallelism, the trainer and its stages."""
