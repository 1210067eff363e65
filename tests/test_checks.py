"""Forces against energies along neighbouring frames: wrong ones are noticed, right ones are not."""

import ase.io
import ase.units
import pytest

import mlff
from mlff.checks import force_energy_slope

KCAL = ase.units.kcal / ase.units.mol


@pytest.mark.parametrize(
    ("factor", "word"), [(-1.0, "point up the energy"), (1 / KCAL, "units"), (0.529, "units"), (1 / 0.529, "units")]
)
def test_wrong_forces_are_a_warning_with_the_slope(tmp_path, datasets, factor, word, caplog):
    frames = ase.io.read(datasets / "ethanol.extxyz", "::4")
    for atoms in frames:
        atoms.arrays["REF_forces"] *= factor
    ase.io.write(tmp_path / "e.extxyz", frames)
    with caplog.at_level("WARNING"):
        data = mlff.Dataset.read(tmp_path / "e.extxyz")
    assert word in caplog.text
    assert force_energy_slope(data)[0] == pytest.approx(1 / factor, rel=0.15)


def test_right_forces_are_no_warning(datasets, caplog):
    with caplog.at_level("WARNING"):
        for name in ("ethanol", "malonaldehyde", "benzene", "water"):
            for index in (":", ":50", "::40"):
                mlff.Dataset.read(datasets / f"{name}.extxyz", index=index)
    assert not caplog.records
