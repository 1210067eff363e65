"""What is minimised by tuning: an objective of frames in descriptor space, for many hyperparameters, with its gradient."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from mlff.kernels.kernels import Kernel
from mlff.kernels.surroundings import nearest_images_within, reach_of
from mlff.regression.exact import Progress
from mlff.regression.linalg.tiles import SymmetricTiles
from mlff.regression.requests import RELATIVE_NOISE, Request
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.inner_products import ScalableBlocks, is_scalable, needed_bytes
from mlff.regression.system.kernel_blocks import KeptBlocks, KernelBlocks
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.tuning.carrying import carried, slopes_by_features
from mlff.regression.tuning.evidence import unlikeliness
from mlff.regression.tuning.hyperparameters import (
    WIDE_CUTOFF,
    Argument,
    Hyperparameter,
    Model,
    is_cutoff,
    named_arguments,
    sensitive,
)
from mlff.regression.tuning.left_out import Assessment, left_out
from mlff.regression.tuning.projected import projected
from mlff.regression.validation import data_scales, with_lengthscales

OBJECTIVES = ("left-out", "folds", "evidence")
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Problem:
    """Frames in descriptor space, whose matrix is wanted for many hyperparameters.

    Attributes:
        request: what is fitted to them.
        features: under length scales that are as good as any, and the arguments of descriptors that the search begins with.
        products: of every term what its matrix is made of under any length scale; None where it is computed anew.
        sizes: root mean squares of the labels, where their noise is tuned; None where it stays.
        scales: the length scale of every leaf that the data suggest; those that are given stay.
        objective: one of `OBJECTIVES`.
        folds: places of the frames that are left out together; None for one after the other.
        limits: the arguments of descriptors that are tuned, and the largest values that they may have.
    """

    request: Request
    features: Features
    products: list[ScalableBlocks | None]
    sizes: dict[str, float] | None
    scales: list[float]
    objective: str
    folds: list[np.ndarray] | None
    limits: dict[Argument, float]

    @classmethod
    def of(
        cls,
        request: Request,
        free: bool,
        progress: Progress = lambda stage, fraction: None,
        objective: str = OBJECTIVES[0],
        arguments: Sequence[str] = (),
        seed: int = 0,
        room: float = math.inf,
    ) -> Problem:
        """Arguments: free: whether noise is tuned; room: bytes that products may take which make a step faster; the others as of `tune`."""
        kernel, places = named_arguments(request.kernel, arguments)
        request, frames = dataclasses.replace(request, kernel=kernel), request.frames
        scales = data_scales(request.kernel, frames)
        kernel = with_lengthscales(request.kernel, scales)
        features = compute_features(kernel, frames, request.levels, progress)
        limits = {place: _limit(kernel, place, features) for place in places}
        searched = {_term_of(kernel, leaf)[0] for leaf, *_ in places}
        _require_first_order(features, searched)
        products = []
        for t in range(len(features.terms)):
            products.append(None if t in searched else _products(features, t, room))
            room -= 0 if products[-1] is None else needed_bytes(products[-1].blocks.features)
        # noise that is not given is a small share of the labels' size
        sizes = {name: level / RELATIVE_NOISE for name, level in request.noise.items()} if free else None
        folds = None
        if objective == "folds":
            count = len(features.observations)
            folds = np.array_split(np.random.default_rng(seed).permutation(count), min(FOLDS, count))
        return cls(request, features, products, sizes, scales, objective, folds, limits)

    def started(self, stretch: float, share: float | None, noise: float) -> Model:
        """A model to start from."""
        leaves = self.request.kernel.leaves
        stretches = [1.0 if leaf.transferable else stretch for leaf in leaves]  # local features know their scale
        kernel = with_lengthscales(self.request.kernel, np.multiply(self.scales, stretches).tolist())
        levels = self.request.noise if self.sizes is None else {name: noise * size for name, size in self.sizes.items()}
        if kernel.amplitude is None:
            amplitudes = np.array(self.system(Model(kernel, levels), self.features.scaled(kernel)).amplitudes)
            if share is not None and len(amplitudes) > 1:
                others = np.full(len(amplitudes) - 1, (1.0 - share) / (len(amplitudes) - 1))
                amplitudes *= len(amplitudes) * np.append(share, others)
            kernel = kernel.with_amplitudes(amplitudes.tolist())
        return Model(kernel, levels)

    @functools.cached_property
    def reach(self) -> float:
        """How far descriptors may come to see, Å: neighbour lists are as long from the beginning, so that no shape changes."""
        cutoffs = {place[0]: limit for place, limit in self.limits.items() if is_cutoff(place)}
        largest = [
            leaf.descriptor.with_arguments({"cutoff": cutoffs[i]} if i in cutoffs else {})
            for i, leaf in enumerate(self.request.kernel.leaves)
        ]
        return reach_of(largest) if self.limits else 0.0

    def carried(self, kernel: Kernel) -> Features:
        """The frames under other length scales and arguments of descriptors."""
        terms = []
        for t, (term, part) in enumerate(zip(self.features.terms, kernel.parts, strict=True)):
            same = not self._arguments_of(kernel, t) or _same_arguments(term.kernel, part)
            again = term.scaled(part) if same else carried(term, part, self.features.observations, self.reach)
            terms.append(again)
        return dataclasses.replace(self.features, terms=terms)

    def matrices(self, features: Features) -> list[KeptBlocks]:
        """The matrices of all terms."""
        return [self._matrix(features, t, term.kernel) for t, term in enumerate(features.terms)]

    def _matrix(self, features: Features, t: int, part: Kernel) -> KeptBlocks:
        """The matrix of one term, or of what is put in its place."""
        alone = dataclasses.replace(features, terms=[dataclasses.replace(features.terms[t], kernel=part)])
        return KernelBlocks(alone).kept() if self.products[t] is None else self.products[t].kept(alone)

    def system(self, model: Model, features: Features, matrices: list[KeptBlocks] | None = None) -> LinearSystem:
        """The linear system of a model, from the matrices of its terms."""
        levels = {self.request.operators[name]: level for name, level in model.noise.items()}
        before = self.request.noise
        factors = {name: level / before[name] for name, level in model.noise.items() if level != before[name]}
        features = features.with_noise(factors)
        blocks = None
        if matrices is not None:
            blocks = KeptBlocks(KernelBlocks(features), [each.matrices[0] for each in matrices])
        return LinearSystem.of(model.kernel, features, levels, self.request.atomic_energies, blocks)

    def assessed(self, model: Model, told: bool = False) -> tuple[Assessment, LinearSystem]:
        """The objective of a model, and its linear system.

        Arguments:
            told: whether the cotangent is wanted.
        Raises:
            numpy.linalg.LinAlgError: no positive definite matrix to rounding.
        """
        features = self.carried(model.kernel)
        system = self.system(model, features, self.matrices(features))
        return self._assessed(system, told), system

    def _assessed(self, system: LinearSystem, told: bool) -> Assessment:
        known = projected(system)
        if self.objective != "evidence":
            return left_out(system, known, self.folds, told)
        errors = left_out(system, known, told=False).errors
        return unlikeliness(known, errors, 1.0 if self.sizes is None else known.scale)

    def errors_without(self, model: Model) -> list[dict[str, float] | None]:
        """The errors of frames left out without each term, all other numbers as they are; None where there is no matrix without it."""
        features, parts, errors = self.carried(model.kernel), model.kernel.parts, []
        matrices = self.matrices(features)
        for t in range(len(parts)):
            left = [k for k in range(len(parts)) if k != t]
            kernel = model.kernel.replace(terms=tuple(parts[k] for k in left))
            rest = dataclasses.replace(features, terms=[features.terms[k] for k in left])
            system = self.system(Model(kernel, model.noise), rest, [matrices[k] for k in left])
            try:
                errors.append(self._assessed(system, told=False).errors)
            except np.linalg.LinAlgError:
                errors.append(None)
        return errors

    def with_gradient(self, model: Model, hyperparameters: list[Hyperparameter]) -> tuple[Assessment, np.ndarray]:
        """The objective, and its gradient by the logarithms of hyperparameters."""
        found, system = self.assessed(model, told=True)
        gradient, done = np.zeros(len(hyperparameters)), {}
        for t in range(len(system.features.terms)):
            for (kind, place), slope in self._by_features(model.kernel, system, found, t).items():
                done[kind, place] = slope
        for k, h in enumerate(hyperparameters):
            if (h.kind, h.place) in done:
                gradient[k] = done[h.kind, h.place]
            elif h.kind == "noise":
                of_kind = np.zeros(len(system.labels))
                of_kind[system.features.places[h.place]] = 1.0
                gradient[k] = found.along_diagonal(2.0 * system.noise * of_kind)
            elif h.kind == "amplitude":
                gradient[k] = _along(found, system, h.place, system.blocks.matrices[h.place])
            else:
                t, leaf = _term_of(model.kernel, h.place)
                change = self._matrix(system.features, t, sensitive(model.kernel.parts[t], leaf, h.kind))
                gradient[k] = _along(found, system, t, change.matrices[0])
        return found, gradient

    def _by_features(self, kernel: Kernel, system: LinearSystem, found: Assessment, t: int) -> dict:
        """The gradient by what features of a term depend on, if arguments are tuned there: of all at once, by (kind, place)."""
        places = self._arguments_of(kernel, t)
        if not places:
            return {}
        names = tuple(dict.fromkeys((_term_of(kernel, leaf)[1], name) for leaf, name, _ in places))
        slopes, stretches = slopes_by_features(system.features, t, names, found, self.reach)
        share, model, done = float(system.shares[t]), Model(kernel, {}), {}
        for leaf, name, k in places:
            slope = np.ravel(slopes[names.index((_term_of(kernel, leaf)[1], name))])[k or 0]
            done["argument", (leaf, name, k)] = share * model.argument((leaf, name, k)) * float(slope)
        first = sum(len(part.leaves) for part in kernel.parts[:t])
        return {**done, **{("lengthscale", first + i): share * slope for i, slope in enumerate(stretches)}}

    def _arguments_of(self, kernel: Kernel, t: int) -> list[Argument]:
        """Those that are tuned of one term."""
        return [place for place in self.limits if _term_of(kernel, place[0])[0] == t]


def _along(found: Assessment, system: LinearSystem, t: int, change: SymmetricTiles) -> float:
    """What a change of the matrix of a term, which is multiplied by its amplitude, does to the objective."""
    offsets = system.offsets
    once = [
        found.along(int(offsets[i]), int(offsets[j]), change.tiles[i][j])
        for j in range(len(offsets) - 1)
        for i in range(j, len(offsets) - 1)
    ]
    return float(system.shares[t]) * sum(once)


def _term_of(kernel: Kernel, leaf: int) -> tuple[int, int]:
    """Which term a leaf belongs to, and which leaf of the term it is."""
    return [(t, i) for t, part in enumerate(kernel.parts) for i in range(len(part.leaves))][leaf]


def _same_arguments(one: Kernel, other: Kernel) -> bool:
    """Whether two parts have equal descriptors."""
    pairs = [
        (a.descriptor.named_arguments, b.descriptor.named_arguments)
        for a, b in zip(one.leaves, other.leaves, strict=True)
    ]
    return all(np.array_equal(a[name], b[name]) for a, b in pairs for name in a)


def _products(features: Features, t: int, room: float) -> ScalableBlocks | None:
    """What the matrix of a term is made of under any length scale, where there is room for it."""
    alone = dataclasses.replace(features, terms=[features.terms[t]])
    fitting = is_scalable(features.terms[t]) and needed_bytes(alone) <= room
    return ScalableBlocks.of(KernelBlocks(alone)) if fitting else None


def _limit(kernel: Kernel, place: Argument, features: Features) -> float:
    """The largest value that an argument may have: a cutoff is not to reach where nearest images are not all there is."""
    if not is_cutoff(place):
        return np.inf
    described = kernel.leaves[place[0]].descriptor
    nearest = [nearest_images_within(described, batch) for batch in features.frames.batches]
    return min(WIDE_CUTOFF * float(described.cutoff), *nearest)


def _require_first_order(features: Features, searched: set[int]) -> None:
    """Refuse terms whose features do not tell all that their labels see, where arguments of descriptors are to be tuned."""
    for t in searched:
        term = features.terms[t]
        name = term.kernel.leaves[0].descriptor.name
        if any(curved.shape[1] for curved in term.curved):
            raise ValueError(
                f"arguments: those of {name} are tuned by labels of first order, not by Hessians; leave them out"
            )
        if term.computes_images:
            raise ValueError(
                f"arguments: an exchange of atoms does more to the features of {name} than rearrange them, so they stay as they are; "
                "leave them out, or permutations"
            )
