"""Wrong inputs: each one line that names file, frame or argument and the remedy, exit status 2, nothing half-written."""

import json
import re
import shutil
import subprocess
import sys

import ase.io
import numpy as np
import pytest

import mlff


@pytest.fixture(scope="module")
def model_file(tmp_path_factory, water_model):
    path = tmp_path_factory.mktemp("models") / "w.mlff"
    water_model.save(path)
    return path


def frames(datasets):
    return ase.io.read(datasets / "water.extxyz", "0:30")


def extxyz(change, *options):
    """A case whose input is the water set after `change(list of atoms)`."""

    def prepare(folder, datasets, model_file):
        images = frames(datasets)
        result = change(images)
        ase.io.write(folder / "in.extxyz", result if result is not None else images, format="extxyz")
        return ["fit", "in.extxyz", "--lengthscale", "3", *options]

    return prepare


def nan_forces(images):
    images[4].arrays["REF_forces"][1, 2] = np.nan


def infinite_energy(images):
    images[5].info["REF_energy"] = np.inf


def no_labels(images):
    for atoms in images:
        del atoms.info["REF_energy"], atoms.arrays["REF_forces"]
        atoms.info["my_energy"] = 1.0


def one_without_forces(images):
    del images[3].arrays["REF_forces"]


def mixed_species(images):
    images[6].numbers[0] = 16


def other_order(images):
    images[7] = images[7][[1, 0, 2]]


def duplicate(images):
    images[9] = images[2].copy()


def coincident_atoms(images):
    images[1].positions[2] = images[1].positions[1] + 0.01


def periodic(images):
    for atoms in images:
        atoms.cell, atoms.pbc = [9, 9, 9], True


def wrong_hessian(images):
    for atoms in images:
        atoms.info["REF_hessian"] = np.eye(4)


def unknown_units_in_the_file(images):
    for atoms in images:
        atoms.info["units"] = "furlong"


def virial_without_cell(images):
    for atoms in images:
        atoms.info["virial"] = np.eye(3)


def equal_energies(images):
    for atoms in images:
        atoms.info["REF_energy"] = 0.0


def units_in_some_frames(images):
    for atoms in images:
        del atoms.info["units"]
    images[3].info["units"] = "kcal/mol"


def mixed_charges(images):
    images[8].info["charge"] = 1


def more_atoms_than_lines(folder, datasets, model_file):
    (folder / "in.extxyz").write_text("1000000000\n\nH 0 0 0\n")
    return ["fit", "in.extxyz"]


def npz(**changes):
    def prepare(folder, datasets, model_file):
        data = mlff.Dataset.read(datasets / "water.extxyz", index="0:30")
        arrays = {
            "coords": data.uniform_positions(), "energies": data.array("energy"),
            "forces": data.array("forces"), "nuclear_charges": data.uniform_numbers(),
        }  # fmt: skip
        units = changes.pop("units", None)
        arrays.update(changes)
        np.savez(folder / "in.npz", **{name: value for name, value in arrays.items() if value is not None})
        return ["fit", "in.npz", "--lengthscale", "3", *(["--units", units] if units else [])]

    return prepare


def copied(folder, datasets):
    for name in ("in.extxyz", "in.mlff"):
        shutil.copy(datasets / "water.extxyz", folder / name)


def arguments(*words, before=lambda folder, datasets: None):
    def prepare(folder, datasets, model_file):
        before(folder, datasets)
        names = {"WATER": datasets / "water.extxyz", "ETHANOL": datasets / "ethanol.extxyz", "MODEL": model_file}
        return [str(names.get(word, word)) for word in words]

    return prepare


