"""The descriptors against other packages' implementations of the same formulas: values and first derivatives.

    python tests/benchmarks/crosscheck.py --peer-python VENV/bin/python

VENV holds dscribe, featomic and qmllib. Differences are relative to the largest element. Where a published formula is
not smooth the library rounds it; here it is asked for the published one (`cutoff_function="cosine"` and the like).
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import ase
import ase.build
import jax
import numpy as np

from descriptors.acsf import acsf
from descriptors.coulomb import coulomb_matrix, coulomb_spectrum, sorted_coulomb_matrix
from descriptors.fchl19 import fchl19
from descriptors.geometry import Neighbors
from descriptors.soap import soap
from mlff.data.neighbors import neighbor_lists


class Case(NamedTuple):
    """One comparison.

    system: a name in SYSTEMS.
    ours: `ours(positions, atoms)` -> array, of the peer's shape and order of features.
    peer: a name in crosscheck_peer.PEERS, the package's name first.
    settings: its keyword arguments, as JSON holds them.
    """

    descriptor: str
    system: str
    ours: Callable
    peer: str
    settings: dict


def rattled(atoms: ase.Atoms) -> ase.Atoms:
    atoms.rattle(0.05, seed=1)
    return atoms


SYSTEMS = {
    "ethanol": rattled(ase.build.molecule("CH3CH2OH")),
    "acetamide": rattled(ase.build.molecule("CH3CONH2")),
    "thiophene": rattled(ase.build.molecule("C4H4S")),
    "rock salt": rattled(ase.build.bulk("NaCl", "rocksalt", a=5.64).repeat((2, 1, 1))),
}


def elements_of(atoms: ase.Atoms) -> tuple[int, ...]:
    return tuple(sorted(set(atoms.numbers.tolist())))


def neighbors_within(reach: float, atoms: ase.Atoms) -> Neighbors:
    """Neighbour list of one frame."""
    lists = neighbor_lists(atoms.positions[None], np.array(atoms.cell)[None], atoms.pbc[None], reach)
    return Neighbors(lists.indices[0], lists.shifts[0])


def our_fchl19(positions, atoms, **settings):
    published = {"cutoff_function": "cosine", "linear_blend": 1e-6}
    return fchl19(positions, atoms.numbers, elements=elements_of(atoms), **published, **settings)


def fchl19_cases() -> list[Case]:
    def case(system, settings, theirs):
        theirs = {"elements": elements_of(SYSTEMS[system]), **theirs}
        return Case("fchl19", system, functools.partial(our_fchl19, **settings), "qmllib_fchl19", theirs)

    short = {"radial2": 10, "radial3": 7, "cutoff": 3.0, "three_body_cutoff": 2.5, "eta2": 0.2, "zeta": 2.0}
    same = {"nRs2": 10, "nRs3": 7, "rcut": 3.0, "acut": 2.5, "eta2": 0.2, "zeta": 2.0}
    molecules = [system for system, atoms in SYSTEMS.items() if not atoms.pbc.any()]
    return [*(case(system, {}, {}) for system in molecules), case("acetamide", short, same)]


def our_soap(positions, atoms, reach, **settings):
    """Without the factor √2 of entries that stand for two, which the peers do not have.

    reach: how far the list goes, Å. A cutoff far beyond it leaves all neighbours their full weight, as DScribe does.
    """
    elements = elements_of(atoms)
    values = soap(
        positions, atoms.numbers, np.array(atoms.cell), neighbors_within(reach, atoms), elements=elements, **settings
    )
    n_max, degrees = settings["n_max"], settings["l_max"] + 1
    block = [np.where(np.eye(n_max)[np.triu_indices(n_max)], 1.0, np.sqrt(2.0)), np.full(n_max**2, np.sqrt(2.0))]
    pairs = [int(z < other) for z in elements for other in elements if z <= other]
    return values / np.concatenate([np.tile(block[unlike], degrees) for unlike in pairs])


def soap_cases() -> list[Case]:
    cases = []
    for system in SYSTEMS:
        size, elements = {"n_max": 6, "l_max": 4, "sigma": 0.5}, {"elements": elements_of(SYSTEMS[system])}
        sees = 5.0 + size["sigma"] * np.sqrt(2 * np.log(1e3))  # DScribe's cutoff with its padding
        ours = functools.partial(our_soap, reach=sees, cutoff=1e6, basis_radius=5.0, **size)
        cases.append(Case("soap", system, ours, "dscribe_soap", {"r_cut": 5.0, **size, **elements}))
        ours = functools.partial(our_soap, reach=5.0, cutoff=5.0, cutoff_function="cosine", **size)
        cases.append(Case("soap", system, ours, "featomic_soap", {"cutoff": 5.0, **size, **elements}))
    return cases


def our_acsf(positions, atoms, cutoff, g2, g4, g5):
    """In DScribe's order: pairs of elements column by column, each with G⁴ and G⁵; its G¹ are G² with η = 0."""
    elements = elements_of(atoms)
    rows = {name: np.array(given) for name, given in (("g2", [[0.0, 0.0], *g2]), ("g4", g4), ("g5", g5))}
    around = np.array(atoms.cell), neighbors_within(cutoff, atoms)
    values = acsf(positions, atoms.numbers, *around, elements=elements, cutoff=cutoff, cutoff_function="cosine", **rows)
    first, second = np.triu_indices(len(elements))
    by_column = np.lexsort((first, second))
    ends = np.cumsum([len(elements) * len(rows["g2"]), len(first) * len(g4)])
    two, four, five = np.split(np.arange(values.shape[1]), ends)
    pairs = np.concatenate([four.reshape(len(first), -1), five.reshape(len(first), -1)], axis=1)[by_column]
    return values[:, np.concatenate([two, pairs.ravel()])]


