"""Plain functions from linear differential conditions: the operators, kernels and solver of force fields, without atoms.

    L_i u(x_ij) = y_ij + noise,   u ~ GP(c, A κ)

Boundary values, derivatives, differential equations with their right-hand sides, measured curvatures: all are conditions,
and u is the one that they all leave. Of a linear differential equation it is the collocation solution in the kernel's space.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from mlff.batching import chunk_size, map_chunks
from mlff.data.batches import Batch, LabelledFrames
from mlff.kernels.kernels import GlobalKernel
from mlff.kernels.radial import Radial, require_order
from mlff.operators import Operator, order_of
from mlff.potentials.expansion import Expansion
from mlff.precision import Array, doubled
from mlff.regression.solution import solve

NOISE = 1e-6  # of a condition that states none
_NO_CELL, _ONE = np.zeros((3, 3)), np.zeros(1, dtype=np.int32)


def coordinates(positions: Float[Array, "1 d"]) -> Float[Array, " d"]:
    """The descriptor of a plain function: its argument itself."""
    return positions[0]


def value(u: Callable, x: Float[Array, " d"]) -> Float[Array, ""]:
    """The operator of conditions on the function itself, L u = u."""
    return u(x)


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a linear operator of a function is at some points.

    Attributes:
        operator: (u, x) → number or array, linear in the function u, with at most two derivatives:
            `lambda u, x: jnp.trace(jax.hessian(u)(x))` is the Laplacian. `value` is the function itself.
        points: shape (m, d).
        values: one for every point, shape (m, …), or one number for all.
        noise: their standard deviation.
    """

    operator: Callable
    points: Float[Array, "m d"]
    values: Float[Array, "..."] | float
    noise: float = NOISE


@dataclasses.dataclass(frozen=True)
class Function:
    """A fitted function u of points of shape (d,).

    Attributes:
        model: `model.energy(x[None], …)` in pure JAX.
        kernel: with which it was fitted.
        label_order: highest derivative among its conditions.
        rows: how many linear equations were solved.
    """

    model: Expansion
    kernel: GlobalKernel
    label_order: int
    rows: int

    def __call__(self, points: Float[Array, "m d"]) -> Float[np.ndarray, " m"]:
        """u at points of shape (m, d)."""
        return self.apply(value, points)

    def apply(self, operator: Callable, points: Float[Array, "m d"]) -> Float[np.ndarray, "m ..."]:
        """Any operator of u at points of shape (m, d); it may take any derivatives that the kernel has.

        Raises:
            ValueError: the kernel lacks such derivatives.
        """
        points = np.asarray(points, dtype=np.float64)
        wrapped = _wrapped("result", operator)
        order = order_of(wrapped, points[:, None], (), highest=None)
        require_order(self.kernel.radial, self.label_order, order, f"a derivative of order {order}")
        size = chunk_size(self.model.bytes_per_geometry * (1 + points.shape[1]) ** order)
        found = [values for _, values in map_chunks(functools.partial(_apply, operator, self.model), (points,), size)]
        return np.concatenate(found)


def fit_function(conditions: Sequence[Condition], radial: Radial) -> Function:
    """The function that fulfils linear conditions, in closed form.

    Arguments:
        conditions: operators with points and values; all points of one dimension d.
        radial: κ = f(|x − x′|²/ℓ²) with its length scale, a number or one for every coordinate. Where the conditions have
            values, a constant is found with them.
    Raises:
        ValueError: shapes that do not agree, an operator that is not linear or of third order, derivatives that the
            kernel lacks, conditions that follow from others to rounding.
    """
    if not conditions:
        raise ValueError("conditions: there are none; give at least one Condition")
    dimension = np.shape(conditions[0].points)[-1]
    batches, noise, start, highest = [], {}, 0, 0
    for i, condition in enumerate(conditions):
        points = np.asarray(condition.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != dimension or not len(points):
            raise ValueError(
                f"conditions: points of condition {i} have shape {points.shape}, expected (m, {dimension})"
            )
        operator = _wrapped(f"condition {i}", condition.operator)
        highest = max(highest, order_of(operator, points[:, None], ()))
        values = np.asarray(condition.values, dtype=np.float64)
        size = _size(operator, points[:1])
        values = np.broadcast_to(values, (len(points), size)) if values.ndim == 0 else values.reshape(len(points), -1)
        noise[operator] = condition.noise
        batches.append(
            Batch(
                points[:, None], _ONE, np.zeros((len(points), 3, 3)), np.zeros((len(points), 3), dtype=bool),
                {operator.name: values}, np.arange(start, start + len(points)),
            )
        )  # fmt: skip
        start += len(points)
    kernel = GlobalKernel(coordinates, radial)
    require_order(radial, highest, highest, f"a function from derivatives of order {highest}")
    solution = solve(kernel, LabelledFrames(tuple(batches)), noise)
    return Function(solution.model, kernel.replace(amplitude=solution.amplitudes[0]), highest, solution.rows)


def _wrapped(name: str, operator: Callable) -> Operator:
    """An operator on functions of (d,) as one on functions of one row of coordinates."""
    return Operator(name, functools.partial(_on_rows, operator), "")


def _on_rows(operator: Callable, u, x):
    return operator(lambda point: u(point[None]), x[0])


def _size(operator: Operator, x) -> int:
    with doubled():
        return int(np.prod(jax.eval_shape(lambda y: operator.function(lambda z: (z**2).sum(), y), x).shape, dtype=int))


@functools.partial(jax.jit, static_argnums=0)
def _apply(operator: Callable, model: Expansion, points):
    def u(x):
        return model.energy(x[None], _ONE, _NO_CELL)

    return jax.vmap(lambda x: operator(u, x))(points)
