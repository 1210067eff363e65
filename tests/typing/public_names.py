"""Every public name as a user writes it, for a type checker: `pyright tests/typing/public_names.py` has nothing to say.

The functions state what they hand on, so that the checker has to know what every name returns. Nothing runs them.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS

import descriptors
import mlff


def data_of(path: pathlib.Path) -> tuple[mlff.Dataset, mlff.Dataset]:
    data = mlff.Dataset.read(path, units="kcal/mol", labels=("energy", "forces"))
    frame: mlff.Frame = data[0]
    for other in data:
        print(other.positions.shape, other.labels["forces"], other.to_ase().get_chemical_formula())
    first: mlff.Dataset = data[:10]
    print(len(first), first.label_names, frame.system.numbers)
    train, test = data.split(200, 1000, seed=0)
    return train, test


def frames_by_hand() -> mlff.Dataset:
    system = mlff.System.from_ase(molecule("H2O"))
    assert len(system) == 3
    return mlff.Dataset([mlff.Frame(system, {"energy": -1.0, "forces": np.zeros((3, 3))})])


def permutations_of(train: mlff.Dataset) -> mlff.Permutations:
    group: mlff.Permutations = mlff.find_permutations(train, reach="dynamics")
    print(len(group), [permutation.tolist() for permutation in group], group.certificate())
    return mlff.Permutations.from_elements([[0, 2, 1]], np.array([8, 1, 1])).intersection(group)


def own_descriptor(positions: jax.Array, scale: float = 1.0) -> jax.Array:
    i, j = np.triu_indices(positions.shape[0], k=1)
    return scale / jnp.linalg.norm(positions[i] - positions[j], axis=-1)


def kernels(group: mlff.Permutations) -> mlff.SumKernel:
    distances = mlff.GlobalKernel(descriptors.inverse_distances, mlff.Matern52(lengthscale=10.0), permutations=group)
    scaled = mlff.GlobalKernel(mlff.Descriptor(own_descriptor, {"scale": 2.0}), mlff.Matern32())
    surroundings = mlff.LocalKernel(descriptors.soap, mlff.RBF(), elements=(1, 6, 8), amplitude=0.5)
    product = mlff.ProductKernel((distances, mlff.GlobalKernel(own_descriptor, mlff.Matern72(2.0))))
    powers = mlff.LocalKernel(functools.partial(descriptors.soap, normalised=True), mlff.Polynomial(degree=2))
    tails = mlff.LocalKernel(descriptors.fchl19, mlff.RationalQuadratic(lengthscale=3.0, alpha=2.0))
    return mlff.SumKernel((distances, scaled, surroundings, product, powers, tails))


def fitted(train: mlff.Dataset, test: mlff.Dataset) -> mlff.ForceField:
    laplacian = mlff.Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")
    model = mlff.reduced(kernels(permutations_of(train)), train, dropped=1e-5)
    planned: mlff.Plan = mlff.plan(model, train, labels=("energy", "forces"), noise={"energy": 1e-3}, memory="8GB")
    searched: mlff.Plan = mlff.plan_tuning(model, train, memory="8GB")
    print(searched.seconds)
    print(planned, planned.method, planned.memory, planned.seconds, planned.summary()["stages"])
    force_field = mlff.fit(model, train, labels=("energy", "forces"), noise={"energy": 1e-3}, checkpoint="kept")
    again = mlff.fit(model, train, labels=("forces", mlff.projected_hessian(), laplacian), seed=1)
    evaluation: mlff.Evaluation = mlff.evaluate(again, test, labels=["forces", laplacian])
    print(mlff.compressed(force_field, train, points=500), evaluation, evaluation.errors["laplacian"].mae)
    kernel, labels = mlff.recipe("sgdml", train, radial=mlff.Matern52())
    cheap = mlff.sampled(mlff.Calculator(force_field), train, frames=10)
    comparison: mlff.Comparison = mlff.compare({"mine": kernel, "sgdml": "sgdml"}, train, budget=60.0, test=test)
    tuned: mlff.Tuned = mlff.tune(kernel, train, labels, baseline=mlff.fit(kernel, cheap))
    print(tuned.summary["errors"], tuned.noise, comparison.best)
    return mlff.fit(tuned, train)


class Morse(mlff.Potential):
    depth: float
    width: float

    def energy(self, positions, numbers, cell, neighbors=None):
        return jnp.sum(
            self.depth * (1.0 - jnp.exp(-self.width * (1.0 / descriptors.inverse_distances(positions) - 1.0))) ** 2
        )


def potentials(train: mlff.Dataset) -> mlff.ForceField:
    trained = mlff.train_schnet(train, features=16, steps=1000)
    on_features = mlff.fit(mlff.LocalKernel(trained, mlff.RBF()), train)
    network: mlff.ForceField = mlff.schnet_force_field(trained, train)
    repulsion = mlff.ForceField.of(mlff.PairRepulsion(cutoff=1.2))
    distilled: mlff.ForceField = mlff.distilled(mlff.Reference("gfn2", charge=1), train, frames=100)
    repulsion = repulsion + mlff.fit(mlff.LocalKernel(trained, mlff.RBF()), train, baseline=distilled)
    return mlff.ForceField.of(Morse(depth=0.2, width=2.0)) + network + on_features + repulsion


def files(force_field: mlff.ForceField, folder: pathlib.Path) -> mlff.ForceField:
    force_field.save(folder / "model.mlff")
    predicted = mlff.predict(
        force_field, folder / "frames.extxyz", folder / "out.extxyz", memory="2GB", precision="float32"
    )
    print(predicted.frames, predicted.errors["forces"].mae, predicted.float32)
    force_field.export(folder / "model.export")
    exported = mlff.load_export(folder / "model.export", trusted=True)
    sgdml = mlff.load_sgdml(folder / "model.npz", units="kcal/mol")
    print(exported.hessian(np.zeros((3, 3))).shape, sgdml.energy(np.zeros((3, 3))))
    return mlff.load(folder / "model.mlff", trusted=("my_package",), descriptors={"own": own_descriptor})


def predictions(force_field: mlff.ForceField, frame: mlff.Frame) -> np.ndarray:
    energy, forces = force_field.energy_and_forces(frame.positions)
    hessian = force_field.hessian(frame.positions, moving=[0, 1])
    along = force_field.hessian_vector_product(frame.positions, forces)
    stress = force_field.stress(frame.positions, frame.cell, frame.system.pbc)
    print(energy, hessian.shape, along.shape, stress.tolist())
    return force_field.forces(frame.positions)


def trust(force_field: mlff.ForceField, test: mlff.Dataset) -> bool:
    checks = mlff.self_check(force_field, test[0], temperature=500.0)
    audit = mlff.audit(descriptors.inverse_distances, test, count=2)
    return all(check.passed for check in checks) and audit.passed


def error_bars(kernel: mlff.GlobalKernel, data: mlff.Dataset, atoms: Atoms) -> float:
    force_field = mlff.fit(kernel, data, posterior=True)
    print(force_field.std("forces", data[0].positions), force_field.covariance("energy", data[0].positions).shape)
    print(mlff.reliability(mlff.calibrated(force_field, data), data), force_field.sample(0).energy(data[0].positions))
    print(mlff.select(data, 10, force_field, by="variance").tolist(), mlff.inspect(data).suspects)
    print(mlff.frequency_error_bars(atoms).std, mlff.zero_point_energy(atoms), mlff.geometry_error_bars(atoms).max())
    return float(mlff.energy_differences([atoms, atoms]).std[0])


def minimum(force_field: mlff.ForceField, atoms: Atoms) -> Atoms:
    atoms.calc = mlff.Calculator(force_field)
    BFGS(atoms).run(fmax=0.1)
    print(atoms.calc.get_hessian(atoms).shape, mlff.relax(atoms).largest_force)
    return atoms


def vibrations(atoms: Atoms) -> np.ndarray:
    print(mlff.normal_modes(atoms).get_energies(), mlff.lowest_modes(atoms, 3).frequencies)
    print(mlff.anharmonic_frequencies(atoms).fundamentals, mlff.response(atoms).to_force(np.zeros((3, 3))))
    print(mlff.ideal_gas(atoms).get_gibbs_energy(298.15, 101325.0), mlff.harmonic(atoms).get_entropy(298.15))
    return mlff.frequencies(atoms)


def crystal(atoms: Atoms) -> np.ndarray:
    print(mlff.phonon_force_constants(atoms, (2, 2, 2)).shape, mlff.phonopy_of(atoms, (2, 2, 2)))
    return mlff.elastic_constants(atoms, relaxed=True)


def reaction(reactant: Atoms, product: Atoms) -> float:
    guess = mlff.band(reactant, product, images=7).highest
    saddle = mlff.transition_state(guess)
    return mlff.reaction_path(saddle.atoms).barrier


def poisson(points: np.ndarray) -> np.ndarray:
    inside = mlff.Condition(lambda u, x: jnp.trace(jax.hessian(u)(x)), points, 1.0)
    boundary = mlff.Condition(lambda u, x: u(x), np.array([[0.0], [1.0]]), np.zeros(2), noise=1e-8)
    return mlff.fit_function([inside, boundary], mlff.Matern72(lengthscale=0.3))(points)


def learnt(calculator, folder: pathlib.Path) -> mlff.ForceField:
    learned: mlff.Learned = mlff.learn(calculator, molecule("H2O"), folder, calls=20, threshold=0.1)
    print(len(learned.data), learned.calls[-1].std)
    more: mlff.ForceField = mlff.extended(learned.force_field, learned.data)
    print(mlff.influence(more, molecule("H2O").positions, "energy", most=3).frames)
    saddle: mlff.Stationary = mlff.find_saddle(molecule("H2O"), calculator, mode=np.zeros((3, 3)))
    print(mlff.elastic_constants_error_bars(saddle.atoms).std)
    print(mlff.phonon_error_bars(saddle.atoms, [2, 2, 2], np.zeros((1, 3))).std)
    minimum: mlff.Stationary = mlff.find_minimum(saddle.atoms, calculator, fmax=0.001)
    return minimum.force_field
