"""Recipes: the published kernel models by name, each a descriptor, a kernel and the labels it is fitted to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from descriptors import fchl19, inverse_distances, logarithmic_distances, soap
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset, require_dataset
from mlff.data.permutations import Permutations, find_permutations
from mlff.kernels.composed import SumKernel
from mlff.kernels.descriptor import import_descriptor
from mlff.kernels.jets import feature_shape
from mlff.kernels.kernels import GlobalKernel, Kernel, LocalKernel
from mlff.kernels.radial import RBF, Matern52, Polynomial, Radial
from mlff.kernels.reduction import reduced
from mlff.potentials.training import train_schnet
from mlff.regression.training_frames import require_seen_cells

Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model by name.

    Attributes:
        summary: what it is, in a line, with its source.
        radial: its radial function; without a length scale, `fit` finds one.
        labels: what it is fitted to; stresses where frames have them.
        build: (frames, radial function, permutations or None, seed, progress, settings of the descriptor) → kernel.
        symmetric: whether it takes the permutations of identical atoms.
        whole: whether it compares whole molecules, so frames of one composition that are not periodic.
        summed: whether it is a sum, whose amplitudes want tuning.
        drawn: whether building it draws random numbers.
        inducing: how many environments span it; None for an exact model.
    """

    summary: str
    radial: Radial
    labels: tuple[str, ...]
    build: Callable[[Dataset, Radial, Permutations | None, int, Progress, Mapping[str, Any]], Kernel]
    symmetric: bool = False
    whole: bool = False
    summed: bool = False
    drawn: bool = False
    inducing: int | None = None


def _global(descriptor) -> Callable:
    return lambda data, radial, group, seed, progress, settings: GlobalKernel(
        functools.partial(descriptor, **settings), radial, group
    )


def _local(descriptor) -> Callable:
    return lambda data, radial, group, seed, progress, settings: LocalKernel(
        functools.partial(descriptor, **settings), radial
    )


def _sum_of(*builds: Callable) -> Callable:
    def build(data, radial, group, seed, progress, settings):
        if settings:
            raise ValueError(
                f"settings {', '.join(settings)}: the recipe has several descriptors; build it in Python, mlff.SumKernel((…, …))"
            )
        return SumKernel(tuple(each(data, radial, group, seed, progress, settings) for each in builds))

    return build


def _learned(
    data: Dataset, radial: Radial, group, seed: int, progress: Progress, settings: Mapping[str, Any]
) -> Kernel:
    return LocalKernel(train_schnet(data, seed=seed, progress=progress, **settings), radial)


def _sparse(data: Dataset, radial: Radial, group, seed: int, progress: Progress, settings: Mapping[str, Any]) -> Kernel:
    """Power spectra of unit length, as fine as the number of elements allows: features grow with its square.

    Measured by labels left out: from 5 to 6 Å errors of forces fall by 5 % in silicon and not in molybdenum, those of energies by 8
    and 5 %; in silicon a narrower density (0.4 Å) and terms of shorter reach or of pairs beside it gain nothing.
    """
    elements = len({int(z) for frame in data for z in frame.numbers})
    n_max, l_max = FINENESS[min(elements, len(FINENESS)) - 1]
    fine = {"cutoff": 6.0, "n_max": n_max, "l_max": l_max, "normalised": True, **settings}
    return reduced(LocalKernel(functools.partial(soap, **fine), radial), data, seed=seed)


FORCES, BOTH, ALL = ("forces",), ("energy", "forces"), ("energy", "forces", "stress")
FINENESS = ((10, 8), (8, 6), (6, 5), (5, 4), (4, 3))  # n_max and l_max of SOAP for one, two, … elements
NARROW = functools.partial(soap, sigma=0.35)  # Å, narrower than usual, beside a kernel of the whole molecule
SETTINGS: Mapping[str, Any] = {}

RECIPES = {
    "gdml": Recipe(
        "inverse distances, Matérn-5/2 (Chmiela et al., Sci. Adv. 3, e1603015, 2017)",
        Matern52(), FORCES, _global(inverse_distances), whole=True,
    ),
    "sgdml": Recipe(
        "the same, symmetrised over permutations (Chmiela et al., Nat. Commun. 9, 3887, 2018)",
        Matern52(), FORCES, _global(inverse_distances), symmetric=True, whole=True,
    ),
    "sgdml-rbf": Recipe(
        "sGDML with the squared exponential (Schmitz et al., J. Phys. Chem. Lett. 13, 10183, 2022)",
        RBF(), FORCES, _global(inverse_distances), symmetric=True, whole=True,
    ),
    "fchl19-gpr": Recipe(
        "atomic environments as FCHL19 (Christensen et al., J. Chem. Phys. 152, 044107, 2020)",
        RBF(lengthscale=2.0), BOTH, _local(fchl19),
    ),
    "global-fchl19": Recipe(
        "FCHL19 of all atoms as one descriptor (Schmitz et al., 2022)",
        RBF(), FORCES, _global(fchl19), whole=True,
    ),
    "sfchl19": Recipe(
        "global FCHL19, symmetrised over permutations (Schmitz et al., 2022)",
        RBF(), FORCES, _global(fchl19), symmetric=True, whole=True,
    ),
    "schnet-kernel": Recipe(
        "atomic features of a SchNet trained on the same frames (Schütt et al., J. Chem. Phys. 148, 241722, 2018)",
        RBF(), BOTH, _learned, drawn=True,
    ),
    "soap-gpr": Recipe(
        "atomic environments as SOAP power spectra (Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115, 2013)",
        RBF(), BOTH, _local(soap),
    ),
    "sgdml+soap": Recipe(
        "sum of the first two kinds: inverse distances symmetrised, and SOAP of atoms; its amplitudes want tuning",
        RBF(), BOTH, _sum_of(_global(inverse_distances), _local(NARROW)), symmetric=True, whole=True, summed=True,
    ),
    "distances+soap+fchl19": Recipe(
        "logarithms of distances symmetrised, SOAP and FCHL19; with tuning the most accurate with few frames",
        RBF(), BOTH,
        _sum_of(_global(logarithmic_distances), _local(NARROW), _local(fchl19)), symmetric=True, whole=True, summed=True,
    ),
    "soap-gap": Recipe(
        "for crystals: a sparse model of the same, powers of scalar products (Bartók, Csányi, Int. J. Quantum Chem. 115, 1051, 2015)",
        Polynomial(), ALL, _sparse, inducing=1500,
    ),
}  # fmt: skip


