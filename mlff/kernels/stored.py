"""What a file may hold of kernels: their classes, under the names that files have for them, and what their fields may be."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from mlff.archive import Registry, Stored
from mlff.data.permutations import Permutations
from mlff.expected import (
    COUNT,
    ELEMENT,
    FLAG,
    NUMBER,
    POSITIVE,
    Expected,
    array,
    instance,
    named,
    one_of,
    optional,
    reals,
    several,
    wholes,
)
from mlff.kernels.components import Components
from mlff.kernels.composed import ProductKernel, SumKernel
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.kernels import GlobalKernel, LocalKernel
from mlff.kernels.radial import RADIALS, Radial


def _is_argument(value) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(_is_argument, value.values()))
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and bool(np.isfinite(value).all())
    return isinstance(value, float) and NUMBER.holds(value)


def _is_compiled_in(value) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_compiled_in, value))
    return value is None or isinstance(value, (bool, str)) or NUMBER.holds(value)


ELEMENTS = Expected(
    "atomic numbers in ascending order",
    lambda value: several(ELEMENT, least=1).holds(value) and all(a < b for a, b in itertools.pairwise(value)),
)
FUNCTION = Expected("the name of a function", lambda value: callable(value) and not isinstance(value, type))
ARGUMENT = Expected("a real number, a finite array of them, or those by name", _is_argument)
SETTING = Expected(
    "a name with data",
    lambda value: (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and _is_compiled_in(value[1])
    ),
)
SCALE = one_of(
    POSITIVE,
    Expected("positive ones in a float64 array", lambda value: reals("D").holds(value) and bool((value > 0).all())),
)
RESIDUALS = array(
    "float64", lambda value: value.dtype == np.float64 and not ((value < 0) | np.isinf(value)).any(), "P"
)  # NaN where nothing was measured
AMPLITUDE = Expected(
    "a positive, finite real number, or nothing",
    lambda value: value is None or (isinstance(value, float) and POSITIVE.holds(value)),
)
LEAF = {"descriptor": instance(Descriptor), "radial": instance(Radial), "amplitude": AMPLITUDE}
OF_RADIALS = {"RationalQuadratic": {"alpha": POSITIVE}, "Polynomial": {"degree": COUNT}}  # beside the length scale
GLOBAL = Stored(GlobalKernel, {**LEAF, "permutations": optional(instance(Permutations))})
LOCAL = Stored(
    LocalKernel, {**LEAF, "elements": ELEMENTS, "components": optional(instance(Components))}, may_lack=("components",)
)


def _described(function, arguments: dict, settings: tuple) -> Descriptor:
    """A descriptor, refused where its arguments and settings are not those of its function."""
    described = Descriptor.wrap(functools.partial(function, **{**arguments, **dict(settings)}))
    if described.arguments.keys() != arguments.keys() or described.settings != settings:
        raise ValueError(f"arguments and settings are not those of {described.name}")
    return described


KERNELS = Registry(
    {
        "GlobalKernel": GLOBAL,
        "LocalKernel": LOCAL,
        "ProductKernel": Stored(
            ProductKernel, {"factors": several(instance(GlobalKernel, LocalKernel), least=1), "amplitude": AMPLITUDE}
        ),
        "SumKernel": Stored(SumKernel, {"terms": several(instance(GlobalKernel, LocalKernel, ProductKernel), least=1)}),
        "Descriptor": Stored(
            Descriptor,
            {"function": FUNCTION, "arguments": named(ARGUMENT), "settings": several(SETTING)},
            build=_described,
        ),
        "Components": Stored(Components, {"bases": reals("z D k"), "normalised": FLAG}),
        "Permutations": Stored(
            Permutations,
            {"indices": wholes("P n"), "generators": wholes("g n"), "residuals": RESIDUALS, "support": wholes("P")},
        ),
        **{name: Stored(cls, {"lengthscale": SCALE, **OF_RADIALS.get(name, {})}) for name, cls in RADIALS.items()},
    },
    bases=(Stored(Radial, {"lengthscale": SCALE}), GLOBAL, LOCAL),
)
