"""What bank, graphs and walks cost a training step: the work behind ``python -m batchsampler_ext bench``."""
