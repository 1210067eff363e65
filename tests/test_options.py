"""The texts of options, and that the command line names every recipe and radial function."""

import pytest

from mlff.cli.options import Radial, Recipe, parse_keys, parse_labels, parse_noise
from mlff.kernels.radial import RADIALS
from mlff.regression.recipes import RECIPES


def test_every_recipe_and_radial_function_is_an_option():
    assert {recipe.value for recipe in Recipe} == set(RECIPES)
    assert {radial.value.replace("-", "") for radial in Radial} == {name.lower() for name in RADIALS}


def test_labels():
    assert parse_labels(None) is None
    assert parse_labels("both") == ("energy", "forces")
    assert parse_labels("forces, hessian") == ("forces", "hessian")
    with pytest.raises(ValueError, match="names with commas"):
        parse_labels("forces,,energy")


def test_what_is_given_twice_contradicts_itself():
    with pytest.raises(ValueError, match="--key energy=F: the key of energy is given already, E; give one"):
        parse_keys(["energy=E", "energy=F"])
    with pytest.raises(ValueError, match=r"--noise forces=2: the noise of forces is given already, 0\.1; give one"):
        parse_noise(["forces=0.1", "forces=2"])


def test_keys_and_noise():
    assert parse_keys(["energy=E", "forces=F"]) == {"energy": "E", "forces": "F"}
    assert parse_noise(["0.1"]) == 0.1
    assert parse_noise(["forces=0.1", "energy=1e-3"]) == {"forces": 0.1, "energy": 1e-3}
    assert parse_noise(None) is None
    with pytest.raises(ValueError, match=r"write 0\.001, or forces=0\.001"):
        parse_noise(["forces"])
