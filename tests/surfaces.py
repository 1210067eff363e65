"""Potential energies with closed solutions, as ASE calculators that have Hessians."""

import numpy as np
from ase.calculators.calculator import Calculator as ASECalculator


class Springs(ASECalculator):
    """A harmonic energy about the positions that it was made with, with a given Hessian."""

    implemented_properties = ("energy", "forces")

    def __init__(self, positions, hessian):
        super().__init__()
        self.origin, self.hessian = np.array(positions), np.array(hessian)

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        away = (self.atoms.positions - self.origin).ravel()
        self.results = {"energy": 0.5 * away @ self.hessian @ away, "forces": -(self.hessian @ away).reshape(-1, 3)}

    def get_hessian(self, atoms):
        return self.hessian


class DoubleWell(ASECalculator):
    """E = 10 (r − 2)² + (z² − ¼)² + 3 (ρ − 1)²: two atoms at distance r, a third at height z above their middle along
    the axis and ρ beside it. Minima at z = ±½, a saddle at z = 0. Derivatives by differences.
    """

    implemented_properties = ("energy", "forces")

    def energy(self, flat):
        a, b, c = flat.reshape(3, 3)
        bond = np.linalg.norm(b - a)
        axis, middle = (b - a) / bond, (a + b) / 2
        along = (c - middle) @ axis
        return (
            10.0 * (bond - 2.0) ** 2
            + (along**2 - 0.25) ** 2
            + 3.0 * (np.linalg.norm(c - middle - along * axis) - 1.0) ** 2
        )

    def gradient(self, flat, step=1e-5):
        shifts = step * np.eye(9)
        return np.array([(self.energy(flat + s) - self.energy(flat - s)) / (2 * step) for s in shifts])

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        flat = self.atoms.positions.ravel()
        self.results = {"energy": self.energy(flat), "forces": -self.gradient(flat).reshape(3, 3)}

    def get_hessian(self, atoms):
        flat, step = atoms.positions.ravel(), 1e-4
        rows = [(self.gradient(flat + s) - self.gradient(flat - s)) / (2 * step) for s in step * np.eye(9)]
        return 0.5 * (np.array(rows) + np.array(rows).T)
