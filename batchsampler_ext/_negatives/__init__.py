"""What may not meet in a batch, and which pairs count as negatives. Plans and the sampler share it."""
