"""Descriptor: a plain JAX function of positions, with its hyperparameters and what it wants to be given."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import itertools
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.precision import Array
from mlff.trees import Tree
from mlff.units import symbols

SUPPLIED = ("numbers", "cell", "neighbors")  # keyword parameters of descriptors that the kernel fills in
COMPLETED = "elements"  # the one that `fit` fills in from the data: atomic numbers, in ascending order


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable) -> Mapping[str, inspect.Parameter]:
    """Of the signature, whose inspection takes as long as a small model's energy."""
    return inspect.signature(function).parameters


class Descriptor(Tree):
    """A descriptor function with its hyperparameters.

    Attributes:
        function: `function(positions, …) -> array`, of shape (D,) for a molecule, (n, D) for atomic environments; keyword
            parameters named `numbers`, `cell` and `neighbors` are supplied, `elements` is filled in from the data.
            One that takes `neighbors` has a parameter `cutoff`: how far it sees, Å.
        arguments: real-valued hyperparameters by name, arrays or nested dictionaries of them; traced, so that they can be
            differentiated. Tuples and lists of numbers, such as `powers=(1.0, 2.5)` or rows of them, become arrays.
        settings: all other arguments (integers, strings, tuples of integers, …) as (name, value) pairs; compiled in.
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
        if not hasattr(function, "__qualname__"):
            raise ValueError(
                f"descriptor={function!r} must be a function defined with def, so that a model file can name it"
            )
        parameters = inspect.signature(function).parameters
        name = function.__name__
        _require_bound(name, parameters, given)
        given = {key: _rows(value) for key, value in given.items()}
        real = {key: value for key, value in given.items() if _is_real(value)}
        rest = tuple(sorted((key, value) for key, value in given.items() if key not in real))
        for key, value in rest:
            if not _is_setting(value):
                raise ValueError(
                    f"descriptor {name}: {key}={value!r} must be real numbers (a number, an array, rows of them or named ones: "
                    "a hyperparameter), or an integer, a string, a bool, None or nested tuples of them (a setting)"
                )
        if COMPLETED in real:
            raise ValueError(
                f"descriptor {name}: {COMPLETED}={given[COMPLETED]} must be atomic numbers, a tuple of integers"
            )
        described = cls(function, real, rest)
        if "neighbors" in parameters and not (described.cutoff or 0.0) > 0.0:
            raise ValueError(
                f"descriptor {name} takes neighbors, so it needs a positive number `cutoff`: how far it sees, Å"
            )
        return described

    @property
    def name(self) -> str:
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return _parameters(self.function)

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

    @property
    def named_arguments(self) -> dict[str, Any]:
        """Arguments by name, those in dictionaries by all names on the way to them, "layer.weights"."""
        return dict(_named(self.arguments))

    def with_arguments(self, values: Mapping[str, Any]) -> Descriptor:
        """With some of these replaced."""
        return self.replace(arguments=_replaced(self.arguments, values))

    def spelled_out(self) -> Descriptor:
        """With every default that is a real number among its arguments."""
        known = {*self.arguments, *dict(self.settings)}
        defaults = {name: parameter.default for name, parameter in self.parameters.items() if name not in known}
        return self.replace(arguments={**{k: v for k, v in defaults.items() if _is_real(v)}, **self.arguments})

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
        if len(set(self.elements)) < len(self.elements):
            raise ValueError(
                f"descriptor {self.name}: elements={self.elements} name one more than once; name each once"
            )
        if missing := sorted(set(present) - set(self.elements)):
            raise ValueError(
                f"descriptor {self.name}: elements={self.elements} lack {', '.join(symbols(missing))}, which the frames "
                "hold; add them, or leave elements out"
            )
        return self

    def __call__(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> Float[Array, "..."]:
        available = {"numbers": numbers, "cell": cell, "neighbors": neighbors}
        supplied = {key: available[key] for key in self.uses}
        return self.function(positions, **self.arguments, **dict(self.settings), **supplied)


def _require_bound(name: str, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Refuse a function that cannot be called with positions, what is supplied, and what was given."""
    first = next(iter(parameters.values()), None)
    if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
        raise ValueError(f"descriptor {name} takes no positions; its first argument must be those of the atoms")
    if unknown := sorted(set(given) - set(parameters)):
        raise ValueError(f"descriptor {name} has no argument {unknown[0]!r}; it takes {', '.join(parameters)}")
    if supplied := sorted(set(given) & {first.name, *SUPPLIED}):
        raise ValueError(f"descriptor {name}: {supplied[0]} comes from the frames; leave it out")
    known = (*given, *SUPPLIED, COMPLETED)
    for key, parameter in list(parameters.items())[1:]:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if not variadic and parameter.default is parameter.empty and key not in known:
            raise ValueError(f"descriptor {name} needs a value of {key!r}; give functools.partial({name}, {key}=…)")


def _rows(value):
    """Tuples and lists as an array where they are real numbers in rows of one length, not all integers; else as tuples."""
    if not isinstance(value, (tuple, list)):
        return value
    items = tuple(_tuples(item) for item in value)
    if any(isinstance(leaf, float) for leaf in _leaves(items)) and all(
        isinstance(leaf, numbers.Real) and not isinstance(leaf, bool) for leaf in _leaves(items)
    ):
        with contextlib.suppress(ValueError):  # of rows that differ in length
            return np.array(items, dtype=np.float64)
    return items


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, (tuple, list)) else value


def _leaves(value):
    return itertools.chain.from_iterable(map(_leaves, value)) if isinstance(value, tuple) else (value,)


def _named(arguments: Mapping, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in arguments.items():
        yield from _named(value, f"{before}{key}.") if isinstance(value, Mapping) else [(before + str(key), value)]


def _replaced(arguments: Mapping, values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    return {
        key: _replaced(value, values, f"{before}{key}.")
        if isinstance(value, Mapping)
        else values.get(f"{before}{key}", value)
        for key, value in arguments.items()
    }


def _is_real(value) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(_is_real(item) for item in value.values())
    return isinstance(value, float) or (hasattr(value, "dtype") and np.issubdtype(value.dtype, np.floating))


def _is_setting(value) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, float) or _is_setting(item) for item in value)
    return value is None or isinstance(value, (int, str))


def import_descriptor(name: str) -> Callable:
    """The function behind `package.module:function`.

    Raises:
        ValueError: no such module or function.
    """
    return import_function("descriptor", name, "descriptors.fchl19:fchl19")


def import_function(what: str, name: str, example: str = "mine:calculator") -> Callable:
    """The function behind `package.module:function`.

    Arguments:
        what: it is, for messages.
    Raises:
        ValueError: no such module or function.
    """
    module, separator, attribute = name.partition(":")
    if not separator or not module or not attribute:
        raise ValueError(f"{what} {name!r}: write package.module:function, for example {example}")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{what} {name} cannot be imported ({error}); put {module.split('.')[0]}.py where Python finds it "
            "(the folder you call from, or PYTHONPATH)"
        ) from error
