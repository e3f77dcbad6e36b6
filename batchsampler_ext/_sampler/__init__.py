"""Parts of a sampler: its instances, its plans and its position in the epoch. Private."""
