"""Whether the labels of the training frames fit together: how predictions follow references, kind by kind.

Labels that contradict each other (a sign, a unit, an order of components) cannot all be met by one energy.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Sequence

import numpy as np

from mlff.potentials.errors import Evaluation, slope_of

logger = logging.getLogger(__name__)

TOLERANCE = 0.1
NOTICED = 0.01  # of the root mean square of all components: shears whose errors are smaller are not looked at
OR_STRESS = (
    "; or it is stress that does not fit: its sign (tension is positive), its unit (eV/Å³) or the order of its shears"
)
SHEARS = ("xy", "xz", "yz")
BETTER = 0.5  # share of the squared errors that an order of shears leaves at most, if it is the right one
FOLLOWED = 0.25  # share of the squared shears that it leaves at most
ENOUGH = 5  # frames of a group, of whose shears the order is told
IN_ORDER = "is their order xx yy zz yz xz xy, as in ASE?"
PUT_IN_ORDER = "put them in ASE's order, xx yy zz yz xz xy"
NORMAL, SHEARED = [0, 4, 8], [1, 2, 5]  # of the nine components, the latter as in SHEARS
NAMES = {"energy": "energies", "forces": "forces", "stress": "stresses"}


def warn_of_slopes(
    training: Evaluation, kinds: Collection[str], strained: Sequence[str | None] = (), functionals: int | None = None
) -> None:
    """Log a warning for every kind of label whose predictions on the training frames do not follow the references.

    Arguments:
        training: of the training frames.
        kinds: which are looked at, of "energy", "forces" and "stress"; those that were not compared are left out.
        strained: the group of every frame that has stresses; in one the shears may have another order than in the others.
        functionals: of a sparse model how many span it: a few follow no labels, whatever these are.
    """
    or_few = "" if functionals is None else f", or the inducing functionals are too few ({functionals})"
    for name in NAMES:
        if name not in kinds or name not in training.values:
            continue
        slope, cause = _cause(name, *training.values[name], or_few)
        if not abs(slope - 1.0) <= TOLERANCE:
            # of labels that contradict each other the noise says which gives way
            rest = OR_STRESS if name != "stress" and "stress" in kinds else ""
            logger.warning(
                "predicted against reference %s of the training frames have slope %.3g, expected 1: %s%s",
                NAMES[name], slope, cause, rest,
            )  # fmt: skip
        elif name == "stress":
            _warn_of_groups(*training.values[name], strained)


def _cause(name: str, reference: np.ndarray, predicted: np.ndarray, or_few: str) -> tuple[float, str]:
    """Slope of a kind of label, and what to think of when it is not 1.

    Arguments:
        or_few: another thing to think of, where nothing is certain.
    """
    return _stress(reference, predicted, or_few) if name == "stress" else _plain(name, reference, predicted, or_few)


def _plain(name: str, reference: np.ndarray, predicted: np.ndarray, or_few: str) -> tuple[float, str]:
    """Slope of energies or forces, and its cause."""
    slope = slope_of(reference, predicted)
    if abs(slope + 1.0) <= TOLERANCE or (name == "forces" and slope < 0.0):
        return slope, "the forces point up the energy: are they gradients? Change their sign"
    if name == "energy":
        return slope, (
            "energies and forces do not belong together (units, method), or the energies vary less than the model's error"
            + or_few
        )
    return slope, (
        "are they in the units that were stated (eV/Å here), and of the same method as the other labels? Or the noise is large"
        + or_few
    )


def _stress(reference: np.ndarray, predicted: np.ndarray, or_few: str) -> tuple[float, str]:
    """Slope of the normal components, or where it is 1, of the shears."""
    reference, predicted = (values.reshape(-1, 9) for values in (reference, predicted))
    slope = slope_of(reference[:, NORMAL].ravel(), predicted[:, NORMAL].ravel())
    if slope < 0.0:
        return slope, "the sign of stress is the other one: tension is positive, stress = −virial/volume; change it"
    if not abs(slope - 1.0) <= TOLERANCE:
        return slope, (
            "is stress in eV/Å³ (1 GPa is 0.00624 eV/Å³), positive under tension, and of the method of the other labels? "
            "Or the noise is large" + or_few
        )
    missed = np.sqrt(np.mean((predicted - reference)[:, SHEARED] ** 2))
    if missed <= NOTICED * np.sqrt(np.mean(reference**2)):
        return slope, ""
    slope = slope_of(reference[:, SHEARED].ravel(), predicted[:, SHEARED].ravel())
    return slope, f"the shears do not follow: {_order_of(reference[:, SHEARED], predicted[:, SHEARED])}"


def _warn_of_groups(reference: np.ndarray, predicted: np.ndarray, groups: Sequence[str | None]) -> None:
    """Groups of small stresses whose shears have another order, where the slope of all is that of the large ones."""
    shears = [values.reshape(-1, 9)[:, SHEARED] for values in (reference, predicted)]
    names = np.array([group or "no group" for group in groups])
    told, counts = np.unique(names, return_counts=True)
    for name in told[counts >= ENOUGH] if len(told) > 1 else ():
        if found := _exchanged(*(values[names == name] for values in shears)):
            logger.warning(
                "predicted shears of the %d training frames of group %s would follow the reference if %s; %s",
                np.sum(names == name), name, found, PUT_IN_ORDER,
            )  # fmt: skip


def _order_of(reference: np.ndarray, predicted: np.ndarray) -> str:
    """What is to be done about shears xy, xz, yz that do not follow: exchange some, where they follow in another order."""
    found = _exchanged(reference, predicted)
    return f"they would if {found}; {PUT_IN_ORDER}" if found else IN_ORDER


def _exchanged(reference: np.ndarray, predicted: np.ndarray) -> str:
    """Which shears xy, xz, yz have changed places, where in another order they follow well; else nothing."""
    missed = {p: float(np.sum((predicted - reference[:, p]) ** 2)) for p in itertools.permutations(range(3))}
    best = min(missed, key=missed.__getitem__)
    if not missed[best] <= min(BETTER * missed[0, 1, 2], FOLLOWED * float(np.sum(reference**2))):
        return ""
    return ", ".join(f"{SHEARS[i]} is what is called {SHEARS[k]}" for i, k in enumerate(best) if i != k)
