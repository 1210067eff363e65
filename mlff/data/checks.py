"""What must hold of reference frames: finite, apart, no duplicates, forces that fit the energies."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist

from mlff.data.frames import Frame
from mlff.data.identity import copies, twins
from mlff.units import COVALENT_RADII, HEAVIEST, symbols

logger = logging.getLogger(__name__)

SLOPE_FRAMES = 400  # frames whose neighbours are looked at
SYMMETRIC = 1e-3  # of the largest entry of a stress, to which it is its own transpose
COINCIDENT = 0.1  # Å; nearer atoms are an error of the file
CLOSE = 0.65  # of the sum of covalent radii; nearer atoms are no bond
SLOPE_TOLERANCE = 0.25
SPREAD = 0.6  # of what frames that are far apart give: quartiles that are so near to each other are those of one factor


def check_frame(where: str, frame: Frame, doubtful: Collection[str] = ()) -> None:
    """Refuse a frame that is not finite, whose atoms are none, or of which two coincide.

    Arguments:
        where: names file and frame.
        doubtful: labels that are not looked at.
    Raises:
        ValueError: beginning with `where`.
    """
    if not np.isfinite(frame.positions).all() or not np.isfinite(frame.cell).all():
        atom = next(iter(np.argwhere(~np.isfinite(frame.positions))[:, 0].tolist()), None)
        what = "the cell" if atom is None else f"the position of atom {atom}"
        raise ValueError(f"{where}: {what} is not finite; remove the frame or mend the file")
    if not len(frame.numbers):
        raise ValueError(f"{where}: has no atoms; remove the frame")
    if not ((frame.numbers >= 1) & (frame.numbers <= HEAVIEST)).all():
        atom = int(np.argmin((frame.numbers >= 1) & (frame.numbers <= HEAVIEST)))
        raise ValueError(f"{where}: atom {atom} has the atomic number {frame.numbers[atom]}, which is no element")
    for name, value in frame.labels.items():
        # NaN stands for entries of a Hessian that were not calculated
        missing = np.isnan(value) if name == "hessian" else np.zeros(np.shape(value), dtype=bool)
        finite = np.isfinite(value)[~missing].all() and not (missing.all() and missing.size)
        if name not in doubtful and not finite:
            raise ValueError(f"{where}: {name} is not finite; remove the frame or repeat its calculation")
    stress = np.asarray(frame.labels.get("stress", np.zeros((3, 3))))
    if "stress" not in doubtful and (lopsided := np.abs(stress - stress.T).max()) > SYMMETRIC * np.abs(stress).max():
        raise ValueError(
            f"{where}: stress is not symmetric (entries across the diagonal differ by {lopsided:.3g} eV/Å³); is it the order "
            "of its components? Mend the file, or leave stress out of labels"
        )
    try:
        charge = frame.charge
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not np.isfinite(charge):
        raise ValueError(f"{where}: its total charge is not finite; mend the file")
    if len(frame.numbers) > 1 and not frame.system.pbc.any():
        distances = cdist(frame.positions, frame.positions)
        np.fill_diagonal(distances, np.inf)
        a, b = np.unravel_index(np.argmin(distances), distances.shape)
        if distances[a, b] < COINCIDENT:
            raise ValueError(
                f"{where}: atoms {min(a, b)} and {max(a, b)} are {distances[a, b]:.3g} Å apart; are the units right? "
                "(say units='…/bohr' or '…/nm' where positions are not in Å)"
            )


def check_duplicates(frames: Sequence[Frame], indices, source: str) -> None:
    """Refuse two frames of one geometry.

    Raises:
        ValueError: naming both frames.
    """
    first = twins(frames)
    for i, j in enumerate(first):
        if j < i:
            raise ValueError(
                f"{source}: frame {indices[i]} repeats the geometry of frame {indices[j]}; remove one of them "
                "(labels that differ on one geometry cannot both be right)"
            )


def warn_of_copies(frames: Sequence[Frame], source: str) -> None:
    """Log a warning where frames are others moved, turned or inverted as a whole.

    They are no error: finite displacements of a planar molecule out of its plane are such copies of each other. But they say
    nothing new, and as test frames they are training frames.
    """
    first = copies(frames)
    moved = np.flatnonzero((first < np.arange(len(frames))) & (twins(frames) == np.arange(len(frames))))
    if len(moved):
        logger.warning(
            "%s: %d of its %d frames repeat the geometry of others, moved or turned (the first is the one in place %d, of the one in "
            "place %d): remove them, unless they are finite displacements",
            source, len(moved), len(frames), moved[0], first[moved[0]],
        )  # fmt: skip


def warn_of_close_atoms(frames: Sequence[Frame], source: str) -> None:
    """Log a warning where in most molecules two atoms are nearer than any bond is long: positions are in another unit than was
    said, as those in Å are when they are read as bohr."""
    isolated = [i for i, frame in enumerate(frames) if len(frame.numbers) > 1 and not frame.system.pbc.any()]
    isolated = isolated[:: max(1, len(isolated) // SLOPE_FRAMES)]
    close = [closest for i in isolated if (closest := _closest_by_radii(frames[i]))[-1] < CLOSE]
    if 2 * len(close) > len(isolated):
        pair, distance, share = close[0]
        logger.warning(
            "%s: in %d of %d molecules atoms are nearer than a bond is long (the first: %s at %.2f Å, %.2f of the sum of their "
            "covalent radii): are the units right? Positions are in the length that units= names",
            source, len(close), len(isolated), pair, distance, share,
        )  # fmt: skip


def _closest_by_radii(frame: Frame) -> tuple[str, float, float]:
    """The pair of atoms that is nearest in units of the sum of its covalent radii: its elements, distance (Å), and this share."""
    radii = COVALENT_RADII[frame.numbers]
    first, second = np.triu_indices(len(radii), k=1)
    distances = pdist(frame.positions)
    shares = distances / (radii[first] + radii[second])
    k = int(np.argmin(shares))
    pair = "–".join(symbols(frame.numbers[[first[k], second[k]]]))
    return pair, float(distances[k]), float(shares[k])


def force_energy_slope(frames: Sequence[Frame]) -> tuple[float, float, float]:
    """How energies follow forces: the median over neighbouring frames of ΔE / (−½ (F + F′)·Δx).

    Neighbours are nearest by their distance matrices; the second is rotated onto the first. The median is weighted by
    the predicted difference. 1 when energies and forces are consistent, −1 when forces point up the energy, a ratio of
    units when those differ.

    Returns:
        the median and the quartiles of the ratios, (slope, lower, upper): frames that are far apart give wide ones.
        NaN when frames are too few (below 20), periodic, mixed, or lack a label.
    """
    nothing = (np.nan, np.nan, np.nan)
    alike = len({frame.numbers.tobytes() for frame in frames}) == 1 and len(frames[0].numbers) > 1
    labelled = all({"energy", "forces"} <= set(frame.labels) for frame in frames)
    if len(frames) < 20 or not alike or not labelled or any(frame.system.pbc.any() for frame in frames):
        return nothing
    positions = np.stack([frame.positions for frame in frames])
    energies, forces = (np.stack([frame.labels[name] for frame in frames]) for name in ("energy", "forces"))
    first, second = np.triu_indices(positions.shape[1], k=1)
    distances = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), SLOPE_FRAMES)).astype(int)
    apart = cdist(distances[chosen], distances)
    apart[np.arange(len(chosen)), chosen] = np.inf
    measured, predicted = [], []
    for i, j in zip(chosen, np.argmin(apart, axis=1), strict=True):
        start, end = positions[i] - positions[i].mean(axis=0), positions[j] - positions[j].mean(axis=0)
        u, _, vt = np.linalg.svd(end.T @ start)
        u[:, -1] *= np.sign(np.linalg.det(u @ vt))
        rotation = u @ vt
        mean_force = 0.5 * (forces[i] + forces[j] @ rotation)
        predicted.append(-np.sum(mean_force * (end @ rotation - start)))
        measured.append(energies[j] - energies[i])
    measured, predicted = np.array(measured), np.array(predicted)
    useful = np.abs(predicted) > 0
    if not useful.any():
        return nothing
    ratios, weights = measured[useful] / predicted[useful], np.abs(predicted[useful])
    order = np.argsort(ratios)
    share = np.cumsum(weights[order]) / weights.sum()
    lower, slope, upper = ratios[order][np.searchsorted(share, [0.25, 0.5, 0.75])]
    return float(slope), float(lower), float(upper)


def warn_of_slope(frames: Sequence[Frame], source: str) -> None:
    """Log a warning with the measured slope where forces and energies do not fit together.

    Frames that are far apart tell nothing: their forces predict differences p = ΔE + e with an error e, and the ratios ΔE/p lie
    about s = Var(ΔE)/Var(p), anywhere between 0 and 1. For normal distributions their deviation is √(s(1 − s)) √Var(p)/|p|, and
    as the weights |p| prefer 1.5 √Var(p), their quartiles are 0.9 √(s(1 − s)) apart. Another unit is one factor for all frames;
    and neither a sign nor ratios above 1 come from such errors.
    """
    slope, lower, upper = force_energy_slope(frames)
    least, most = 1.0 - SLOPE_TOLERANCE, 1.0 + SLOPE_TOLERANCE
    impossible = upper < -SLOPE_TOLERANCE or lower > most
    errors = 0.9 * np.sqrt(max(0.0, abs(slope) * (1.0 - abs(slope))))
    if not (impossible or (upper < least and upper - lower <= SPREAD * errors)):
        return
    cause = (
        "the forces point up the energy: are they gradients? Change their sign"
        if lower <= -least and upper >= -most
        else "do energies and forces have the units that were stated, and belong to one method?"
    )
    logger.warning(
        "%s: between neighbouring frames the energy changes by %.3g times what the forces say (median; quartiles %.3g "
        "and %.3g; expected 1); %s", source, slope, lower, upper, cause,
    )  # fmt: skip
