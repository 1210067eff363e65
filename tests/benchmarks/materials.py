"""Crystals: sparse models beside GAP, on the molybdenum and silicon of Zuo et al., J. Phys. Chem. A 124, 731 (2020).

    python tests/benchmarks/materials.py --data DIR [--quip-python VENV/bin/python] [--points 1500] [--elements Mo Si]
        [--steps fit properties md scaling gap] [--json FILE] [--picture FILE.png]

DIR holds `Mo_train.extxyz`, `Mo_test.extxyz`, `Si_train.extxyz`, `Si_test.extxyz`. Every step runs in a process of its own, so that
its peak memory is its own, and prints a JSON line:

    fit          the recipe soap-gap on all training frames, energies, forces and stresses, noise by validation: seconds, memory,
                 test errors in all and by group, the noise, errors of frames left out against the number of points.
                 In these files yz and xz have changed places in the stresses, in silicon's of all frames but the strained cells (a
                 model of energies and forces alone gives them crosswise): fitted as they are published, and put right
    properties   lattice constant, elastic constants and phonons at the points of the Brillouin zone that are tabulated
    md           milliseconds a step of velocity Verlet for 64, 250 and 2000 atoms of silicon at 1000 K
    scaling      seconds and memory of a fit against frames and points, of forces against atoms, with fitted exponents
    gap          `gap_fit` of quippy-ase on the same frames with as many sparse points: seconds, memory, errors, dynamics
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

PUBLISHED = {  # MAE of energies (meV an atom) and forces (eV/Å)
    "Mo": {"GAP": (2.24, 0.09), "MTP": (2.83, 0.09)},
    "Si": {"GAP": (2.91, 0.07), "MTP": (2.21, 0.06)},
}
# PBE, Å and GPa. Mo: Chen et al., Phys. Rev. Mater. 1, 043603 (2017), doi 10.1103/PhysRevMaterials.1.043603; Si: npj Comput. Mater.
# 10, 218 (2024), doi 10.1038/s41524-024-01390-8, table 2, and the lattice constant of Zuo et al.
REFERENCE = {
    "Mo": {"a": 3.17, "C11": 472.0, "C12": 158.0, "C44": 106.0},
    "Si": {"a": 5.47, "C11": 153.0, "C12": 57.0, "C44": 74.0},
}
RIGHT = {"Mo": (), "Si": ("Elastic",)}  # groups whose shears are in ASE's order as they are published
PHASES = {"Mo": ("bcc", 3.17), "Si": ("diamond", 5.47)}
GPA = 160.21766  # of an eV/Å³


def peak_mb() -> float:
    from mlff.quality.report import peak_memory_mb

    return peak_memory_mb()


def read(folder: pathlib.Path, element: str, part: str, repaired: bool):
    import mlff

    data = mlff.Dataset.read(folder / f"{element}_{part}.extxyz")
    if not repaired:
        return data
    frames = []
    for frame in data:
        if frame.group in RIGHT[element]:
            frames.append(frame)
            continue
        stress = frame.labels["stress"].copy()
        stress[0, 2], stress[1, 2] = stress[1, 2], stress[0, 2]
        stress[2, 0], stress[2, 1] = stress[0, 2], stress[1, 2]
        frames.append(mlff.Frame(frame.system, {**frame.labels, "stress": stress}, frame.atoms))
    return mlff.Dataset(frames, data.source)


def step_fit(folder: pathlib.Path, element: str, points: int, repaired: bool, out: str) -> dict:
    import mlff

    train, test = (read(folder, element, part, repaired) for part in ("train", "test"))
    started = time.perf_counter()
    kernel, labels = mlff.recipe("soap-gap", train)
    force_field = mlff.fit(kernel, train, labels, inducing=points)
    seconds = time.perf_counter() - started
    found = mlff.evaluate(force_field, test)
    force_field.save(out)
    said = force_field.record["inducing"]
    return {
        "frames": len(train), "points": said["functionals"], "seconds": seconds, "peak_mb": peak_mb(),
        "energy_mev_atom": 1e3 * found.energy_mae_per_atom, "forces_ev_a": found.forces_mae,
        "stress_gpa": GPA * found.errors["stress"].mae, "groups": found.groups, "noise": force_field.record["noise"],
        "held_out_rmse": said["held_out_rmse"], "published": PUBLISHED[element],
    }  # fmt: skip


def step_properties(element: str, model: str) -> dict:
    import ase.build
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    import mlff

    phase, a = PHASES[element]
    atoms = ase.build.bulk(element, phase, a=a, cubic=True)
    atoms.calc = mlff.Calculator(mlff.load(model))
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        optimizer.run(fmax=1e-4, steps=200)
    c = GPA * mlff.elastic_constants(atoms)
    primitive = ase.build.bulk(element, phase, a=float(atoms.cell.lengths()[0]))
    primitive.calc = atoms.calc
    phonons = mlff.phonopy_of(primitive, (4, 4, 4))
    high = {"Mo": {"H": (0.5, -0.5, 0.5), "N": (0.0, 0.0, 0.5)}, "Si": {"X": (0.5, 0.0, 0.5), "L": (0.5, 0.5, 0.5)}}[
        element
    ]
    at = {"Γ": (0.0, 0.0, 0.0), **high}
    frequencies = {name: [round(float(f), 2) for f in phonons.get_frequencies(q)] for name, q in at.items()}
    return {
        "a": float(atoms.cell.lengths().mean()), "C11": float(c[0, 0]), "C12": float(c[0, 1]), "C44": float(c[3, 3]),
        "phonons_thz": frequencies, "reference": REFERENCE[element],
    }  # fmt: skip


def silicon(count: int):
    """Cells of about a number of atoms, shaken."""
    import ase.build

    repeats = {64: (2, 2, 2), 216: (3, 3, 3), 250: (5, 5, 5), 512: (4, 4, 4), 2000: (10, 10, 10), 10000: (11, 11, 10)}[
        count
    ]
    cubic = count not in (250, 2000)
    atoms = ase.build.bulk("Si", "diamond", a=5.47, cubic=cubic) * repeats
    atoms.rattle(0.05, seed=1)
    return atoms


def steps_of(calculator, sizes=(64, 250, 2000), few: int = 20) -> dict:
    """Milliseconds a step of velocity Verlet, median of three runs after the first steps."""
    from ase import units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    found = {}
    for size in sizes:
        atoms = silicon(size)
        atoms.calc = calculator
        MaxwellBoltzmannDistribution(atoms, temperature_K=1000, rng=np.random.default_rng(0))
        run, times, steps = VelocityVerlet(atoms, 1.0 * units.fs), [], max(2, few if size < 1000 else few // 5)
        run.run(2)
        for _ in range(3):
            started = time.perf_counter()
            run.run(steps)
            times.append((time.perf_counter() - started) / steps)
        found[len(atoms)] = {
            "ms_step": 1e3 * float(np.median(times)),
            "ms_step_atom": 1e3 * float(np.median(times)) / len(atoms),
        }
    return found


def step_md(model: str) -> dict:
    import mlff

    return {"dynamics": steps_of(mlff.Calculator(mlff.load(model))), "peak_mb": peak_mb()}


def exponent(x, y) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def step_forces(model: str) -> dict:
    """Forces and stress against atoms."""
    import mlff

    calculator, rows = mlff.Calculator(mlff.load(model)), []
    for size in (512, 2000, 10000):
        atoms = silicon(size)
        atoms.calc = calculator
        atoms.get_forces()
        times = []
        for seed in range(3):
            atoms.rattle(0.001, seed=seed)
            started = time.perf_counter()
            atoms.get_stress()
            times.append(time.perf_counter() - started)
        rows.append({"atoms": len(atoms), "seconds": float(np.median(times)), "peak_mb": peak_mb()})
    return {"forces": rows, "exponent": exponent([r["atoms"] for r in rows], [r["seconds"] for r in rows])}


def step_one_fit(folder: pathlib.Path, frames: int, points: int) -> dict:
    """Time and memory of a fit of silicon's warm frames."""
    import mlff

    data = read(folder, "Si", "train", False)
    warm = data[[i for i, frame in enumerate(data) if frame.group == "AIMD-NVT"][:frames]]
    kernel, labels = mlff.recipe("soap-gap", warm)
    mlff.fit(kernel, warm[:2], labels, inducing=50)  # compiles
    started = time.perf_counter()
    mlff.fit(kernel, warm, labels, inducing=points)
    return {"frames": frames, "points": points, "seconds": time.perf_counter() - started, "peak_mb": peak_mb()}


