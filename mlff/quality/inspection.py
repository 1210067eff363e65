"""Labels that do not fit the others': a wrong sign or unit, an unconverged calculation, atoms in another order.

Of frames of one molecule a Gaussian process predicts the labels of every frame from all others, in closed form. What is judged is how far
the labels are from that in units of what such predictions are uncertain by,

    s_j = a_jᵀ P_jj⁻¹ a_j/q_j,      r_j = P_jj⁻¹ a_j,  a = P y,  P = C⁻¹ − C⁻¹H (HᵀC⁻¹H)⁻¹ HᵀC⁻¹

relative to the median of all frames. One bad frame spoils the predictions of others, so the worst is taken out before the next is
looked for: P loses P_:j P_jj⁻¹ P_j:. Of crystals, and of several compositions, sparse models of four fifths of the frames predict the rest.

Source: Sundararajan, Keerthi, Neural Comput. 13, 1103 (2001), doi 10.1162/08997660151134343.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from mlff.arguments import checked_seed
from mlff.data.dataset import Dataset, require_dataset
from mlff.data.frames import Frame
from mlff.kernels.kernels import Kernel
from mlff.regression.exact import IndefiniteMatrix
from mlff.regression.fitting import fit
from mlff.regression.posterior import Posterior
from mlff.regression.recipes import PLAIN, RECIPES, default_recipe, recipe
from mlff.regression.requests import Request
from mlff.regression.solution import solve
from mlff.regression.validation import search_lengthscale

# Measured: 200 frames of ethanol, malonaldehyde and toluene, ten of them with planted faults, have 18.6 to 365 at those, and at most 17.2
# at one of the others; without any fault at most 13.9.
FLAGGED = 16.0
MATTERS = 0.05  # of the root mean square force (energies: times 1 Å); smaller differences are no mistakes
LONGER = 4.0  # times the length scale that was found with all frames
FEWEST = 20  # frames that tell what is usual
ROWS = 7000  # linear equations that are solved together
MOST = 0.2  # of the frames
FOLDS = 5
POINTS = 500  # of the sparse models
SIGN, UNIT, SWAPPED, ENERGY = -0.9, 0.98, 0.3, 1.0

Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A frame whose labels do not fit the others'.

    Attributes:
        index: of the frame in the data.
        score: s_j over the median.
        forces: root mean square difference from what other frames say, eV/Å; NaN without forces.
        energy: difference, eV; NaN without an energy.
        reason: what it looks like.
    """

    index: int
    score: float
    forces: float
    energy: float
    reason: str


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What an inspection found.

    Attributes:
        frames: how many were looked at.
        suspects: the worst first.
    """

    frames: int
    suspects: tuple[Suspect, ...]

    def to_json(self) -> dict:
        """As plain numbers and text."""
        return {"frames": self.frames, "suspects": [_plain(dataclasses.asdict(suspect)) for suspect in self.suspects]}

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text: frame, score, differences of forces (meV/Å) and energy (meV), what it looks like."""
        return [(str(s.index), f"{s.score:.0f}", _shown(s.forces), _shown(s.energy), s.reason) for s in self.suspects]

    def __str__(self) -> str:
        if not self.suspects:
            return f"{self.frames} frames, whose labels fit each other"
        named = ", ".join(f"{s.index} ({s.reason})" for s in self.suspects)
        return f"{self.frames} frames; labels of {len(self.suspects)} do not fit the others': {named}"


