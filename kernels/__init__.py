"""Numba kernels: arrays in, arrays out. Nothing here knows torch, files or streams."""

# transformers probes a package of this name for its version and fails when there is none.
__version__ = "0.0.0"
