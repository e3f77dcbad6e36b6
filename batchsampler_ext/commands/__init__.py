"""The commands of ``python -m batchsampler_ext``, one file each: ``add_parser`` and ``run``."""
