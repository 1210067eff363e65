"""Radial functions f(s) of s = |φ − φ′|²/ℓ², closed under differentiation, each with its order.

`order` is how many times, both arguments together, κ(φ, φ′) = f(s) can be differentiated at φ = φ′:
labels of order m and results of order n need m + n ≤ order.
"""

import functools
import math
import numbers
import operator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float
from scipy.special import gammainc, gammainccinv, gammaincinv

from mlff.arguments import require_positive
from mlff.precision import Array
from mlff.trees import Tree

_RAREST = 1e-14  # share of a spectral density that is left out at either end


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _bessel(p: int, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """G_p(r) = e^{−r} θ_p(r) with r = √s and the reverse Bessel polynomials θ_p; G_{−1} = e^{−r}/r.

    The identity dG_p/ds = −G_{p−1}/2 closes the chain: no link has a division by r until G_{−1}, which
    is where derivatives at s = 0 cease to exist. There it is set to 0: in every derivative that does exist
    it meets a factor φ − φ′ = 0.
    """
    # Rounding can make |a|² + |b|² − 2a·b slightly negative.
    r = jnp.sqrt(jnp.maximum(s, 0.0))
    if p < 0:
        return jnp.where(r > 0.0, jnp.exp(-r) / jnp.where(r > 0.0, r, 1.0), 0.0)
    # θ_0 = 1, θ_1 = r + 1, θ_p = (2p − 1) θ_{p−1} + r² θ_{p−2}
    before, theta = jnp.ones_like(r), jnp.ones_like(r) if p == 0 else r + 1.0
    for k in range(2, p + 1):
        before, theta = theta, (2 * k - 1) * theta + r * r * before
    return jnp.exp(-r) * theta


@_bessel.defjvp
def _bessel_jvp(p, primals, tangents):
    (s,), (ds,) = primals, tangents
    if p < 0:
        # d(e^{−r}/r)/ds = −e^{−r}(1 + r)/(2 r³), plain: beyond every order that is offered
        r = jnp.sqrt(jnp.maximum(s, 0.0))
        safe = jnp.where(r > 0.0, r, 1.0)
        slope = jnp.where(r > 0.0, -jnp.exp(-r) * (1.0 + r) / (2.0 * safe**3), 0.0)
        return _bessel(p, s), slope * ds
    return _bessel(p, s), -0.5 * _bessel(p - 1, s) * ds


def _of_all_widths(
    generator: np.random.Generator, shape: float, count: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of a scale mixture of normal distributions, their precisions of a gamma distribution of mean 1.

    What labels do not tell of a function that has few derivatives lies in high frequencies, which are rare. So precisions are taken
    from layers that are equally wide in their logarithm, one of each, and weighted by how much of the distribution a layer holds.
    """
    edges = np.geomspace(gammaincinv(shape, _RAREST), gammainccinv(shape, _RAREST), count + 1) / shape
    weights = np.diff(gammainc(shape, shape * edges))
    layers = generator.permutation(count)
    drawn = np.exp(generator.uniform(np.log(edges[:-1]), np.log(edges[1:])))[layers]
    return generator.standard_normal((count, size)) / np.sqrt(drawn)[:, None], count * weights[layers] / weights.sum()


class Radial(Tree):
    """What every radial function has: a length scale in the units of the descriptor, `value` and `order`."""

    lengthscale: Float[Array, "..."] | float | None = None

    order: ClassVar[float]
    label: ClassVar[str]
    of_unit_length: ClassVar[bool] = False  # whether it takes no features but those of length 1

    def __post_init__(self):
        require_positive("lengthscale", self.lengthscale)

    def value(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        raise NotImplementedError

    def derivatives(self, s: Float[Array, "*shape"], count: int) -> tuple[Float[Array, "*shape"], ...]:
        """f, f′, …, up to the `count`-th derivative, elementwise, by nested forward mode."""
        functions = [self.value]
        for _ in range(count):
            functions.append(_slope(functions[-1]))
        return tuple(function(s) for function in functions)

    def frequencies(self, generator: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Wave vectors ω and weights w of mean 1 with the spectral density of f: the mean of w cos(ω·δ) is f(|δ|²).

        Returns:
            shapes (count, size) and (count,).
        Raises:
            ValueError: f is no function of the distance alone, so it has none.
        """
        raise ValueError(
            f"sample: functions cannot be drawn from a kernel with the radial function {self.label}; take RBF or a Matérn kernel"
        )

    def partials(self, s: Float[Array, "..."], count: int) -> tuple[Float[Array, "..."], ...]:
        """f, ∂f/∂s_i, ∂²f/∂s_i∂s_j, … up to `count` indices, for s of shape (b, …): one s for every block of features."""
        if len(s) == 1:
            return tuple(f[(None,) * k] for k, f in enumerate(self.derivatives(s[0], count)))
        found, functions = [], np.array(self.value, dtype=object)
        for _ in range(count + 1):
            found.append(_evaluated(functions, s))
            # mixed derivatives do not depend on their order: every one is computed once, by its sorted indices
            functions = _differentiated(functions, len(s))
        return tuple(found)


def _slope(function):
    return lambda s: jax.jvp(function, (s,), (jnp.ones_like(s),))[1]


def _differentiated(functions: np.ndarray, count: int) -> np.ndarray:
    """One more index on an array of functions of `count` variables; equal entries for permuted indices."""
    result = np.empty((*functions.shape, count), dtype=object)
    for index in np.ndindex(result.shape):
        ordered = tuple(sorted(index))
        result[index] = result[ordered] if ordered < index else _partial(functions[index[:-1]], index[-1])
    return result


def _evaluated(functions: np.ndarray, s):
    values: dict[tuple[int, ...], Array] = {}
    for index in np.ndindex(functions.shape):
        ordered = tuple(sorted(index))
        if ordered not in values:
            values[ordered] = functions[ordered](*s)
    flat = [values[tuple(sorted(index))] for index in np.ndindex(functions.shape)]
    return jnp.stack(flat).reshape(*functions.shape, *s.shape[1:])


def _partial(function, i: int):
    def derivative(*s):
        along = [jnp.ones_like(part) if k == i else jnp.zeros_like(part) for k, part in enumerate(s)]
        return jax.jvp(function, s, tuple(along))[1]

    return derivative


class _Matern(Radial):
    degree: ClassVar[int]

    def value(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        p = self.degree
        return _bessel(p, (2 * p + 1) * s) / math.prod(range(1, 2 * p, 2))

    def frequencies(self, generator: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of Student's t distribution with 2p + 1 degrees of freedom."""
        return _of_all_widths(generator, self.degree + 0.5, count, size)


class Matern32(_Matern):
    """Matérn-3/2: f = (1 + r) e^{−r}, r = √(3s). Order 2: forces from forces, no Hessian."""

    degree: ClassVar[int] = 1
    order: ClassVar[float] = 2
    label: ClassVar[str] = "Matérn-3/2"


class Matern52(_Matern):
    """Matérn-5/2: f = (1 + r + r²/3) e^{−r}, r = √(5s). Order 4: Hessians and cubic constants from forces."""

    degree: ClassVar[int] = 2
    order: ClassVar[float] = 4
    label: ClassVar[str] = "Matérn-5/2"


class Matern72(_Matern):
    """Matérn-7/2: f = (1 + r + 2r²/5 + r³/15) e^{−r}, r = √(7s). Order 6."""

    degree: ClassVar[int] = 3
    order: ClassVar[float] = 6
    label: ClassVar[str] = "Matérn-7/2"


class RBF(Radial):
    """Squared exponential: f = exp(−s/2). Any order."""

    order: ClassVar[float] = math.inf
    label: ClassVar[str] = "RBF"

    def value(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.exp(-0.5 * s)

    def frequencies(self, generator: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a normal distribution."""
        return generator.standard_normal((count, size)), np.ones(count)


class RationalQuadratic(Radial):
    """Rational quadratic: f = (1 + s/(2α))^{−α}, a scale mixture of RBFs; α → ∞ is the RBF. Any order."""

    alpha: Float[Array, ""] | float = 1.0

    order: ClassVar[float] = math.inf
    label: ClassVar[str] = "rational quadratic"

    def __post_init__(self):
        super().__post_init__()
        require_positive("alpha", self.alpha)

    def value(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (1.0 + s / (2.0 * self.alpha)) ** (-self.alpha)

    def frequencies(self, generator: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of normal distributions whose squared widths have a gamma distribution of shape α and mean 1."""
        squares = generator.gamma(float(self.alpha), 1.0 / float(self.alpha), count)
        return np.sqrt(squares)[:, None] * generator.standard_normal((count, size)), np.ones(count)


class Polynomial(Radial):
    """Power of the scalar product of features of unit length, (φ·φ′)^ζ = (1 − s/2)^ζ. Any order.

    A longer length scale mixes in all lower powers, (1 − 1/ℓ² + φ·φ′/ℓ²)^ζ. It is a kernel on the unit sphere alone: `fit` refuses
    features of another length.

    Source: Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), doi 10.1103/PhysRevB.87.184115.
    """

    lengthscale: Float[Array, "..."] | float | None = 1.0
    degree: int = struct.field(pytree_node=False, default=4)

    order: ClassVar[float] = math.inf
    label: ClassVar[str] = "polynomial"
    of_unit_length: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.lengthscale, (float, int)) and self.lengthscale < 1.0:
            raise ValueError(
                f"lengthscale={self.lengthscale} must be at least 1: (1 − 1/ℓ² + φ·φ′/ℓ²)^ζ is no kernel below"
            )
        if isinstance(self.degree, bool) or not isinstance(self.degree, numbers.Integral) or self.degree < 1:
            raise ValueError(f"degree={self.degree!r} must be a whole number from 1")

    def value(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return (1.0 - 0.5 * s) ** self.degree


class Product(Radial):
    """Product Π_i f_i(s_i) of radial functions, each of the distance in its own block of features."""

    factors: tuple[Radial, ...] = ()

    label: ClassVar[str] = "product"

    @property
    def order(self) -> int | float:
        return min(factor.order for factor in self.factors)

    def value(self, *s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        values = [factor.value(part) for factor, part in zip(self.factors, s, strict=True)]
        return functools.reduce(operator.mul, values)


class Sensitivity(Radial):
    """∂f/∂ln a of a radial function f and one of its numbers a: of its length scale −2 s f′(s), s = |δ|²/ℓ².

    A radial function as any other, so the matrix of the labels under it is the derivative of their matrix under f.
    """

    of: Radial | None = None
    number: str = struct.field(pytree_node=False, default="lengthscale")

    label: ClassVar[str] = "sensitivity"

    @property
    def order(self) -> int | float:
        return self.of.order

    def value(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if self.number == "lengthscale":
            return jax.jvp(self.of.value, (s,), (-2.0 * s,))[1]
        now = jnp.asarray(getattr(self.of, self.number), s.dtype)
        return jax.jvp(lambda a: self.of.replace(**{self.number: a}).value(s), (now,), (now,))[1]


RADIALS = {cls.__name__: cls for cls in (RBF, Matern32, Matern52, Matern72, RationalQuadratic, Polynomial)}
SMOOTHEST = "Matern72 or RBF"


def require_order(radial: Radial, labels: int, result: int, what: str) -> None:
    """Refuse a derivative that the kernel does not have.

    Arguments:
        labels: highest order of derivative among the labels.
        result: order of derivative of the result.
        what: name of the result, for the message.
    Raises:
        ValueError: labels + result > radial.order; the message names kernels that have it.
    """
    if labels + result > radial.order:
        raise ValueError(
            f"{what} does not exist for {radial.label}: labels of order {labels} and a result of order {result} need a "
            f"kernel that is {labels + result} times differentiable, this one is {radial.order:g} times; "
            f"use {'Matern52, ' if labels + result <= 4 else ''}{SMOOTHEST}"
        )
