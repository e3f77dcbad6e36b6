"""What a sampler is made of: its instances, its plans, its place in the epoch. Private."""
