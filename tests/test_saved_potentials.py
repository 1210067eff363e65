"""Potentials other than an expansion in model files: formulas, classes of one's own, networks, sums."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_altered import opened, replaced, signed

import mlff
from descriptors import inverse_distances
from descriptors.geometry import pair_distances
from descriptors.schnet import schnet_energy, schnet_parameters
from mlff.cli.main import show


def springs(positions, *, stiffness=2.0, length=1.0):
    return 0.5 * stiffness * jnp.sum((pair_distances(positions) - length) ** 2)


class Morse(mlff.Potential):
    """A Morse potential of every pair."""

    depth: float
    width: np.ndarray

    def energy(self, positions, numbers, cell, neighbors):
        r = pair_distances(positions)
        return jnp.sum(self.depth * (1.0 - jnp.exp(-self.width * (r - 1.0))) ** 2)


def network():
    parameters = schnet_parameters(0, features=8, interactions=1, radial=6)
    return functools.partial(schnet_energy, parameters=parameters, cutoff=4.0, features=8, interactions=1, radial=6)


@pytest.fixture(scope="module")
def force_fields(water_model):
    """By name, with the modules that the file names."""
    numbers = water_model.numbers
    formula = mlff.ForceField.of(functools.partial(springs, stiffness=3.0), numbers)
    own = mlff.ForceField.of(Morse(1.5, np.array([1.0, 2.0, 3.0])), numbers)
    return {
        "formula": (formula, (__name__,)),
        "own class": (own, (__name__,)),
        "network": (mlff.ForceField.of(network(), elements=(1, 8), order=2), ()),
        "sum": (water_model + formula, (__name__,)),
        "sum of sums": (own + (water_model + formula), (__name__,)),
    }


@pytest.mark.parametrize("kind", ["formula", "own class", "network", "sum", "sum of sums"])
def test_they_come_back_as_they_were(kind, force_fields, water, tmp_path, capsys):
    force_field, trusted = force_fields[kind]
    path, where = tmp_path / "m.mlff", {"positions": water[50].positions, "numbers": water[50].numbers}
    force_field.save(path)
    loaded = mlff.load(path, trusted=trusted)
    assert loaded.energy(**where) == force_field.energy(**where)
    np.testing.assert_array_equal(loaded.hessian(**where), force_field.hessian(**where))
    assert (loaded.kernel, loaded.record, repr(loaded)) == (None, force_field.record, repr(force_field))
    assert jax.tree.structure(loaded.model) == jax.tree.structure(force_field.model)  # with settings and orders
    show(path, list(trusted))
    assert capsys.readouterr().out.startswith(f"{force_field}")
    if trusted:
        with pytest.raises(ValueError, match=rf"m\.mlff: wants {trusted[0]}:"):
            mlff.load(path)


def test_headers_are_json_of_every_reader(force_fields, tmp_path):
    """Which has no infinity: an order of derivative that is one is a word."""
    force_fields["formula"][0].save(tmp_path / "m.mlff")
    header, _ = opened(tmp_path / "m.mlff")
    assert header["model"]["order"] == {"float": "inf"}
    assert mlff.load(tmp_path / "m.mlff", trusted=(__name__,)).model.order == math.inf


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        ("formula", ("model",), {"class": "Part"}, "model has no kernel"),
        ("formula", ("model",), {"class": f"{__name__}:springs"}, "defines no class springs"),
        ("formula", ("model", "function", "arguments", "mapping", "stiffness"), {"float": "nan"}, "expected by name a real"),
        ("formula", ("model", "function"), {"function": f"{__name__}:springs"}, "expected Descriptor"),
        ("formula", ("model", "order"), -1, "model.order is -1"),
        ("formula", ("model", "order"), {"float": "nan"}, "model.order is nan"),
        ("formula", ("model", "elements"), [1], "numbers"),
        ("formula", ("numbers",), [1, 1], "numbers is .*expected atomic numbers"),
        ("formula", ("kernel",), {"class": "RBF", "lengthscale": 1.0}, "kernel is RBF.*expected KernelBase"),
        ("formula", ("record",), {"terms": [1]}, "record.terms is .*JSON object"),
        ("formula", ("record",), {"n_train": 3}, "record has no units"),
        ("formula", ("record",), {"labels": ["lies"]}, "record.labels has 'lies'"),
        ("formula", ("record",), {"closest": {"H-H": -1}}, "record.closest is"),
        ("own class", ("model", "depth"), {"float": "inf"}, "model.depth is inf, expected data"),
        ("own class", ("model", "depth"), {"class": "RBF", "lengthscale": -1.0}, "lengthscale is -1.0"),
        ("sum", ("model", "terms"), [], "model.terms is .*1 or more"),
        ("sum", ("model", "terms", 1), None, "model.terms is .*expected a list"),
        ("sum", ("model", "terms", 0, "label_order"), 2, "label_order is 2, and curvature is not there"),
        ("sum", ("model", "terms", 0, "parts", 0, "kernel", "radial", "lengthscale"), 3.001, "is not the one that the model"),
        ("sum", ("record", "terms", 0, "geometry_numbers"), [8, 1], r"record\.terms\.0\.geometry_numbers are 2"),
    ],
)  # fmt: skip
def test_altered_files_are_refused(kind, place, value, message, force_fields, tmp_path):
    force_fields[kind][0].save(tmp_path / "m.mlff")
    header, arrays = opened(tmp_path / "m.mlff")
    signed(tmp_path / "m.mlff", replaced(header, place, value), arrays)
    with pytest.raises(ValueError, match=rf"m\.mlff: .*{message}"):
        mlff.load(tmp_path / "m.mlff", trusted=(__name__,))


def test_a_descriptor_that_changed_is_noticed_in_a_sum(water, tmp_path):
    def scaled(positions, *, scale=1.0):
        return scale * inverse_distances(positions)

    fitted = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0)), water[:3])
    (fitted + mlff.ForceField.of(springs, fitted.numbers)).save(tmp_path / "m.mlff")
    header, arrays = opened(tmp_path / "m.mlff")
    place = ("model", "terms", 0, "parts", 0, "kernel", "descriptor")
    header = replaced(header, (*place, "function"), {"function": "mine:scaled"})
    signed(tmp_path / "m.mlff", header, arrays)
    given = {"mine:scaled": scaled}
    mlff.load(tmp_path / "m.mlff", trusted=(__name__,), descriptors=given)
    signed(tmp_path / "m.mlff", replaced(header, (*place, "arguments"), {"mapping": {"scale": 1.001}}), arrays)
    with pytest.raises(ValueError, match="is not the one that the model was fitted with"):
        mlff.load(tmp_path / "m.mlff", trusted=(__name__,), descriptors=given)
