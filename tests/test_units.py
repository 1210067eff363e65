"""Unit names and factors."""

import numpy as np
import pytest

from mlff import units


@pytest.mark.parametrize(
    ("text", "energy", "length"),
    [
        ("eV", 1.0, 1.0),
        ("kcal/mol", 0.0433641, 1.0),
        ("kcal mol-1", 0.0433641, 1.0),
        ("kcal/mol/Ang", 0.0433641, 1.0),
        ("Hartree/Bohr", 27.211386, 0.529177),
        ("kJ/mol/nm", 0.01036427, 10.0),
        ("meV/Å", 1e-3, 1.0),
        ("au", 27.211386, 0.529177),
        ("a.u.", 27.211386, 0.529177),
        ("au/Ang", 27.211386, 1.0),
        ("A, eV, eV/A, float32", 1.0, 1.0),
        ("bohr, kcal/mol, kcal/mol/bohr", 0.0433641, 0.529177),
    ],
)
def test_factors(text, energy, length):
    np.testing.assert_allclose(units.parse_units(text), (energy, length), rtol=1e-6)


@pytest.mark.parametrize("text", ["", "eV/parsec", "calories", "/Ang", "eV,", ",", "eV, furlong"])
def test_unknown_units_list_the_known(text):
    with pytest.raises(ValueError, match=r"kcal/mol.*bohr"):
        units.parse_units(text)


@pytest.mark.parametrize("text", ["eV, eV/bohr, A", "eV, kcal/mol/A", "eV, float32"])
def test_lists_that_do_not_agree(text):
    with pytest.raises(ValueError, match=r"states \d units of energy and \d of length, expected one of each"):
        units.parse_units(text)


def test_formula_is_in_hill_order():
    assert units.formula(np.array([8, 6, 6, 1, 1, 1, 1, 1, 1])) == "C2H6O"


def test_a_mega_electronvolt_is_no_milli_electronvolt():
    assert units.parse_units("meV/Ang")[0] == 1e-3
    with pytest.raises(ValueError, match="units 'MeV/Ang' are not known"):
        units.parse_units("MeV/Ang")
