"""What Hessian labels are worth: errors against the number of frames, and against the cost of their labels.

    python tests/benchmarks/hessians.py ethanol --out FOLDER
    python tests/benchmarks/hessians.py molecule --data DIR --out FOLDER

`ethanol` is the project's set with Hessians: 30 frames may be trained on, the other 30 are the test. `molecule` is
DIR/H8C4N2O.npz (11 frames with energy, forces and Hessian). The cost of labels is counted in gradients of the reference: an energy
with forces is 1, a Hessian by central differences 6n more, a product H·v or a curvature v·H·v along a random v 2 more. Tables
and pictures are written to FOLDER. Errors are MAEs: energy meV, forces meV/Å, Hessian eV/Å², frequencies 1/cm (of the mass-weighted
Hessian at every test frame, rigid motions projected out).
"""

import argparse
import pathlib
import time

import numpy as np
from matplotlib.figure import Figure

import mlff
from descriptors import inverse_distances
from mlff.files import write_whole
from mlff.properties.vibrations import motions, wavenumbers
from mlff.quality.report import png
from mlff.regression.recipes import recipe

DATASETS = pathlib.Path(__file__).parent.parent.parent / "datasets"
NOISE = {"energy": 1e-4, "forces": 1e-4, "hessian": 2e-3, "curvatures": 2e-3, "hessian_products": 2e-3}
ROUGH = {"energy": 1e-3, "forces": 1e-2, "hessian": 0.1}  # what H (e × x) − e × F shows of the molecule's reference
COST = {"hessian": lambda n: 6 * n, "curvatures": lambda n: 2, "hessian_products": lambda n: 2}  # gradients beside one
HEADER = "| labels | gradients | energy | forces | Hessian | frequencies | rows | s |\n|" + " --- |" * 8


def labelled(frames, seconds: int, kind: str, count: int = 1, seed: int = 0) -> mlff.Dataset:
    """Frames with energies and forces, the first of them with labels of second order too.

    Arguments:
        seconds: how many of the frames have these.
        kind: "hessian", or "curvatures" or "hessian_products" along `count` random unit vectors a frame.
    """
    rng, made = np.random.default_rng(seed), []
    for i, frame in enumerate(frames):
        labels = {name: frame.labels[name] for name in ("energy", "forces")}
        if i < seconds:
            hessian = frame.labels["hessian"]
            vectors = rng.standard_normal((count, len(frame.numbers), 3))
            vectors /= np.linalg.norm(vectors, axis=(1, 2), keepdims=True)
            products = np.array([hessian @ v.ravel() for v in vectors]).reshape(vectors.shape)
            labels |= {
                "hessian": {"hessian": hessian},
                "hessian_products": {"hessian_products": products, "hessian_product_vectors": vectors},
                "curvatures": {
                    "curvatures": np.sum(vectors * products, axis=(1, 2)), "curvature_vectors": np.stack([vectors] * 2, axis=1),
                },
            }[kind]  # fmt: skip
        made.append(mlff.Frame(frame.system, labels))
    return mlff.Dataset(made, "training frames")


def gradients(data: mlff.Dataset) -> int:
    """What the labels cost."""
    total = 0
    for frame in data:
        total += 1
        for kind, each in COST.items():
            if kind in frame.labels:
                count = 1 if kind == "hessian" else len(frame.labels[kind])
                total += count * each(len(frame.numbers))
    return total


def frequencies_of(frame, hessian) -> np.ndarray:
    """Wavenumbers of the internal motions at a frame."""
    atoms = frame.to_ase()
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    internal = motions(atoms).internal
    return wavenumbers(np.linalg.eigvalsh(internal @ (hessian / np.outer(root, root)) @ internal.T))


def measure(name: str, kernel, data: mlff.Dataset, test: mlff.Dataset, noise: dict = NOISE) -> dict:
    """One fit on all labels that are there, and its errors."""
    labels = [kind for kind in noise if any(kind in frame.labels for frame in data)]
    start = time.perf_counter()
    force_field = mlff.fit(kernel, data, labels, {kind: noise[kind] for kind in labels})
    seconds = time.perf_counter() - start
    found = mlff.evaluate(force_field, test)
    wrong = [
        np.abs(frequencies_of(f, force_field.hessian(f.positions)) - frequencies_of(f, f.labels["hessian"])).mean()
        for f in test
    ]
    return {
        "name": name, "gradients": gradients(data), "energy": 1e3 * found.energy_mae, "forces": 1e3 * found.forces_mae,
        "hessian": found.hessian_mae, "frequencies": float(np.mean(wrong)), "rows": force_field.record["rows"],
        "seconds": seconds, "frames": len(data),
    }  # fmt: skip


def line(result: dict) -> str:
    r = result
    return (
        f"| {r['name']} | {r['gradients']} | {r['energy']:.2f} | {r['forces']:.1f} | {r['hessian']:.3f} | {r['frequencies']:.1f} "
        f"| {r['rows']} | {r['seconds']:.1f} |"
    )


def kernels(permutations) -> dict:
    """Kernels for some training frames: environments as FCHL19; inverse distances with all exchanges, the length scale by
    validation on the frames' forces."""
    whole = mlff.GlobalKernel(inverse_distances, mlff.RBF(), permutations)
    return {
        "fchl19-gpr": lambda data: recipe("fchl19-gpr", data)[0],
        "sgdml-rbf": lambda data: mlff.fit(whole, labelled(data, 0, ""), ("forces",), 1e-4).kernel.replace(
            amplitude=None
        ),
    }


