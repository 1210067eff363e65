"""Frames: labels to ASE and back, fingerprints of geometries."""

import numpy as np

import mlff


def test_to_ase_keeps_the_labels(water):
    atoms = water[0].to_ase()
    assert atoms.info["REF_energy"] == float(water[0].labels["energy"])
    np.testing.assert_array_equal(atoms.arrays["REF_forces"], water[0].labels["forces"])


def test_fingerprints_are_of_the_geometry(water):
    frame = water[0]
    relabelled = mlff.Frame(frame.system, {})
    moved = mlff.Frame(frame.system.replace(positions=frame.positions + 1e-12), frame.labels)
    assert relabelled.fingerprint() == frame.fingerprint()
    assert moved.fingerprint() != frame.fingerprint()
