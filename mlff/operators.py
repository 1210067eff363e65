"""Label operators: what a label is, as a linear functional of the energy, written with `jax.grad` and `jax.jvp`.

In the coordinates q of a frame (displacements of the atoms and, for stresses, the nine entries of a strain) every label of
up to second order is L u = v u + d·∇u + W:∇∇u. Its coefficients v, d and W come from the operator itself: L is applied to
u_θ = θ₀ + θ₁·q + ½ qᵀθ₂q, and what it returns is differentiated with respect to θ.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.batching import map_chunks
from mlff.compiling import jit
from mlff.precision import double_precision

HIGHEST = 2  # order of derivative that a label may have
_PROBES = 5  # polynomials up to this degree tell an operator's order
_ZERO = 1e-9
_AT_ONCE = 16  # geometries


@dataclasses.dataclass(frozen=True)
class Operator:
    """A kind of label.

        y = L u + noise,   L u = function(u, x, …)

    `function` takes the energy u as a function of positions and returns an array of labels; it must be linear in u and take
    at most two derivatives. For example the Laplacian:

        Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")

    Attributes:
        name: under which the label is found in a frame.
        function: (u, x, *arguments) → labels, in the shape in which frames hold them.
        unit: of the labels, for messages.
        arguments: what else of the frame it is given: names of other entries of its labels, or "cell" or "numbers".
        strain: whether u takes a strain, u(x, ε) = E(x (1 + ε), cell (1 + ε)), as its second argument.
    """

    name: str
    function: Callable
    unit: str
    arguments: tuple[str, ...] = ()
    strain: bool = False


def _energy(u, x):
    return u(x)


def _forces(u, x):
    return -jax.grad(u)(x)


def _hessian(u, x):
    return jax.hessian(u)(x).reshape(x.size, x.size)


def _hessian_products(u, x, vectors):
    return jax.vmap(lambda v: jax.jvp(jax.grad(u), (x,), (v,))[1])(vectors)


def _curvatures(u, x, pairs):
    return jax.vmap(lambda pair: jnp.sum(pair[1] * jax.jvp(jax.grad(u), (x,), (pair[0],))[1]))(pairs)


def _stress(u, x, cell):
    return jax.grad(u, 1)(x, jnp.zeros((3, 3))) / jnp.abs(jnp.linalg.det(cell))


ENERGY = Operator("energy", _energy, "eV")
FORCES = Operator("forces", _forces, "eV/Å")
STRESS = Operator("stress", _stress, "eV/Å³", ("cell",), strain=True)
HESSIAN = Operator("hessian", _hessian, "eV/Å²")
HESSIAN_PRODUCTS = Operator("hessian_products", _hessian_products, "eV/Å²", ("hessian_product_vectors",))
CURVATURES = Operator("curvatures", _curvatures, "eV/Å²", ("curvature_vectors",))
OPERATORS = {operator.name: operator for operator in (ENERGY, FORCES, STRESS, HESSIAN, HESSIAN_PRODUCTS, CURVATURES)}
_ORDERS = {ENERGY: 0, FORCES: 1, HESSIAN: 2}  # of those that ask nothing of a frame but its positions
_RESERVED = ("energy", "forces", "stress")


def projected_hessian(masses: Sequence[float] | np.ndarray | None = None) -> Operator:
    """Hessians from which rigid motions were projected, as some programs print them: Πᵀ ∇∇u Π.

    Π removes translations and rotations, as the orthogonal projector of Cartesian coordinates, or with `masses` of
    mass-weighted ones: Π = M^(−½) P M^(½). Away from stationary points that is not the second derivative of the energy, and
    the model must be projected in the same way to be compared with it.

    Arguments:
        masses: of the atoms, shape (n,), for mass-weighted coordinates.
    """
    weights = None if masses is None else tuple(float(mass) for mass in np.asarray(masses))
    return Operator("hessian", functools.partial(_projected_hessian, weights), "eV/Å²")


def _projected_hessian(masses: tuple[float, ...] | None, u, x):
    roots = jnp.sqrt(jnp.ones(len(x), x.dtype) if masses is None else jnp.asarray(masses, x.dtype))
    centred = x - jnp.sum(roots[:, None] ** 2 * x, axis=0) / jnp.sum(roots**2)
    axes = jnp.eye(3, dtype=x.dtype)
    shifts = jnp.broadcast_to(axes[:, None], (3, *x.shape))
    turns = jax.vmap(lambda axis: jnp.cross(axis, centred))(axes)
    rigid = (jnp.concatenate([shifts, turns]) * roots[:, None]).reshape(6, -1)
    values, vectors = jnp.linalg.eigh(rigid.T @ rigid)
    internal = jnp.where(values <= _ZERO * values[-1], vectors, 0.0)
    each = jnp.repeat(roots, 3)
    projector = (internal @ internal.T) * each / each[:, None]
    return projector.T @ _hessian(u, x) @ projector


def find_operator(label: str | Operator) -> Operator:
    """The operator itself, or the one of a name.

    Raises:
        ValueError: a name that is not known, with those that are; an operator of one's own under a name that says what force
            fields give.
    """
    if isinstance(label, Operator):
        if label.name in _RESERVED and label != OPERATORS[label.name]:
            raise ValueError(
                f"labels: an Operator of your own is named {label.name!r}, which is the name of what force fields give; give it "
                "another name"
            )
        return label
    if not isinstance(label, str) or label not in OPERATORS:
        raise ValueError(
            f"labels: {label!r} is not known; there are {', '.join(OPERATORS)}, or give an Operator of your own"
        )
    return OPERATORS[label]


class Functionals(NamedTuple):
    """The labels of one operator at some frames, as coefficients of L u = v u + d·∇u + W:∇∇u.

    values: v, shape (m, rows); directions: d, shape (m, rows, coordinates); matrices: W, symmetric, shape
    (m, rows, coordinates, coordinates), None for operators of first order.
    """

    values: Float[np.ndarray, "m rows"]
    directions: Float[np.ndarray, "m rows coordinates"]
    matrices: Float[np.ndarray, "m rows coordinates coordinates"] | None


def order_of(operator: Operator, positions: np.ndarray, arguments: tuple, highest: int | None = HIGHEST) -> int:
    """The highest derivative that an operator takes at some geometries, of those up to the fourth.

    Homogeneous polynomials of every degree about x are given to it: one of degree k answers to the k-th derivative alone.

    Arguments:
        positions: shape (m, n, 3); arguments: what the operator takes beside them, with the same leading axis.
    Raises:
        ValueError: it is not linear, gives nothing, or takes more than `highest` derivatives.
    """
    if operator in _ORDERS:
        return _ORDERS[operator]
    try:
        function = functools.partial(_answers, operator)
        answers = [answer for _, answer in map_chunks(function, (positions, arguments), _AT_ONCE)]
    except Exception as error:  # whatever the user's own function raises
        raise ValueError(
            f"labels: operator {operator.name} cannot be applied to a smooth function ({error})"
        ) from error
    sizes, excess = (np.concatenate(part).max(axis=0) for part in zip(*answers, strict=True))
    if not np.isfinite(sizes).all():
        raise ValueError(f"labels: operator {operator.name} of a smooth function is not finite")
    if not excess <= _ZERO * sizes.max():
        raise ValueError(f"labels: operator {operator.name} is not linear in the energy, so it is no label operator")
    if not sizes.any():
        raise ValueError(
            f"labels: operator {operator.name} gives zero for every polynomial up to the fourth degree; are its arguments zero?"
        )
    order = int(np.max(np.flatnonzero(sizes > _ZERO * sizes.max())))
    if highest is not None and order > highest:
        raise ValueError(
            f"labels: operator {operator.name} takes derivatives of order {order}; labels have at most {highest}"
        )
    return order


@functools.partial(jit, static_argnums=0)
def _answers(operator: Operator, positions, arguments):
    return jax.vmap(functools.partial(_answers_at, operator))(positions, arguments)


def _answers_at(operator: Operator, x, arguments):
    """Sizes of what it makes of a polynomial of each degree, and how far it is from linear."""
    # directions that no symmetry and no axis prefers
    along = jnp.asarray(np.random.default_rng(5).standard_normal((2, x.size + 9)))

    def apply(weights):
        def energy(y, strain=None):
            q = _coordinates(x, y, strain)
            ahead, aside = (jnp.sum(q * a[: q.size]) for a in along)
            return sum(weights[k] * (ahead**k + 0.5 * aside**k) for k in range(_PROBES))

        return jnp.ravel(operator.function(energy, x, *arguments))

    eye = jnp.eye(_PROBES)
    single = jax.vmap(apply)(eye)
    weights = 2.0 + jnp.arange(_PROBES, dtype=single.dtype)
    # of both signs, alike and in turn: a modulus is linear for one of them
    weights = weights * jnp.asarray([np.ones(_PROBES), -np.ones(_PROBES), (-1.0) ** np.arange(_PROBES)], single.dtype)
    excess = jnp.max(jnp.abs(jax.vmap(apply)(weights) - weights @ single))
    return jnp.max(jnp.abs(single), axis=1), excess


def _coordinates(x, y, strain):
    """q of a displaced geometry: displacements, then the strain if there is one."""
    moved = (y - x).ravel()
    return moved if strain is None else jnp.concatenate([moved, jnp.ravel(strain)])


@functools.partial(jit, static_argnums=(0, 1, 2))
def _coefficients(operator: Operator, order: int, coordinates: int, positions, arguments):
    shapes = [(coordinates,) * k for k in range(order + 1)]

    def single(x, given):
        def labels(*theta):
            def energy(y, strain=None):
                q = _coordinates(x, y, strain)
                q = jnp.concatenate([q, jnp.zeros(coordinates - q.size, q.dtype)])
                terms = [theta[0]]
                if order > 0:
                    terms.append(theta[1] @ q)
                if order > 1:
                    terms.append(0.5 * q @ theta[2] @ q)
                return sum(terms)

            return jnp.ravel(operator.function(energy, x, *given))

        return jax.jacrev(labels, argnums=tuple(range(order + 1)))(*(jnp.zeros(shape) for shape in shapes))

    return jax.vmap(single)(positions, arguments)


@double_precision
def functionals(operator: Operator, order: int, coordinates: int, positions, arguments: tuple) -> Functionals:
    """The coefficients of an operator at every frame of a batch, by reverse mode.

    Where u = ½ qᵀθq, ∇∇u = ½(θ + θᵀ), so that ∂(L u)/∂θ is the symmetric W.

    Arguments:
        order: what `order_of` found.
        coordinates: 3n, or 3n + 9 with a strain.
        positions: shape (m, n, 3); arguments: what the operator takes beside them, with the same leading axis.
    """
    coefficients = _coefficients(operator, order, coordinates, positions, arguments)
    values, *rest = (np.asarray(array) for array in coefficients)
    directions = rest[0] if order > 0 else np.zeros((*values.shape, coordinates))
    return Functionals(values, directions, rest[1] if order > 1 else None)
