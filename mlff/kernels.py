"""Kernels: how alike two geometries are. A kernel receives a descriptor; it never imports one."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.precision import Array, double_precision
from mlff.radial import Radial
from mlff.symmetry import Permutations
from mlff.units import symbols

SUPPLIED = ("numbers", "cell", "neighbors")  # keyword parameters of descriptors that the kernel fills in
COMPLETED = "elements"  # the one that `fit` fills in from the data: atomic numbers, in ascending order


class Descriptor(struct.PyTreeNode):
    """A descriptor function with its hyperparameters.

    Attributes:
        function: `function(positions, …) -> array`, of shape (D,) for a molecule, (n, D) for atomic environments; keyword
            parameters named `numbers`, `cell` and `neighbors` are supplied, `elements` is filled in from the data.
            One that takes `neighbors` has a parameter `cutoff`: how far it sees, Å.
        arguments: real-valued hyperparameters by name, arrays or nested dictionaries of them; traced, so that they can be
            differentiated.
        settings: all other arguments (integers, strings, …) as (name, value) pairs; compiled in.
    """

    function: Callable = struct.field(pytree_node=False)
    arguments: dict[str, Any] = struct.field(default_factory=dict)
    settings: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())

    @classmethod
    def wrap(cls, function: Callable | Descriptor) -> Descriptor:
        """A descriptor from a function, or from `functools.partial(function, name=value, …)`.

        Raises:
            ValueError: what is given is no function of `positions`, or its arguments do not fit.
        """
        if isinstance(function, Descriptor):
            return function
        given: dict[str, Any] = {}
        if isinstance(function, functools.partial):
            if function.args:
                raise ValueError("descriptor: bind its arguments by name, functools.partial(function, name=value)")
            function, given = function.func, dict(function.keywords)
        if not callable(function):
            raise ValueError(f"descriptor={function!r} must be a function of positions")
        parameters = inspect.signature(function).parameters
        name = getattr(function, "__name__", repr(function))
        if unknown := sorted(set(given) - set(parameters)):
            raise ValueError(f"descriptor {name} has no argument {unknown[0]!r}; it takes {', '.join(parameters)}")
        known = (*given, *SUPPLIED, COMPLETED)
        for position, (key, parameter) in enumerate(parameters.items()):
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if position and not variadic and parameter.default is parameter.empty and key not in known:
                raise ValueError(f"descriptor {name} needs a value of {key!r}; give functools.partial({name}, {key}=…)")
        if not hasattr(function, "__qualname__"):
            raise ValueError(
                f"descriptor={function!r} must be a function defined with def, so that a model file can name it"
            )
        real = {key: value for key, value in given.items() if _is_real(value)}
        rest = tuple(sorted((key, value) for key, value in given.items() if key not in real))
        for key, value in rest:
            if not _is_setting(value):
                raise ValueError(
                    f"descriptor {name}: {key}={value!r} must be a real number or array (a hyperparameter), or an integer, "
                    "a string, a bool, None or nested tuples of them (a setting)"
                )
        described = cls(function, real, rest)
        if "neighbors" in parameters and not described.cutoff > 0:
            raise ValueError(f"descriptor {name} takes neighbors, so it needs a positive number `cutoff`: how far it sees, Å")
        return described

    @property
    def name(self) -> str:
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @property
    def uses(self) -> frozenset[str]:
        """Which of the supplied keywords the function takes."""
        return frozenset(SUPPLIED) & frozenset(self.parameters)

    @property
    def cutoff(self) -> float | None:
        """The value of the parameter `cutoff`, Å; None without one."""
        default = self.parameters["cutoff"].default if "cutoff" in self.parameters else None
        value = self.arguments.get("cutoff", dict(self.settings).get("cutoff", default))
        return None if value is None or value is inspect.Parameter.empty else float(value)

    @property
    def elements(self) -> tuple[int, ...] | None:
        """The atomic numbers that have channels of their own; None where the function knows no elements, or none yet."""
        return dict(self.settings).get(COMPLETED)

    def completed(self, numbers) -> Descriptor:
        """With `elements` filled in from atomic numbers, where the function takes them and they are not given.

        Raises:
            ValueError: an atomic number that the given elements lack: its atoms would not be seen.
        """
        present = tuple(sorted({int(z) for z in np.ravel(numbers)}))
        if COMPLETED not in self.parameters:
            return self
        if self.elements is None:
            return self.replace(settings=tuple(sorted((*self.settings, (COMPLETED, present)))))
        if missing := sorted(set(present) - set(self.elements)):
            raise ValueError(
                f"descriptor {self.name}: elements={self.elements} lack {', '.join(symbols(missing))}, which the frames "
                "hold; add them, or leave elements out"
            )
        return self

    def __call__(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, "..."]:
        available = {"numbers": numbers, "cell": cell, "neighbors": neighbors}
        supplied = {key: available[key] for key in self.uses}
        return self.function(positions, **self.arguments, **dict(self.settings), **supplied)


def _is_real(value) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(_is_real(item) for item in value.values())
    return isinstance(value, float) or (hasattr(value, "dtype") and np.issubdtype(value.dtype, np.floating))


def _is_setting(value) -> bool:
    if isinstance(value, tuple):
        return all(_is_setting(item) for item in value)
    return value is None or isinstance(value, (int, str))


class GlobalKernel(struct.PyTreeNode):
    """Kernel between whole molecules, symmetrised over permutations P of identical atoms.

        k(x, x′) = A/|P| Σ_{p∈P} f(|φ(x) − φ(p x′)|²/ℓ²)

    This one-sided sum is a kernel where an exchange of atoms only permutes (or rotates) the features;
    `fit` checks that and refuses otherwise.

    Attributes:
        descriptor: a function of positions, shape (D,), or a `functools.partial` of one.
        radial: f and ℓ; without a length scale, `fit` finds one.
        permutations: what `find_permutations` returns, all elements of a group as index arrays (checked to be one),
            or None for the identity alone.
        amplitude: A, in eV²; None sets it so that the prior variance of the forces (of the energies, without forces)
            equals their mean square.

    Source: Chmiela et al., Nat. Commun. 9, 3887 (2018), doi 10.1038/s41467-018-06169-2.
    """

    descriptor: Descriptor | Callable
    radial: Radial
    permutations: Permutations | Sequence | np.ndarray | None = struct.field(pytree_node=False, default=None)
    amplitude: float | Array | None = None

    def __post_init__(self):
        if callable(self.descriptor) and not isinstance(self.descriptor, Descriptor):
            object.__setattr__(self, "descriptor", Descriptor.wrap(self.descriptor))
        if isinstance(self.permutations, (list, tuple, np.ndarray)):
            elements = np.asarray(self.permutations)
            like = np.zeros(elements.shape[-1], dtype=int)  # which atoms are alike is the data's to say: `fit` checks
            object.__setattr__(self, "permutations", Permutations.from_elements(elements, like))
        if isinstance(self.amplitude, numbers.Real) and not self.amplitude > 0:
            raise ValueError(f"amplitude={self.amplitude} must be positive (eV²), or None to take it from the data")

    def group(self, atoms: int) -> np.ndarray:
        """The permutations as an index array, shape (|P|, n); the identity alone when none were given."""
        return np.arange(atoms)[None] if self.permutations is None else self.permutations.indices

    def bare(self) -> GlobalKernel:
        """The descriptor with its radial function alone: all that compiled functions of features depend on."""
        return self.replace(permutations=None, amplitude=None)

    def features(self, positions: Float[Array, "n 3"], numbers, cell) -> Float[Array, "..."]:
        """φ(x)/ℓ, shape (D,)."""
        return self.descriptor(positions, numbers, cell) / self.radial.lengthscale

    def evaluate(self, system, other) -> Float[Array, ""]:
        """k(x, x′)/A of two systems, straight from the definition; a scalar, differentiable in both."""
        one = self.features(system.positions, system.numbers, system.cell)

        def term(permutation):
            two = self.features(jnp.asarray(other.positions)[permutation], other.numbers, other.cell)
            return self.radial.value(jnp.sum((one - two) ** 2))

        return jnp.mean(jax.vmap(term)(jnp.asarray(self.group(len(system.numbers)))))


@double_precision
def check_symmetry(kernel: GlobalKernel, positions: np.ndarray, numbers: np.ndarray, cell: np.ndarray) -> None:
    """Refuse a permutation sum that is no kernel.

    The one-sided sum is symmetric and invariant exactly when κ(φ(p x), φ(p x′)) = κ(φ(x), φ(x′)). That is
    tested on the first frame and its displacement by 0.05 Å a coordinate.

    Raises:
        ValueError: the descriptor (or a length scale per feature) breaks the permutations.
    """
    displaced = positions + 0.05 * np.random.default_rng(0).standard_normal(positions.shape)
    group = jnp.asarray(kernel.group(len(numbers)))
    features = jax.vmap(lambda x: kernel.features(x, numbers, cell))
    squares = np.asarray(jnp.sum((features(positions[group]) - features(displaced[group])) ** 2, axis=-1))
    worst = float(np.max(np.abs(squares / squares[0] - 1.0)))
    if not worst <= 1e-8:
        raise ValueError(
            f"permutations: exchanging atoms changes the distance between two descriptors of {kernel.descriptor.name} by "
            f"{worst:.1%}, so the permutation sum is no kernel; use a descriptor whose features the exchange permutes and "
            "one length scale (or the same one for exchanged features), or permutations=None"
        )


@double_precision
def feature_permutations(
    kernel: GlobalKernel, positions: np.ndarray, numbers: np.ndarray, cell: np.ndarray
) -> np.ndarray | None:
    """How the features of a permuted geometry are those of the geometry, rearranged: φ(p x) = φ(x)[π_p].

    Found by sorting the features of one displaced geometry, confirmed on another.

    Returns:
        π, shape (|P|, D); None for descriptors whose features an exchange of atoms does more to than rearrange.
    """
    rng = np.random.default_rng(1)
    group = kernel.group(len(numbers))
    first, second = (positions + 0.05 * rng.standard_normal(positions.shape) for _ in range(2))

    def features(x):
        return np.asarray(jax.vmap(lambda y: kernel.features(y, numbers, cell))(jnp.asarray(x)))

    images = features(first[group])
    base = features(first[None])[0]
    ordered = np.sort(base)
    if np.any(np.diff(ordered) <= 1e-10 * np.abs(ordered[1:])):
        return None  # equal features, such as those beyond a cutoff, do not say which of them went where
    ranks = np.argsort(images, axis=1)
    arrangement = np.empty_like(ranks)
    np.put_along_axis(arrangement, ranks, np.broadcast_to(np.argsort(base), ranks.shape), axis=1)
    for x in (first, second):
        if not np.allclose(features(x[group]), features(x[None])[0][arrangement], rtol=1e-10, atol=1e-13):
            return None
    return arrangement.astype(np.int32)
