"""Elastic bands against the closed solution of a double well."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.mep import NEBTools
from ase.optimize import BFGS
from surfaces import DoubleWell

import mlff
from mlff.properties.elastic_bands import Path


@pytest.fixture
def ends():
    initial = Atoms("OOH", [[-1, 0, 0], [1, 0, 0], [-0.5, 1.0, 0]])
    initial.calc = DoubleWell()
    final = Atoms("OOH", [[-1, 0, 0], [1, 0, 0], [0.5, 1.0, 0]])
    final.rotate(40, (1, 2, 3))
    final.positions += 2.0
    return initial, final


def test_a_band_over_a_known_barrier(ends):
    """The final geometry is turned and shifted; the barrier is 1/16 eV at z = 0, and the ends are at zero."""
    path = mlff.band(*ends, images=7)
    assert path.barrier == pytest.approx(1 / 16, abs=2e-4)
    np.testing.assert_allclose(path.energies[[0, -1]], 0, atol=1e-9)
    assert len(path.images) == 7
    top = path.highest.get_all_distances()
    assert top[0, 2] == pytest.approx(top[1, 2], abs=0.01)
    assert path.evaluations > 7
    assert path.hessians == 0
    assert NEBTools(list(path.images)).get_barrier(fit=False)[0] == pytest.approx(path.barrier)
    assert ends[1].positions.min() > 0.5, "the ends are not moved"


def test_a_crystal_takes_the_nearest_images():
    """A vacancy of copper hops; it matters not in which cell the atom that fills it is written down."""
    initial = ase.build.bulk("Cu", cubic=True) * (2, 1, 1)
    place, hopping = initial.positions[0].copy(), 1
    final = initial.copy()
    final.positions[hopping] = place
    barriers = []
    for shift in (0, 1):
        ends = [atoms[1:] for atoms in (initial, final)]
        ends[1].positions[hopping - 1] += shift * ends[1].cell[1]
        for end in ends:
            end.calc = EMT()
            BFGS(end, logfile=None).run(fmax=0.01)
        path = mlff.band(*ends, images=3)
        barriers.append(path.barrier)
        assert path.energies[-1] == pytest.approx(path.energies[0], abs=1e-3)
        assert np.argmax(path.energies) == 1
    assert barriers[0] == pytest.approx(barriers[1], abs=1e-6)
    assert 0.3 < barriers[0] < 1.5


def test_the_coordinate_is_a_mass_weighted_length():
    images = [Atoms("OH", [[0, 0, x], [0, 1, 3 * x]]) for x in (0.0, 0.1, 0.4)]
    path = Path(tuple(images), 0, 0)
    metric = np.sqrt(15.999 + 9 * 1.008)
    np.testing.assert_allclose(path.coordinate, [0, 0.1 * metric, 0.4 * metric])


def test_errors(ends):
    initial, final = ends
    with pytest.raises(ValueError, match="not converged after steps=3"):
        mlff.band(initial, final, steps=3)
    with pytest.raises(ValueError, match="geometry of initial"):
        mlff.band(initial, initial.copy())
    with pytest.raises(ValueError, match="same order"):
        mlff.band(initial, final[[0, 2, 1]])
    final.positions[2] += 0.3
    with pytest.raises(ValueError, match="final: not relaxed"):
        mlff.band(initial, final)
    with pytest.raises(ValueError, match="images=2"):
        mlff.band(initial, final, images=2)
