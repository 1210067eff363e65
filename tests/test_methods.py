"""Methods by name: the electrons that they count are those of the program."""

import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from mlff.data.methods import METHODS, lowest_multiplicity, named_calculator, require_electrons


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].charged])
def test_electrons_are_counted_as_the_program_counts_them(method):
    """Of a lone atom of a multiplicity that it cannot have, either says how many there are."""
    pytest.importorskip("tblite")
    for z in METHODS[method].elements:
        numbers = np.array([z])
        wrong = lowest_multiplicity(numbers, 0) + 1
        with pytest.raises(ValueError, match="and so a multiplicity of") as ours:
            require_electrons(method, numbers, 0, wrong)
        atoms = Atoms(numbers=numbers, positions=[[0.0, 0.0, 0.0]])
        atoms.calc = named_calculator(method, multiplicity=wrong)
        with pytest.raises(CalculationFailed) as theirs:
            atoms.get_potential_energy()
        counted = int(re.search(r"electrons \((\d+)\) and", str(theirs.value))[1])
        assert int(re.search(r"has (\d+) valence", str(ours.value))[1]) == counted
