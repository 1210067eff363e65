"""⟨G, K⟩ of some frames as rows and others as columns: its derivatives against differences of blocks of the matrix."""

import numpy as np
import pytest

import mlff
from mlff.kernels.radial import Product
from mlff.regression.system.gram import Side, block
from mlff.regression.tuning import contracted
from mlff.regression.tuning.contracted import Labelled, derivatives

STEP = 1e-4
STENCIL = {1: 2 / 3, -1: -2 / 3, 2: -1 / 12, -2: 1 / 12}  # of fourth order


def labelled(generator, frames, environments, labels, features) -> Labelled:
    points = generator.normal(size=(frames, environments, features))
    tangents, values = generator.normal(size=(2, frames, environments, labels, features))
    return Labelled(points, tangents, values[..., 0])


def side(given: Labelled, rearranged=None) -> Side:
    points, tangents, values = given
    if rearranged is not None:  # every image, in turn; their mean is taken
        count = len(rearranged)
        points = points[:, 0][:, rearranged]
        tangents = np.stack([tangents[:, 0][..., places] for places in rearranged], axis=1) / count
        values = np.repeat(values, count, axis=1) / count
    frames, environments, labels = values.shape
    nothing = np.zeros((frames, environments, 0, points.shape[-1]))
    return Side(points, values, tangents, nothing, np.zeros((frames, labels, 0)))


CASES = {
    "one block": (mlff.Matern52(1.0), (5,), False),
    "two blocks": (Product(factors=(mlff.RBF(1.3), mlff.Matern72(0.8))), (2, 3), False),
    "images": (mlff.RBF(1.0), (4,), True),
}


@pytest.mark.parametrize("summed", [True, False], ids=["cotangent", "equal numbers"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("together", [1 << 22, 1], ids=["at once", "column by column"])
def test_derivatives_are_those_of_the_matrix(case, summed, together, monkeypatch):
    radial, sizes, exchanged = CASES[case]
    monkeypatch.setattr(contracted, "SUMMED", together)
    generator = np.random.default_rng(0)
    rows = labelled(generator, 3, 1 if exchanged else 2, 4, sum(sizes))
    columns = labelled(generator, 2, 1 if exchanged else 3, 4 if not summed else 5, sum(sizes))
    rearranged = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3]]) if exchanged else None
    weights = generator.normal(size=(3, 2, 4, 5)) if summed else None
    full = np.broadcast_to(np.eye(4), (3, 2, 4, 4)) if weights is None else weights

    def number(rows: Labelled, columns: Labelled) -> float:
        matrix = block(radial, side(rows), side(columns, rearranged), sizes)
        return float(np.einsum("mrnq,mnrq", matrix, full))

    found = derivatives(radial, rows, columns, weights, rearranged, sizes)
    for which, (points, tangents) in enumerate(found):
        for name, bar in (("points", points), ("tangents", tangents)):
            given = (rows, columns)[which]
            direction = generator.normal(size=bar.shape)
            slope = 0.0
            for k, weight in STENCIL.items():
                moved = given._replace(**{name: getattr(given, name) + k * STEP * direction})
                slope += weight * number(*((moved, columns) if which == 0 else (rows, moved))) / STEP
            assert np.vdot(bar, direction) == pytest.approx(slope, rel=1e-8)
