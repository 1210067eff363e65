"""Descriptors: plain JAX functions of positions. Import what you need; write your own the same way."""

from descriptors.acsf import acsf
from descriptors.coulomb import coulomb_matrix, coulomb_spectrum, sorted_coulomb_matrix
from descriptors.distances import (
    exponential_distances,
    inverse_distances,
    logarithmic_distances,
    periodic_distances,
    powered_distances,
)
from descriptors.fchl19 import fchl19
from descriptors.mbdf import mbdf
from descriptors.schnet import schnet_features
from descriptors.soap import soap

__all__ = [
    "acsf",
    "coulomb_matrix",
    "coulomb_spectrum",
    "exponential_distances",
    "fchl19",
    "inverse_distances",
    "logarithmic_distances",
    "mbdf",
    "periodic_distances",
    "powered_distances",
    "schnet_features",
    "soap",
    "sorted_coulomb_matrix",
]