def step_gap(python: str, folder: pathlib.Path, element: str, points: int) -> dict:
    """GAP on the same frames: `gap_fit` with SOAP, its own process; errors and dynamics by its calculator."""
    with tempfile.TemporaryDirectory() as place:
        out = pathlib.Path(place) / "gap.xml"
        soap = (
            f"soap cutoff=5.0 cutoff_transition_width=1.0 n_max=10 l_max=8 atom_sigma=0.5 zeta=4 delta=1.0 n_sparse={points} "
            "sparse_method=cur_points covariance_type=dot_product add_species=T"
        )
        command = [
            str(pathlib.Path(python).parent / "gap_fit"), f"at_file={folder / f'{element}_train.extxyz'}", f"gap={{{soap}}}",
            "default_sigma={0.001 0.03 0.1 0.0}", "energy_parameter_name=energy", "force_parameter_name=forces",
            "virial_parameter_name=none", "e0_method=average", "do_copy_at_file=F", "sparse_separate_file=T", f"gp_file={out}",
        ]  # fmt: skip
        started = time.perf_counter()
        ran = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False)
        seconds = time.perf_counter() - started
        if ran.returncode:
            return {"error": (ran.stdout + ran.stderr)[-500:]}
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        asked = [
            python,
            str(pathlib.Path(__file__).resolve()),
            "--as-gap",
            str(out),
            "--data",
            str(folder),
            "--elements",
            element,
        ]
        tested = subprocess.run(asked, capture_output=True, text=True, check=True)
        return {"points": points, "seconds": seconds, "peak_mb": memory, **json.loads(tested.stdout.splitlines()[-1])}


