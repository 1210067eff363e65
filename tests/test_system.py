"""Systems to and from ASE."""

import jax
import numpy as np
from ase.build import bulk

import mlff


def test_round_trip():
    atoms = bulk("Si", cubic=True)
    system = mlff.System.from_ase(atoms)
    back = system.to_ase()
    assert back == atoms
    assert len(system) == 8
    assert system.positions.dtype == np.float64


def test_is_a_pytree():
    system = mlff.System.from_ase(bulk("Si"))
    assert len(jax.tree.leaves(system)) == 4
    moved = system.replace(positions=system.positions + 1)
    assert not np.allclose(moved.positions, system.positions)
