"""Descriptors: plain JAX functions of positions. Import what you need; write your own the same way."""

from descriptors.distances import exponential_distances, inverse_distances, powered_distances

__all__ = ["exponential_distances", "inverse_distances", "powered_distances"]
