"""``python -m batchsampler_ext demo``: SimCLR with uniform, kNN and proximity batches. Needs the ``demo`` extra."""
