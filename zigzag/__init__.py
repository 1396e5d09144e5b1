"""Fused CPU and GPU kernels for ZigZagNet's feature-pyramid neck.

`zigzag.nn` holds the modules, `zigzag.ops` the operations under them, `zigzag.reference` the same in stock
PyTorch. `zigzag.backends()` says what can run here and, where something cannot, why.
"""

from zigzag import nn, ops, reference
from zigzag.backends import backends, use_backend

__version__ = "0.1.0"

__all__ = ["__version__", "backends", "nn", "ops", "reference", "use_backend"]
