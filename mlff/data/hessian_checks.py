"""What must hold of Hessian labels: symmetry, and how they act on rotations, which the forces say.

The energy does not change when a molecule is turned, and its gradient g turns along. Differentiating g(R x) = R g(x) with
respect to the angle gives, for the rotation about any axis e,

    H (e × x) = e × g

Programs that project rotations out of Hessians give 0 there instead.
"""

from __future__ import annotations

import logging

import numpy as np

from mlff.data.batches import LabelledFrames

logger = logging.getLogger(__name__)

TOLERANCE = 0.5  # of the expected size of H on rotations: noise of a reference is less, a projection is all of it
NOISE = 1e-3  # share of the size of H below which its action on rotations says nothing
ASYMMETRY = 1e-3  # of the largest entry


def require_unprojected(frames: LabelledFrames) -> None:
    """Refuse Hessians that are not the second derivatives of an energy with these forces.

    Frames with forces and complete Hessians, without a cell, are looked at; the verdict is that of most of them.

    Raises:
        ValueError: Hessians are not symmetric, or free of rotations, or the forces have the wrong sign; with what to do.
    """
    verdicts = {"projected": 0, "turned": 0, "right": 0}
    for batch in frames.having("hessian").batches:
        size = batch.positions[0].size
        for i, hessian in enumerate(batch.labels["hessian"].reshape(len(batch), size, size)):
            given = ~np.isnan(hessian) & ~np.isnan(hessian.T)
            if not given.any():
                continue
            asymmetry = np.abs(np.where(given, hessian - hessian.T, 0.0)).max()
            if not asymmetry <= ASYMMETRY * np.nanmax(np.abs(hessian)):
                raise ValueError(
                    f"labels: the Hessian of frame {batch.index[i]} is not symmetric (by {asymmetry:.2g} eV/Å²); "
                    "converge its finite differences, or symmetrise it"
                )
            if "forces" in batch.labels and given.all() and not batch.pbc[i].any():
                verdict = _verdict(batch.positions[i], batch.labels["forces"][i], hessian)
                if verdict:
                    verdicts[verdict] += 1
    most = max(verdicts, key=verdicts.get)
    if most == "right" or not verdicts[most]:
        return
    if most == "projected":
        raise ValueError(
            f"labels: {verdicts[most]} Hessians do not act on rotations as their forces say (H (e × x) = e × g), but give "
            "zero: rotations were projected out of them. Project the model alike: in place of 'hessian' give "
            "mlff.projected_hessian(), with masses= if the projection was in mass-weighted coordinates"
        )
    raise ValueError(
        f"labels: {verdicts[most]} Hessians act on rotations as if the forces had the other sign (H (e × x) = −e × g): "
        "are they gradients? Change their sign"
    )


def _verdict(x: np.ndarray, forces: np.ndarray, hessian: np.ndarray) -> str | None:
    """What the action on rotations shows: "right", "projected", "turned", or nothing."""
    centred = x - x.mean(axis=0)
    actual = np.stack([hessian @ np.cross(axis, centred).ravel() for axis in np.eye(3)])
    expected = np.stack([np.cross(axis, -forces).ravel() for axis in np.eye(3)])
    size = np.linalg.norm(expected)
    if size < NOISE * np.linalg.norm(hessian) * np.linalg.norm(centred) / len(x) ** 0.5 / 3:
        return None  # near a stationary point all of them agree
    distances = {
        name: np.linalg.norm(actual - k * expected) for name, k in (("right", 1), ("projected", 0), ("turned", -1))
    }
    nearest = min(distances, key=distances.get)
    return nearest if distances[nearest] < TOLERANCE * size else None