def inspect(data: Dataset, seed: int = 0, progress: Progress = lambda stage, share: None) -> Inspection:
    """Look for frames whose labels do not fit those of the others.

        print(mlff.inspect(mlff.Dataset.read("train.extxyz")))

    A frame that is named is no proof: the only one of its kind, far from all others, looks the same as one with a wrong label.

    Arguments:
        data: frames with forces, of which there should be 20 or more alike.
        seed: of how many frames are divided, where there are too many to look at together.
    Raises:
        ValueError: no forces, too few frames, or more than a fifth that fit no others.
    """
    require_dataset(data)
    seed = checked_seed(seed)
    if "forces" not in data.label_names:
        raise ValueError(f"inspect: {data.source or 'the data'} has no forces, which are what frames are judged by")
    if len(data) < FEWEST:
        raise ValueError(f"inspect: {len(data)} frames do not tell what is usual; it takes {FEWEST}")
    pieces = np.array_split(
        np.random.default_rng(seed).permutation(len(data)), -(-3 * len(data[0].numbers) * len(data) // ROWS)
    )
    chosen = RECIPES[default_recipe(data)[0]]
    if (
        not (chosen.whole or chosen.summed) or len(pieces[-1]) < FEWEST
    ):  # crystals, several compositions, large molecules
        found = _sparsely(data, seed, progress)
    else:
        found = []
        for k, piece in enumerate(np.sort(piece) for piece in pieces):
            progress("inspect", k / len(pieces))
            found += _exactly(data[piece], piece, seed)
    if len(found) > MOST * len(data):
        raise ValueError(
            f"inspect: {len(found)} of {len(data)} frames do not fit the others, which are too many for single mistakes; are they from "
            "different methods, or in different units?"
        )
    return Inspection(len(data), tuple(sorted(found, key=lambda suspect: -suspect.score)))


def _exactly(data: Dataset, index: np.ndarray, seed: int) -> list[Suspect]:
    """Of frames of one molecule.

    Bad labels make a search end at too short a length scale, under which they hardly stand out; so it is repeated without those that
    stand out first, under a longer one.
    """
    labels = tuple(name for name in ("energy", "forces") if name in data.label_names)
    kernel, _ = recipe(PLAIN, data)

    def searched(some: Dataset) -> Kernel:
        request = Request.of(kernel, some, labels, None, None)
        return search_lengthscale(request.kernel, request.frames, request.levels, seed).kernel

    found = searched(data)
    outside = [place for place, *_ in _standing_out(_longer(found), data, labels)]
    better = searched(data[np.setdiff1d(np.arange(len(data)), outside)]) if outside else found
    return [_suspect(data[place], int(index[place]), *found) for place, *found in _standing_out(better, data, labels)]


def _standing_out(kernel: Kernel, data: Dataset, labels: tuple[str, ...]) -> list[tuple[int, float, np.ndarray, float]]:
    """Frames that are taken out one after another: place, score, differences of forces and energy."""
    posterior, usual = _posterior(kernel, data, labels), _usual_force(data)
    features, projected, missing = posterior.system.features, _projected_inverse(posterior), posterior.system.labels
    rows = np.split(np.arange(len(missing)), features.ends[:-1])
    left, found = [j for j in range(len(rows)) if len(rows[j])], []
    while len(left) > FEWEST:
        weights = projected @ missing
        residuals = [np.linalg.solve(projected[np.ix_(rows[j], rows[j])], weights[rows[j]]) for j in left]
        scores = np.array([r @ weights[rows[j]] / len(rows[j]) for j, r in zip(left, residuals, strict=True)])
        scores /= np.median(scores)
        candidates = (
            (k, *posterior.labels_of(left[k], residuals[k])) for k in np.argsort(-scores) if scores[k] >= FLAGGED
        )
        worst, forces, energy = next((each for each in candidates if _matters(*each[1:], usual)), (None, None, None))
        if worst is None:
            break
        j = left.pop(worst)
        found.append((int(features.frames.index[j]), float(scores[worst]), forces, energy))
        of_frame = projected[:, rows[j]]
        projected -= of_frame @ np.linalg.solve(of_frame[rows[j]], of_frame.T)
        projected[rows[j]] = projected[:, rows[j]] = 0.0
    return found


def _posterior(kernel: Kernel, data: Dataset, labels: tuple[str, ...]) -> Posterior:
    """Of the longest length scale up to that of the kernel under which the labels are no combinations of each other."""
    while True:
        try:
            request = Request.of(kernel, data, labels, None, None)
            return solve(request.kernel, request.frames, request.levels, posterior=True).posterior
        except IndefiniteMatrix:
            kernel = _longer(kernel, 0.5)


def _longer(kernel: Kernel, factor: float = LONGER) -> Kernel:
    return kernel.replace(radial=kernel.radial.replace(lengthscale=factor * kernel.radial.lengthscale))


def _projected_inverse(posterior: Posterior) -> Float[np.ndarray, "rows rows"]:
    """P."""
    inverse = posterior.factor.solve(np.eye(posterior.system.shape[0]))
    return inverse - posterior.constants_part()


def _sparsely(data: Dataset, seed: int, progress: Progress) -> list[Suspect]:
    """Of crystals and of several compositions: frames of every fold by a model of the others; robust scores by group."""
    name, _ = default_recipe(data)
    errors: dict[int, tuple[np.ndarray, float]] = {}
    folds = np.array_split(np.random.default_rng(seed).permutation(len(data)), FOLDS)
    for k, fold in enumerate(folds):
        progress("inspect", k / FOLDS)
        rest = data[np.setdiff1d(np.arange(len(data)), fold)]
        kernel, labels = recipe(name, rest)
        force_field = fit(kernel, rest, labels, seed=seed, inducing=POINTS)
        for i in fold.tolist():
            frame = data[i]
            energy, forces = force_field.energy_and_forces(frame.positions, frame.cell, frame.system.pbc, frame.numbers)
            given = {name: frame.labels[name] for name in ("forces", "energy") if np.size(frame.labels.get(name, ()))}
            missed = given["forces"] - forces if "forces" in given else np.zeros((0, 3))
            errors[i] = missed, float(given["energy"] - energy) if "energy" in given else np.nan
    progress("inspect", 1.0)
    sizes = {i: np.array([_size(forces), energy**2 / len(data[i].numbers)]) for i, (forces, energy) in errors.items()}
    groups = {i: (data[i].group, tuple(sorted(set(np.asarray(data[i].numbers).tolist())))) for i in sizes}
    found = []
    for i, size in sizes.items():
        alike = np.array([sizes[k] for k in sizes if groups[k] == groups[i]])
        usual = np.nanmedian(alike if len(alike) >= FEWEST else np.array(list(sizes.values())), axis=0)
        score = float(np.nanmax(size / np.maximum(usual, 1e-300)))
        if score > FLAGGED and _matters(*errors[i], _usual_force(data)):
            found.append(_suspect(data[i], i, score, *errors[i]))
    return found


def _usual_force(data: Dataset) -> float:
    """Root mean square force, eV/Å."""
    return float(np.sqrt(np.mean(np.concatenate([np.ravel(frame.labels.get("forces", ())) for frame in data]) ** 2)))


def _matters(forces: np.ndarray, energy: float, usual: float) -> bool:
    """Whether differences are of a size that mistakes have; where a model is very good, frames that are rare stand out by less."""
    return bool((forces.size and np.sqrt(_size(forces)) > MATTERS * usual) or abs(energy) > MATTERS * usual)


def _size(forces: np.ndarray) -> float:
    return float(np.mean(forces**2)) if forces.size else np.nan


def _suspect(frame: Frame, index: int, score: float, forces: np.ndarray, energy: float) -> Suspect:
    """With what its labels look like, from their differences to what other frames say."""
    given = frame.labels.get("forces")
    size = float(np.sqrt(np.mean(forces**2))) if forces.size else np.nan
    return Suspect(index, score, size, energy, _reason(np.asarray(given), forces, energy, frame.numbers))


def _reason(given: np.ndarray, missed: np.ndarray, energy: float, numbers: np.ndarray) -> str:
    if not missed.size:
        return "energy"
    if np.isfinite(energy) and abs(energy) > ENERGY * np.sqrt(np.mean(missed**2)):
        return "energy"
    expected = given - missed
    scale = float(np.sqrt(np.sum(given**2) * np.sum(expected**2))) or 1.0
    alike = float(np.sum(given * expected)) / scale
    if alike < SIGN:
        return "forces of the other sign"
    ratio = float(np.sqrt(np.sum(given**2) / max(np.sum(expected**2), 1e-300)))
    if (
        alike > UNIT
        and abs(ratio - 1.0) > 1.0 - UNIT
        and np.sum((given / ratio - expected) ** 2) < SWAPPED * np.sum(missed**2)
    ):
        return f"forces {ratio:.3g} times as large: another unit?"
    for a, b in np.argwhere(np.triu(np.asarray(numbers)[:, None] == np.asarray(numbers), 1)):
        exchanged = given.copy()
        exchanged[[a, b]] = given[[b, a]]
        if np.sum((exchanged - expected) ** 2) < SWAPPED * np.sum(missed**2):
            return f"forces of atoms {a} and {b} exchanged"
    return "forces: not converged, or of another geometry"


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f"{1e3 * value:.0f}"


def _plain(suspect: dict) -> dict:
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in suspect.items()}