def ethanol(out: pathlib.Path, names: list[str]) -> None:
    with_hessians = mlff.Dataset.read(DATASETS / "ethanol_hessians.extxyz")
    pool, test = with_hessians[:30], with_hessians[30:]
    plain = mlff.Dataset.read(DATASETS / "ethanol.extxyz")
    frames = [*pool, *plain[::7]]  # Hessians are of the first 30 alone
    many = 30 + 30 * len(pool[0].numbers)
    table = [
        ("30 frames", 30, 0, ""), ("30 frames + 5 Hessians", 30, 5, "hessian"), ("60 frames", 60, 0, ""),
        (f"30 + 5·6n = {many} frames", many, 0, ""), ("30 frames + 9 products H·v each", 30, 30, "hessian_products"),
        ("30 frames + 9 curvatures each", 30, 30, "curvatures"), ("30 frames + 30 Hessians", 30, 30, "hessian"),
    ]  # fmt: skip
    lines = {
        "forces alone": [(n, 0, "", 0) for n in (5, 10, 30, 60, 120, 300)],
        "and Hessians of all": [(n, n, "hessian", 0) for n in (5, 10, 20)],
        "and Hessians of a fifth": [(n, n // 5, "hessian", 0) for n in (5, 10, 30)],
        "and 3 products H·v each": [(n, n, "hessian_products", 3) for n in (5, 10, 30)],
        "and 3 curvatures each": [(n, n, "curvatures", 3) for n in (5, 10, 30)],
    }
    for name, kernel in kernels(mlff.find_permutations(plain[::10])).items():
        if name not in names:
            continue

        def result(text, n, seconds, kind, count, kernel=kernel):
            data = labelled(frames[:n], seconds, kind, count)
            return measure(text, kernel(data), data, test)

        text = "\n".join([HEADER, *(line(result(*row, 9)) for row in table)])
        print(f"\n{name}\n\n{text}", flush=True)
        write_whole(out / f"ethanol_{name}.md", text.encode())
        curves = {text: [result(text, *point) for point in points] for text, points in lines.items()}
        write_whole(out / f"ethanol_{name}.png", png(figure(name, curves)))


def figure(kernel: str, curves: dict) -> Figure:
    """Errors of forces and Hessians against frames and against cost."""
    panels = (("frames", "forces"), ("gradients", "forces"), ("frames", "hessian"), ("gradients", "hessian"))
    drawn = Figure(figsize=(15, 4), layout="constrained")
    units = {"forces": "force MAE (meV/Å)", "hessian": "Hessian MAE (eV/Å²)"}
    names = {"frames": "training frames", "gradients": "cost of the labels (gradients)"}
    for axis, (x, y) in zip(drawn.subplots(1, len(panels)), panels, strict=True):
        for i, (text, results) in enumerate(curves.items()):
            axis.loglog([r[x] for r in results], [r[y] for r in results], "o-", ms=4, color=f"C{i}", label=text)
        axis.set(xlabel=names[x], ylabel=units[y])
        axis.grid(alpha=0.3, which="both")
    handles, labels = axis.get_legend_handles_labels()
    drawn.suptitle(f"ethanol, {kernel}: what second derivatives are worth")
    drawn.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return drawn


def molecule(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Forces of k frames against forces and Hessians of k frames, tested on the others; three choices of the k frames.

    The file's F acts as a gradient: H (e × x) = e × F for the rotation about any axis, to the noise of the reference. So forces
    are −F, and the Hessians are whole, not projected.
    """
    read = mlff.Dataset.read(folder / "H8C4N2O.npz", units="eV")
    frames = [mlff.Frame(f.system, {**f.labels, "forces": -f.labels["forces"]}) for f in read]
    texts = []
    for name in ("fchl19-gpr",):
        texts += [f"\n{name}\n", HEADER]
        for k in (2, 4, 6):
            for text, second in (("forces", 0), ("forces and Hessians", k)):
                found = []
                for seed in range(3):
                    order = np.random.default_rng(seed).permutation(len(frames))
                    train, rest = [frames[i] for i in order[:k]], mlff.Dataset([frames[i] for i in order[k:]])
                    data = labelled(train, second, "hessian")
                    found.append(measure(text, recipe(name, data)[0], data, rest, ROUGH))
                mean = {key: np.mean([r[key] for r in found]) for key in found[0] if key != "name"}
                mean |= {
                    "name": f"{text} of {k} frames",
                    "gradients": int(mean["gradients"]),
                    "rows": int(mean["rows"]),
                }
                texts.append(line(mean))
                print(texts[-1], flush=True)
    write_whole(out / "molecule_hessians.md", "\n".join(texts).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ethanol", "molecule"])
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--kernels", nargs="*", default=["fchl19-gpr", "sgdml-rbf"])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "ethanol":
        ethanol(options.out, options.kernels)
    elif options.data is None:
        parser.error("molecule needs --data, the folder with H8C4N2O.npz")
    else:
        molecule(options.data, options.out)


if __name__ == "__main__":
    main()