def damaged_model(folder, datasets, model_file):
    content = bytearray(model_file.read_bytes())
    content[len(content) // 2] ^= 4
    (folder / "bad.mlff").write_bytes(content)
    return ["show", "bad.mlff"]


def foreign_version(folder, datasets, model_file):
    content = model_file.read_bytes().replace(b'\\"version\\": 6', b'\\"version\\": 7')
    assert content != model_file.read_bytes()
    (folder / "new.mlff").write_bytes(content)
    return ["md", "new.mlff", "--steps", "5"]


def damaged_npz(folder, datasets, model_file):
    np.savez(folder / "in.npz", R=np.zeros((4, 3, 3)))
    content = (folder / "in.npz").read_bytes()
    (folder / "in.npz").write_bytes(content[: len(content) // 2])
    return ["fit", "in.npz", "--units", "eV"]


def garbage(folder, datasets, model_file):
    (folder / "in.extxyz").write_text("this is no frame\n")
    return ["fit", "in.extxyz"]


def existing_trajectory(folder, datasets, model_file):
    (folder / "md.traj").write_bytes(b"something")
    return ["md", str(model_file), "--steps", "5"]


CASES = {
    "forces not finite": (extxyz(nan_forces), r"in\.extxyz: frame 4: forces is not finite"),
    "energy not finite": (extxyz(infinite_energy), r"in\.extxyz: frame 5: energy is not finite"),
    "labels under another key": (
        extxyz(no_labels),
        r"in\.extxyz: no frame has energy; the file holds my_energy, units; name the key with --key energy=…$",
    ),
    "one frame without forces": (extxyz(one_without_forces), r"in\.extxyz: frame 3 has no forces, 1 of 30"),
    "mixed species": (
        extxyz(mixed_species, "--recipe", "sgdml"),
        r"in\.extxyz: frame 6 \(H2S\) differs in composition from frame 0",
    ),
    "other order of atoms": (
        extxyz(other_order, "--recipe", "sgdml"),
        r"in\.extxyz: frame 7 .*differs in order of atoms",
    ),
    "duplicate frame": (extxyz(duplicate), r"in\.extxyz: frame 9 repeats the geometry of frame 2"),
    "coincident atoms": (
        extxyz(coincident_atoms),
        r"in\.extxyz: frame 1: atoms 1 and 2 are .* apart; are the units right",
    ),
    "periodic frames": (extxyz(periodic, "--recipe", "sgdml"), r"in\.extxyz: frame 0 is periodic.*takes no cell"),
    "Hessian of wrong shape": (
        extxyz(wrong_hessian),
        r"in\.extxyz: frame 0: hessian has shape \(4, 4\), expected \(9, 9\)",
    ),
    "unknown units in the file": (extxyz(unknown_units_in_the_file), r"units 'furlong' are not known; write energy"),
    "virial without a volume": (extxyz(virial_without_cell), r"in\.extxyz: frame 0: has a virial, but no cell"),
    "energies that are none": (extxyz(equal_energies), r"in\.extxyz: energies of 30 frames all equal 0 eV"),
    "units in some frames": (
        extxyz(units_in_some_frames),
        r"in\.extxyz: frame 3 states its units \(kcal/mol\), frame 0 and",
    ),
    "total charges of two kinds": (
        extxyz(mixed_charges),
        r"in\.extxyz: frame 8 \(H2O\) has the total charge \+1, frame 0",
    ),
    "a billion atoms claimed": (
        more_atoms_than_lines,
        r"in\.extxyz: frame 0 claims 1000000000 atoms, and the file ends",
    ),
    "a key that is not there": (
        arguments("fit", "WATER", "--key", "energy=nope", "--units", "eV/Ang"),
        r"water\.extxyz: no frame has energy; the file holds REF_energy, REF_forces, units; name the key",
    ),
    "units against the file's own": (
        arguments("fit", "WATER", "--units", "kcal/mol"),
        r"water\.extxyz: frame 0: states units 'eV/Ang', and --units 'kcal/mol' says otherwise",
    ),
    "a label to test that is not there": (
        arguments("test", "MODEL", "WATER", "--labels", "stress"),
        r"water\.extxyz: no frame has stress; the file holds",
    ),
    "npz without units": (npz(), r"in\.npz: its units are not stated; say --units 'kcal/mol'"),
    "unknown units": (npz(units="stone"), r"error: units 'stone' are not known"),
    "npz without numbers": (
        npz(units="eV", nuclear_charges=None),
        r"in\.npz: no numbers \(looked for nuclear_charges, z",
    ),
    "npz of wrong shape": (
        npz(units="eV", forces=np.zeros((30, 2, 3))),
        r"in\.npz: forces has shape \(30, 2, 3\), expected",
    ),
    "npz with objects": (
        npz(units="eV", forces=np.array([{}, None])),
        r"in\.npz: cannot be read as an npz file of plain arrays",
    ),
    "no such file": (arguments("fit", "absent.xyz"), r"absent\.xyz: no such file"),
    "no frame file": (garbage, r"in\.extxyz: ASE cannot read it"),
    "bad index": (arguments("fit", "WATER", "--frames", "a:b"), r"error: --frames 'a:b' is not understood"),
    "empty index": (
        arguments("fit", "WATER", "--frames", "900:"),
        r"error: --frames '900:' selects no frames: water\.extxyz has 500",
    ),
    "more training frames than there are": (
        arguments("fit", "WATER", "--train", "501"),
        r"error: --train 501: must be at least 1 and at most the 500 frames",
    ),
    "test frames among the training frames": (
        arguments("fit", "WATER", "--frames", "0:20", "--lengthscale", "3", "--test", "WATER"),
        r"water\.extxyz: 20 of its 500 frames were trained on",
    ),
    "too few frames for a search": (
        arguments("fit", "WATER", "--recipe", "sgdml", "--frames", "0:3"),
        r"error: --lengthscale: 3 training frames are too few.*for example --lengthscale 10\.0$",
    ),
    "negative length scale": (
        arguments("fit", "WATER", "--lengthscale", "-2"),
        r"error: --lengthscale -2\.0 must be positive",
    ),
    "negative noise": (
        arguments("fit", "WATER", "--lengthscale", "3", "--noise", "-1"),
        r"error: --noise: forces -1\.0 must be",
    ),
    "no folder to write to": (
        arguments("fit", "WATER", "--out", "no/such/w.mlff"),
        r"--out no/such/w\.mlff: there is no folder",
    ),
    "malformed key": (arguments("fit", "WATER", "--key", "energy"), r"--key energy: write label=key"),
    "unknown option": (arguments("fit", "WATER", "--lenghtscale", "3"), r"[Nn]o such option: --lenghtscale"),
    "unknown command": (arguments("fti"), r"[Nn]o such command 'fti'"),
    "another molecule": (arguments("test", "MODEL", "ETHANOL"), r"ethanol\.extxyz: the force field is for OHH"),
    "damaged model": (damaged_model, r"bad\.mlff: (its content does not match its digest|no mlff model file)"),
    "foreign format version": (
        foreign_version,
        r"new\.mlff: format 'mlff' version 7, this mlff reads 'mlff' versions 2 to 6",
    ),
    "data instead of a model": (arguments("show", "WATER"), r"water\.extxyz: no mlff model file"),
    "trajectory that exists": (existing_trajectory, r"--out md\.traj exists; go on with --resume"),
    "nothing to resume": (
        arguments("md", "MODEL", "--resume", "--out", "x.traj"),
        r"x\.traj: no trajectory of mlff md to resume",
    ),
    "output that is a folder": (arguments("fit", "WATER", "--out", "."), r"--out \.: is a folder; name a file in it"),
    "test frames of another molecule": (
        arguments("fit", "WATER", "--lengthscale", "3", "--test", "ETHANOL"),
        r"ethanol\.extxyz: the force field is for OHH",
    ),
    "damaged npz": (damaged_npz, r"in\.npz: cannot be read as an npz file"),
    "empty frame index": (arguments("fit", "WATER", "--frames", ""), r"error: --frames '' is not understood"),
    "unknown label of a key": (
        arguments("fit", "WATER", "--key", "enrgy=foo"),
        r"error: --key: 'enrgy' is not known; there are energy",
    ),
    "atom-major forces": (
        npz(units="eV", forces=np.zeros((3, 30, 3))),
        r"in\.npz: forces has shape \(3, 30, 3\), expected",
    ),
    "length unit alone": (npz(r_unit="Ang"), r"in\.npz: its units are not stated"),
    "malformed noise": (
        arguments("fit", "WATER", "--noise", "energy=small"),
        r"--noise energy=small: write 0\.001, or",
    ),
    "negative temperature": (
        arguments("md", "MODEL", "--temperature", "-300"),
        r"error: --temperature -300\.0 \(K\) must not be negative",
    ),
    "start that ASE cannot read": (arguments("md", "MODEL", "--start", "MODEL"), r"w\.mlff: ASE cannot read it"),
    "model over its data": (
        arguments("fit", "in.extxyz", "--out", "in.extxyz", before=copied),
        r"--out in\.extxyz: would replace a file that is in use",
    ),
    "model over its test frames": (
        arguments("fit", "WATER", "--test", "in.extxyz", "--out", "./in.extxyz", before=copied),
        r"--out in\.extxyz: would replace",
    ),
    "model over its report": (
        arguments("fit", "WATER", "--out", "r/report.md", "--report", "r"),
        r"--report r/report\.md: would replace a file that is in use \(--out writes it\)",
    ),
    "default name over a file": (
        arguments("fit", "in.mlff", before=copied),
        r"error: in\.mlff: exists; name the model file with --out",
    ),
    "picture over the model": (
        arguments("test", "MODEL", "WATER", "--plot", "MODEL"),
        r"--plot .*would replace a file that is in use",
    ),
    "picture without a folder": (
        arguments("test", "MODEL", "WATER", "--plot", "no/p.png"),
        r"--plot no/p\.png: there is no folder",
    ),
    "report that is a file": (
        arguments("fit", "WATER", "--report", "in.extxyz/r", before=copied),
        r"--report in\.extxyz/r: this folder cannot be made \(",
    ),
    "report that cannot be written": (
        arguments("fit", "WATER", "--report", "/proc/r"),
        r"--report /proc/r: this folder cannot be made \(",
    ),
    "two models": (
        arguments("fit", "WATER", "--recipe", "gdml", "--descriptor", "mine:x"),
        r"--recipe gdml and --descriptor mine:x: two models are named",
    ),
    "permutations of a recipe without": (
        arguments("fit", "WATER", "--recipe", "gdml", "--reach", "graph"),
        r"--reach graph: recipe gdml takes no permutations; leave --reach out",
    ),
    "permutations of a local descriptor": (
        arguments("fit", "WATER", "--frames", ":6", "--descriptor", "descriptors.fchl19:fchl19", "--reach", "none"),
        r"--reach none: descriptors\.fchl19:fchl19 describes atoms",
    ),
    "a seed of nothing": (
        arguments("fit", "WATER", "--lengthscale", "3", "--seed", "1"),
        r"--seed 1: nothing is drawn here",
    ),
    "noise twice": (
        arguments("fit", "WATER", "--noise", "forces=1", "--noise", "forces=2"),
        r"--noise forces=2: the noise of forces is given already, 1; give one",
    ),
    "a key twice": (
        arguments("fit", "WATER", "--key", "energy=a", "--key", "energy=b"),
        r"--key energy=b: the key of energy is given already, a; give one",
    ),
    "an option twice": (
        arguments("fit", "WATER", "--train", "5", "--train=6"),
        r"--train: is given more than once; give it once",
    ),
    "one noise of two labels": (
        arguments("fit", "WATER", "--frames", ":9", "--labels", "both", "--noise", "0.1"),
        r"--noise 0\.1: with labels energy, forces give one each, --noise energy=… --noise forces=…$",
    ),
    "negative seed": (
        arguments("fit", "WATER", "--train", "9", "--seed", "-1"),
        r"error: --seed -1 must be an integer from 0",
    ),
    "huge seed": (
        arguments("fit", "WATER", "--train", "9", "--seed", "9" * 30),
        r"error: --seed 9+ must be an integer from 0",
    ),
    "negative seed of an audit": (
        arguments("audit", "descriptors.distances:inverse_distances", "WATER", "--seed", "-1"),
        r"error: --seed -1 must be",
    ),
    "huge length scale": (
        arguments("fit", "WATER", "--lengthscale", "1e300"),
        r"error: --lengthscale 1e\+300 must be positive and finite \(from 1e-100 to 1e\+100\)$",
    ),
    "tiny length scale": (
        arguments("fit", "WATER", "--lengthscale", "1e-300"),
        r"error: --lengthscale 1e-300 must be positive",
    ),
    "huge noise": (
        arguments("fit", "WATER", "--frames", ":9", "--lengthscale", "3", "--noise", "1e300"),
        r"error: --noise: forces 1e\+300 must be .*not negative and finite",
    ),
    "noise that is no number": (
        arguments("fit", "WATER", "--frames", ":9", "--lengthscale", "3", "--noise", "nan"),
        r"error: --noise: forces nan must be",
    ),
    "a setting without a value": (
        arguments("fit", "WATER", "--set", "cutoff"),
        r"error: --set cutoff: write name=value",
    ),
    "a setting twice": (
        arguments("fit", "WATER", "--set", "n_max=4", "--set", "n_max=5"),
        r"error: --set n_max=5: n_max is given already, 4",
    ),
    "a setting that the descriptor lacks": (
        arguments("fit", "WATER", "--recipe", "soap-gpr", "--set", "reach=4.0"),
        r"error: descriptor soap has no argument 'reach'; it takes",
    ),
    "no inducing points": (
        arguments("fit", "WATER", "--train", "20", "--recipe", "fchl19-gpr", "--inducing", "0"),
        r"error: --inducing 0 must be at least 1",
    ),
    "noise of a group that is no number": (
        arguments("fit", "WATER", "--group-noise", "warm=much"),
        r"error: --group-noise warm=much: write group=factor or group:label=noise, for example",
    ),
    "a way to choose environments of an exact model": (
        arguments("fit", "WATER", "--train", "20", "--recipe", "fchl19-gpr", "--selection", "cur"),
        r"error: --selection 'cur': says how environments are chosen, of a sparse model",
    ),
    "noise of a label of a group that is not there": (
        arguments("fit", "WATER", "--train", "20", "--group-noise", "warm:energy=0.002"),
        r"error: --group-noise: .*water\.extxyz has no group 'warm'; no frame says config_type or group",
    ),
    "noise of a group that is not there": (
        arguments("fit", "WATER", "--train", "20", "--group-noise", "warm=2.0"),
        r"error: --group-noise: .*water\.extxyz has no group 'warm'; no frame says config_type or group",
    ),
    "no training frames": (
        arguments("fit", "WATER", "--train", "0"),
        r"error: --train 0: must be at least 1 and at most the 500",
    ),
    "labels that the test lacks": (
        arguments("test", "MODEL", "WATER", "--frames", "300:", "--labels", "energy,hessian"),
        r"water\.extxyz: no frame has hessian",
    ),
    "labels that are none": (
        arguments("test", "MODEL", "WATER", "--labels", "enrgy"),
        r"error: --labels: 'enrgy' is not known",
    ),
    "no steps": (arguments("md", "MODEL", "--steps", "0"), r"--steps 0 must be at least 1"),
}


STAGE = r"[a-z -]+( …|: [\d.]+ s)"  # a line of progress


@pytest.mark.parametrize("name", CASES)
def test_one_line_exit_2_nothing_written(name, tmp_path, datasets, model_file, monkeypatch, capsys):
    from mlff.cli import main as cli

    prepare, expected = CASES[name]
    command = prepare(tmp_path, datasets, model_file)
    before = {path.name for path in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mlff", *command])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert output.out == ""
    *stages, last = output.err.strip().splitlines()
    assert all(re.fullmatch(STAGE, line) for line in stages), output.err
    assert re.search(expected, last), last
    assert last.startswith("error: ")
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", [("show", "absent.mlff"), ("fit", "a.xyz", "--train", "many"), ("nonsense",)])
def test_errors_are_json_too(command, tmp_path, monkeypatch, capsys):
    from mlff.cli import main as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mlff", *command, "--json"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert output.err.splitlines()[-1] == f"error: {json.loads(output.out)['error']}"


def test_a_process_shows_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mlff", "fit", "absent.xyz"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["read …", "error: absent.xyz: no such file"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda ff, w: ff.energy(np.zeros((4, 3))), r"positions: expected shape \(3, 3\)"),
        (lambda ff, w: ff.forces(np.full((3, 3), np.nan)), r"positions: not all finite"),
        (lambda ff, w: ff.hessian(np.zeros((2, 3, 3))), r"takes one geometry"),
        (lambda ff, w: w.split(0), r"split"),
        (lambda ff, w: mlff.GlobalKernel(lambda x, width: x, mlff.RBF()), r"needs a value of 'width'"),
        (lambda ff, w: mlff.GlobalKernel(np.sin, mlff.RBF(), amplitude=-1.0), r"amplitude=-1\.0 must be positive"),
        (
            lambda ff, w: mlff.fit(ff.kernel, w[:5], labels=("hessian",)),
            r"no frame has hessian; there are energy, forces",
        ),
        (
            lambda ff, w: mlff.fit(ff.kernel, w[:5], labels=("dipole",)),
            r"labels: 'dipole' is not known; there are energy, forces",
        ),
        (lambda ff, w: mlff.fit(ff.kernel, w[:5], labels=("energy", "forces"), noise=0.1), r"give one each"),
        (
            lambda ff, w: mlff.fit(ff.kernel, w[:5], noise={"energy": 0.1}),
            r"noise is given for energy, the labels are forces",
        ),
        (lambda ff, w: mlff.GlobalKernel(np.sin, mlff.RBF(), [[0, 1, 2], [1, 2, 0]]), r"no group, .* is missing"),
        (
            lambda ff, w: mlff.fit(ff.kernel.replace(permutations=[[0, 1, 2], [1, 0, 2]]), w[:5]),
            r"exchange unlike atoms of water",
        ),
        (
            lambda ff, w: mlff.fit(ff.kernel.replace(permutations=[[0, 1], [1, 0]]), w[:5]),
            r"permutations are of 2 atoms",
        ),
        (lambda ff, w: ff.energy(np.array([[np.inf, 0, 0], [0, 0, 1], [0, 1, 0]])), r"positions: not all finite"),
        (lambda ff, w: ff.forces(np.zeros((3, 3))), r"two atoms may coincide"),
        (lambda ff, w: ff.forces(np.zeros((2, 3, 3))), r"two atoms may coincide"),
        (lambda ff, w: mlff.RationalQuadratic(lengthscale=1.0, alpha=-1.0), r"alpha=-1\.0 must be positive"),
        (lambda ff, w: mlff.Matern52(lengthscale=np.array([1.0, -1.0])), r"must be positive and finite"),
        (lambda ff, w: mlff.find_permutations(w, reach="all"), r"reach='all' is not known"),
        (lambda ff, w: mlff.Dataset.read("x.npz", labels=["spin"]), r"no such file|not known"),
    ],
)
def test_python_errors(action, expected, water_model, water):
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        action(water_model, water)
