"""Geometries as the content of an extended xyz file, to be written whole."""

from __future__ import annotations

import io
from collections.abc import Sequence

import ase.io
from ase import Atoms


def extended_xyz(images: Sequence[Atoms]) -> bytes:
    """The content of an extended xyz file, with all that the images hold, Å."""
    text = io.StringIO()
    ase.io.write(text, list(images), format="extxyz")
    return text.getvalue().encode()