def as_gap(path: str, folder: pathlib.Path, element: str) -> dict:
    """In GAP's own environment: its errors and dynamics."""
    import ase.io
    from quippy.potential import Potential

    calculator = Potential(param_filename=path)
    energies, forces = [], []
    for atoms in ase.io.read(folder / f"{element}_test.extxyz", ":"):
        reference = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = calculator
        energies.append(abs(atoms.get_potential_energy() - reference[0]) / len(atoms))
        forces.append(np.abs(atoms.get_forces() - reference[1]).ravel())
    found = {"energy_mev_atom": 1e3 * float(np.mean(energies)), "forces_ev_a": float(np.concatenate(forces).mean())}
    return {**found, "dynamics": steps_of(calculator, (64, 250, 2000), 5)} if element == "Si" else found


def called(*arguments: str) -> dict:
    """A step in a process of its own."""
    ran = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        return {"error": ran.stderr[-1500:]}
    return json.loads(ran.stdout.splitlines()[-1])


def picture(results: list[dict], path: pathlib.Path) -> None:
    """Errors against points left, and milliseconds an atom and step against atoms right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, element in enumerate(("Mo", "Si")):
        fits = [r for r in results if r["step"] == "fit" and r["element"] == element and "held_out_rmse" in r]
        if fits:
            table = fits[-1]["held_out_rmse"]
            left.plot([n for n, _ in table], [1e3 * e["forces"] for _, e in table], "o-", color=f"C{k}", label=element)
    left.set(xscale="log", xlabel="inducing points", ylabel="RMSE of forces left out (meV/Å)")
    left.legend()
    for name, step in (("mlff", "md"), ("GAP", "gap")):
        for result in results:
            if result["step"] == step and "dynamics" in result:
                sizes = sorted(result["dynamics"], key=int)
                right.plot(
                    [int(n) for n in sizes], [result["dynamics"][n]["ms_step_atom"] for n in sizes], "o-", label=name
                )
    right.set(xscale="log", yscale="log", xlabel="atoms of silicon", ylabel="ms a step and atom")
    right.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--quip-python")
    parser.add_argument("--points", type=int, default=1500)
    parser.add_argument("--elements", nargs="+", default=["Mo", "Si"], choices=["Mo", "Si"])
    parser.add_argument("--steps", nargs="+", default=["fit", "properties", "md", "scaling", "gap"])
    parser.add_argument("--models", type=pathlib.Path, help="folder where model files are kept; else they are not")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--as-gap", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.data.resolve()
    if given.as_gap:
        print(json.dumps(as_gap(given.as_gap, folder, given.elements[0])))
        return
    if given.one:
        name, *rest = given.one.split(",")
        found = {
            "fit": lambda element, points, repaired, out: step_fit(folder, element, int(points), repaired == "1", out),
            "properties": step_properties, "md": step_md, "forces": step_forces,
            "one_fit": lambda frames, points: step_one_fit(folder, int(frames), int(points)),
        }[name](*rest)  # fmt: skip
        print(json.dumps(found))
        return
    if (
        "fit" not in given.steps
        and given.models is None
        and (late := {"properties", "md", "scaling"} & set(given.steps))
    ):
        parser.error(
            f"--steps {' '.join(sorted(late))} ask models: fit them too, or name the --models that an earlier run kept"
        )
    results: list[dict] = []

    def tell(**result) -> None:
        results.append(result)
        print(json.dumps(result), flush=True)

    with tempfile.TemporaryDirectory() as place:
        models = given.models or pathlib.Path(place)
        models.mkdir(exist_ok=True)
        for element in given.elements:
            for repaired in (False, True):
                out = models / f"{element}{'_put_right' if repaired else ''}.mlff"
                if "fit" in given.steps:
                    one = f"fit,{element},{given.points},{int(repaired)},{out}"
                    tell(step="fit", element=element, put_right=repaired, **called("--data", str(folder), "--one", one))
            if "properties" in given.steps:
                tell(
                    step="properties",
                    element=element,
                    **called("--data", str(folder), "--one", f"properties,{element},{out}"),
                )
        if "md" in given.steps:
            tell(step="md", **called("--data", str(folder), "--one", f"md,{models / 'Si.mlff'}"))
        if "scaling" in given.steps:
            tell(step="forces", **called("--data", str(folder), "--one", f"forces,{models / 'Si.mlff'}"))
            for against, cases in (
                ("frames", [(n, given.points // 2) for n in (20, 40, 80)]),
                ("points", [(40, k) for k in (given.points // 4, given.points // 2, given.points, 2 * given.points)]),
            ):
                rows = [called("--data", str(folder), "--one", f"one_fit,{n},{m}") for n, m in cases]
                known = [row for row in rows if "seconds" in row]
                slope = exponent([row[against] for row in known], [row["seconds"] for row in known])
                tell(step="scaling", against=against, rows=rows, exponent=slope)
        if "gap" in given.steps and given.quip_python:
            for element in given.elements:
                tell(step="gap", element=element, **step_gap(given.quip_python, folder, element, given.points))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    if given.picture:
        picture(results, given.picture)


if __name__ == "__main__":
    main()