def acsf_cases() -> list[Case]:
    rows = {
        "g2": [[1.0, 0.0], [0.5, 2.0]],
        "g4": [[0.1, 1.0, -1.0], [0.05, 4.0, 1.0], [0.01, 2.5, 0.5]],
        "g5": [[0.1, 2.0, 1.0], [0.05, 1.0, -1.0]],
    }
    cases = []
    for system, atoms in SYSTEMS.items():
        theirs = {"r_cut": 5.0, "elements": elements_of(atoms)} | {f"{name}_params": row for name, row in rows.items()}
        cases.append(Case("acsf", system, functools.partial(our_acsf, cutoff=5.0, **rows), "dscribe_acsf", theirs))
    return cases


def our_coulomb(positions, atoms, form, **settings):
    return form(positions, atoms.numbers, **settings)


def coulomb_cases() -> list[Case]:
    forms = {
        "coulomb matrix": (coulomb_matrix, {}, {"permutation": "none"}),
        "coulomb matrix, sorted": (sorted_coulomb_matrix, {"width": 1e-4}, {"permutation": "sorted_l2"}),
        "coulomb matrix, spectrum": (coulomb_spectrum, {"powers": (1.0,), "scales": np.array([4.0])}, {"scale": 4.0}),
    }
    cases = []
    for system in (name for name, atoms in SYSTEMS.items() if not atoms.pbc.any()):
        for name, (form, settings, theirs) in forms.items():
            peer = "dscribe_coulomb_spectrum" if form is coulomb_spectrum else "dscribe_coulomb"
            cases.append(Case(name, system, functools.partial(our_coulomb, form=form, **settings), peer, theirs))
        cases.append(
            Case("coulomb matrix", system, functools.partial(our_coulomb, form=coulomb_matrix), "qmllib_coulomb", {})
        )
    return cases


CASES = [*fchl19_cases(), *soap_cases(), *acsf_cases(), *coulomb_cases()]


def ask_peers(python: pathlib.Path, cases: list[Case]) -> dict[str, np.ndarray]:
    """Answers of the peers to all cases, from one process."""
    requests = []
    for case in cases:
        atoms = SYSTEMS[case.system]
        system = {"positions": atoms.positions, "numbers": atoms.numbers, "cell": np.array(atoms.cell)}
        system = {key: value.tolist() for key, value in system.items()}
        requests.append({"peer": case.peer, "settings": case.settings, **system})
    with tempfile.TemporaryDirectory() as folder:
        written, answers = pathlib.Path(folder, "requests.json"), pathlib.Path(folder, "answers.npz")
        written.write_text(json.dumps(requests))
        command = [python, pathlib.Path(__file__).with_name("crosscheck_peer.py"), written, answers]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"the peers failed:\n{done.stderr[-2000:]}")
        with np.load(answers) as file:
            return dict(file)


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    if theirs.size == 0:
        return "not given"
    if ours.shape != theirs.shape:
        return f"shapes {ours.shape} and {theirs.shape}"
    return f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=pathlib.Path, required=True, help="a Python with the peers installed")
    parser.add_argument("--only", default="", help="cases whose descriptor starts with this")
    arguments = parser.parse_args()
    cases = [case for case in CASES if case.descriptor.startswith(arguments.only)]
    answers = ask_peers(arguments.peer_python, cases)
    print("| descriptor | peer | system | shape | values | first derivatives |\n| --- | --- | --- | --- | --- | --- |")
    for i, case in enumerate(cases):
        atoms = SYSTEMS[case.system]
        with jax.enable_x64(True):
            ours = jax.jit(functools.partial(case.ours, atoms=atoms))
            values = np.asarray(ours(atoms.positions))
            derivatives = np.asarray(jax.jacfwd(ours)(atoms.positions))
        peer = f"{case.peer.split('_')[0]} {answers[f'version_{i}']}"
        pair = difference(values, answers[f"values_{i}"]), difference(derivatives, answers[f"derivatives_{i}"])
        print(f"| {case.descriptor} | {peer} | {case.system} | {values.shape} | {pair[0]} | {pair[1]} |")


if __name__ == "__main__":
    main()
