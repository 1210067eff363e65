"""The numbers of a model that are tuned: amplitudes of its terms, numbers of its radial functions, noise of its labels, and those
arguments of its descriptors that were named.

All are positive, so it is their logarithms that are tuned; a length scale for every feature is stretched as a whole, an argument below
zero by a factor, and of an array of arguments each number that is not zero is one of its own.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from mlff.kernels.kernels import Kernel
from mlff.kernels.radial import Polynomial, Sensitivity
from mlff.regression.requests import RELATIVE_NOISE

WIDE = {"amplitude": 1e5, "lengthscale": 10.0}  # how far either way from the start
WIDEST = 1e3  # of other numbers
# of the labels' root mean square: less is lost in the rounding of the matrix, and with more they are not fitted
NOISE = (RELATIVE_NOISE, 0.05)
SMOOTHED = 1.0  # the least length scale of a kernel on the unit sphere
WIDE_ARGUMENT, WIDE_CUTOFF = 4.0, 1.5  # of arguments of descriptors, and of those that say how far they see


MOST_NUMBERS = 200  # of one array: more are weights that are trained, not tuned

# of which leaf of a kernel, the name that `Descriptor.named_arguments` has, and which number of an array, or None
Argument = tuple[int, str, int | None]
NONE: Mapping[Argument, float] = {}


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """One number of a model.

    Attributes:
        kind: "amplitude" of a term, "noise" of a kind of label, "argument" of a descriptor, or the name of a number of a radial
            function.
        place: which term, which leaf, the name of the label, or the argument.
        start: its value at the start; of an array of length scales or an argument below zero, 1: what it is multiplied by.
        bounds: between which it is looked for.
    """

    kind: str
    place: int | str | Argument
    start: float
    bounds: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Model:
    """A kernel with amplitudes, and the noise of labels: what the tuned numbers are numbers of."""

    kernel: Kernel
    noise: dict[str, float]

    def hyperparameters(
        self, sizes: Mapping[str, float] | None, limits: Mapping[Argument, float] = NONE
    ) -> list[Hyperparameter]:
        """All that are tuned.

        Arguments:
            limits: the arguments of descriptors that are, each with the largest value that it may have.
            sizes: root mean squares of the labels whose noise is tuned; the first amplitude is not then: only ratios change errors.
                None where noise stays.
        """
        found = [
            _around("amplitude", t, part.amplitude) for t, part in enumerate(self.kernel.parts) if t or sizes is None
        ]
        for i, leaf in enumerate(self.kernel.leaves):
            for number in tunable(leaf.radial):
                value = getattr(leaf.radial, number)
                found.append(_around(number, i, 1.0 if np.ndim(value) else float(value), leaf.radial))
        found += [_argument(place, self.argument(place), limit) for place, limit in limits.items()]
        bounds = {name: (NOISE[0] * size, NOISE[1] * size) for name, size in (sizes or {}).items()}
        return found + [Hyperparameter("noise", name, self.noise[name], bounds[name]) for name in bounds]

    def argument(self, place: Argument) -> float:
        """The value of an argument of a descriptor."""
        leaf, name, k = place
        value = self.kernel.leaves[leaf].descriptor.named_arguments[name]
        return float(value if k is None else np.ravel(value)[k])

    def replaced(self, hyperparameters: list[Hyperparameter], values: np.ndarray) -> Model:
        """With other values."""
        noise, leaves = dict(self.noise), list(self.kernel.leaves)
        amplitudes = [part.amplitude for part in self.kernel.parts]
        for h, value in zip(hyperparameters, values, strict=True):
            if h.kind == "noise":
                noise[h.place] = float(value)
            elif h.kind == "amplitude":
                amplitudes[h.place] = float(value)
            elif h.kind == "argument":
                leaf, name, k = h.place
                described, now = leaves[leaf].descriptor, self.argument(h.place)
                changed = float(now * value if now < 0.0 else value)
                if k is not None:
                    whole = np.array(described.named_arguments[name], dtype=np.float64)
                    whole.flat[k] = changed
                    changed = whole
                leaves[leaf] = leaves[leaf].replace(descriptor=described.with_arguments({name: changed}))
            else:
                radial = leaves[h.place].radial
                now = getattr(radial, h.kind)
                changed = np.asarray(now) * value if np.ndim(now) else float(value)
                leaves[h.place] = leaves[h.place].replace(radial=radial.replace(**{h.kind: changed}))
        return Model(self.kernel.with_leaves(leaves).with_amplitudes(amplitudes), noise)

    def scaled(self, factor: float) -> Model:
        """With all variances, of energies and of noise, times a factor: the same predictions."""
        kernel = self.kernel.with_amplitudes([part.amplitude * factor for part in self.kernel.parts])
        return Model(kernel, {name: level * factor**0.5 for name, level in self.noise.items()})


def named_arguments(kernel: Kernel, patterns: Sequence[str]) -> tuple[Kernel, list[Argument]]:
    """The arguments of descriptors that some patterns name, "soap.sigma", "sigma" or "soap.*", and the kernel with all of them spelled
    out.

    Raises:
        ValueError: a pattern that names none; with what there is.
    """
    if isinstance(patterns, str):
        patterns = (patterns,)
    leaves, found, missing, present = list(kernel.leaves), [], list(patterns), []
    for i, leaf in enumerate(leaves):
        described = leaf.descriptor.spelled_out()
        title = described.function.__name__
        for name, value in described.named_arguments.items():
            present.append(f"{title}.{name}")
            naming = [each for each in patterns if any(fnmatch.fnmatchcase(text, each) for text in (name, present[-1]))]
            missing = [each for each in missing if each not in naming]
            if naming:
                found += [(i, name, k) for k in _numbers_of(present[-1], value)]
                leaves[i] = leaf.replace(descriptor=described)
    if missing:
        raise ValueError(
            f"arguments: {missing[0]!r} names no real number of a descriptor; there are {', '.join(present) or 'none'}"
        )
    return kernel.with_leaves(leaves), found


def tunable(radial) -> tuple[str, ...]:
    """The numbers of a radial function that are real."""
    return tuple(
        field.name
        for field in dataclasses.fields(radial)
        if field.metadata.get("pytree_node", True) and field.name != "_class"
    )


def sensitive(part: Kernel, leaf: int, number: str) -> Kernel:
    """The part of a kernel whose matrix is the derivative of its own by the logarithm of a number of one of its leaves."""
    leaves = list(part.leaves)
    radial = leaves[leaf].radial
    leaves[leaf] = leaves[leaf].replace(radial=Sensitivity(radial.lengthscale, radial, number))
    return part.with_leaves(leaves)


def _numbers_of(title: str, value) -> list[int | None]:
    """Which numbers of an argument are tuned."""
    if np.ndim(value) == 0:
        return [None] if value != 0.0 else []
    if np.size(value) > MOST_NUMBERS:
        raise ValueError(
            f"arguments: {title} is an array of {np.size(value)} numbers; at most {MOST_NUMBERS} are tuned"
        )
    return np.flatnonzero(np.asarray(value)).tolist()


def _argument(place: Argument, value: float, limit: float) -> Hyperparameter:
    start = 1.0 if value < 0.0 else value
    wide = WIDE_CUTOFF if is_cutoff(place) else WIDE_ARGUMENT
    return Hyperparameter("argument", place, start, (start / wide, min(start * wide, max(limit, start))))


def is_cutoff(place: Argument) -> bool:
    """Whether an argument says how far a descriptor sees."""
    return place[1] == "cutoff"


def _around(kind: str, place: int | str, value: float, radial=None) -> Hyperparameter:
    wide = WIDE.get(kind, WIDEST)
    least = SMOOTHED if kind == "lengthscale" and isinstance(radial, Polynomial) else value / wide
    return Hyperparameter(kind, place, value, (least, value * wide))
