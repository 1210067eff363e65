"""A fit on the devices that this process sees, as a process of its own: `shared_fit.py OUT [HOST:PORT PROCESS PROCESSES]`."""

import pathlib
import sys

import jax
import numpy as np
from test_linear_system import KERNELS, system_of

import mlff
from mlff.data.batches import LabelledFrames
from mlff.regression.devices import shared_rows
from mlff.regression.devices.mesh import Devices

ROWS = 40  # of a tile, so that all devices have several
NAMES = ("images computed anew", "sum")  # of kernels


def solved(kernel, devices=None) -> np.ndarray:
    """C⁻¹ y and C y, of molecules with energies and forces, of which some have energies alone."""
    data = mlff.Dataset.read(pathlib.Path(__file__).parent.parent / "datasets" / "water.extxyz", index="::5")
    bare = [mlff.Frame(frame.system, {"energy": frame.labels["energy"]}) for frame in data[60:64]]
    system = system_of(kernel, LabelledFrames.of(mlff.Dataset([*data[:60], *bare])))
    shared = shared_rows.SharedRows.of(system.features, Devices.of(devices))
    labels = (system.labels - system.labels.mean())[:, None]
    product = shared.product(system.shares, labels)
    return np.column_stack([shared.factorised(system).solve(labels), product])


def fitted(process: int = 0) -> np.ndarray:
    """Forces of a model whose length scale was searched; what other processes tuned is what the first one did."""
    data = mlff.Dataset.read(pathlib.Path(__file__).parent.parent / "datasets" / "water.extxyz", index="::5")
    force_field = mlff.fit(
        KERNELS["global"].replace(radial=mlff.Matern52()), data[:40], noise=1e-3 * (1 + 1e-6 * process), devices="all"
    )
    return force_field.forces(data[50].system.positions)


def refused(process: int) -> list[str]:
    """What all processes say where they were given other frames, or other options."""
    data = mlff.Dataset.read(pathlib.Path(__file__).parent.parent / "datasets" / "water.extxyz", index="::5")
    kernel, said = mlff.GlobalKernel(KERNELS["global"].descriptor.function, mlff.Matern52(lengthscale=3.0)), []
    for frames, noise in ((data[process : 10 + process], 1e-3), (data[:10], 1e-3 * (1 + process))):
        try:
            mlff.fit(kernel, frames, noise=noise, devices="all")
        except ValueError as error:
            said.append(str(error))
    return said


if __name__ == "__main__":
    if sys.argv[2:]:
        jax.distributed.initialize(sys.argv[2], int(sys.argv[4]), int(sys.argv[3]))
    shared_rows.TILE_ROWS = ROWS
    found = {name: solved(KERNELS[name], "all") for name in NAMES}
    if sys.argv[2:]:
        assert ["the processes were not asked for the same" in said for said in refused(jax.process_index())] == [
            True,
            True,
        ]
    np.savez(sys.argv[1], fit=fitted(jax.process_index()), devices=len(jax.devices()), **found)