FEW = 100  # frames, up to which sums are worth the time of tuning them
PLAIN = "sgdml-rbf"


def default_recipe(data: Dataset) -> tuple[str, str]:
    """The recipe for frames of which nothing else is known, and what speaks for it.

    With 50 frames of revised MD17 the tuned sum has the smallest errors of forces of all recipes; with inverse distances in it, which
    by themselves are better than their logarithms where a molecule is stiff, they are 0.5 to 13 % larger. With 200 sGDML with the
    squared exponential is never further than a factor of 1.8 from the best one, where recipes of atoms are off by factors of 6 and 7
    in benzene; and its forces take a fraction of their time (README).
    """
    if any(frame.system.pbc.any() for frame in data):
        return "soap-gap", "crystals"
    if not _alike(data):
        return "fchl19-gpr", "molecules of several compositions"
    if "energy" not in data.label_names:
        return PLAIN, "a molecule without energies"
    if len(data) <= FEW:
        return "distances+soap+fchl19", f"a molecule and up to {FEW} frames"
    return PLAIN, f"a molecule and more than {FEW} frames"


def _alike(data: Dataset) -> bool:
    """Whether frames are of one molecule, its atoms in one order."""
    first = data[0].numbers
    return all(np.array_equal(frame.numbers, first) and not frame.system.pbc.any() for frame in data)


def fitting(data: Dataset) -> list[str]:
    """The recipes that can be fitted to such frames at once: not those whose features have to be trained first."""
    alike = _alike(data)
    # sparse models are for more environments than an exact one can take, which molecules have not at first
    return [
        name for name, each in RECIPES.items()
        if not each.drawn and (each.inducing is None if alike else not each.whole)
    ]  # fmt: skip


def recipe(
    name: str,
    data: Dataset,
    radial: Radial | None = None,
    permutations: Permutations | None = None,
    reach: str = "dynamics",
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    settings: Mapping[str, Any] = SETTINGS,
) -> tuple[Kernel, tuple[str, ...]]:
    """The kernel and the labels of a named model: `kernel, labels = recipe("fchl19-gpr", data)`, then `fit`.

    Arguments:
        name: one of `RECIPES`.
        data: the training frames: permutations are found in them, learned features are trained on them.
        radial: another radial function than the recipe's own, or the same with another length scale (or with none, to
            have it searched).
        permutations: of identical atoms, for the recipes that take them; found in the frames where none are given.
        reach: which are looked for, "dynamics" or "graph" as of `find_permutations`, or "none".
        seed: of the training of learned features.
        settings: of its descriptor, where they are not the usual ones: {"cutoff": 5.0}.
    Raises:
        ValueError: no such recipe, one of isolated molecules for periodic frames, or settings that its descriptor does not have.
    """
    require_dataset(data)
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r} is not known; choose from {', '.join(RECIPES)}")
    chosen = RECIPES[name]
    if chosen.symmetric:  # before permutations are looked for, which takes a while in a crystal
        require_seen_cells(chosen.build(data, radial or chosen.radial, None, seed, progress, settings), data)
    group = (permutations or _found(data, reach)) if chosen.symmetric else None
    stressed = any("stress" in frame.labels for frame in data)
    labels = tuple(label for label in chosen.labels if stressed or label != "stress")
    return chosen.build(data, radial or chosen.radial, group, seed, progress, settings), labels


def _found(data: Dataset, reach: str) -> Permutations | None:
    return None if reach == "none" else find_permutations(data, reach=reach)


def descriptor_kernel(
    function: str, data: Dataset, radial: Radial, reach: str = "dynamics", settings: Mapping[str, Any] = SETTINGS
) -> tuple[Kernel, tuple[str, ...]]:
    """A kernel on anybody's descriptor, named `package.module:function`.

    One that returns a vector for the molecule makes a global kernel with the permutations found, fitted to forces; one
    that returns a vector for every atom a local kernel, fitted to energies and forces.

    Raises:
        ValueError: it cannot be imported, or is no descriptor.
    """
    found = functools.partial(import_descriptor(function), **settings)
    if len(feature_shape(found, LabelledFrames.of(data[:1]).batches[0])) == 2:
        return LocalKernel(found, radial), BOTH
    return GlobalKernel(found, radial, _found(data, reach)), FORCES
