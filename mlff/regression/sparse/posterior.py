"""What a sparse fit does not know: the posterior covariance of labels in the span of its functionals and outside of it."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames
from mlff.kernels.kernels import Kernel
from mlff.operators import ENERGY, FORCES, Operator
from mlff.potentials.expansion import Expansion, composition, constant_elements
from mlff.potentials.force_field import ForceField
from mlff.potentials.sums import PotentialSum
from mlff.potentials.uncertainty import Uncertainty
from mlff.regression.exact import Progress
from mlff.regression.sparse.inducing import LabelRows
from mlff.regression.sparse.sums import SparseFactor
from mlff.regression.system.coefficients import energies_of
from mlff.regression.system.features import features_asked
from mlff.regression.system.kernel_blocks import kernel_between
from mlff.regression.system.linear_system import constants_design
from mlff.regression.waves import random_functions


@dataclasses.dataclass(frozen=True, repr=False)
class SparsePosterior(Uncertainty):
    """A sparse system that was solved.

    Attributes:
        kernel: with length scales and elements.
        amplitudes: A of every part, eV².
        factor: of the solution.
        knows_energies: whether energies were among the labels; constants are not known else.
        frames: with energies that were no labels, from which the constants were found; None without.
        mixing: M of these constants, c = M (y − E u); None without.
    """

    kernel: Kernel
    amplitudes: tuple[float, ...]
    factor: SparseFactor
    knows_energies: bool
    frames: LabelledFrames | None = None
    mixing: Float[np.ndarray, "z energies"] | None = None

    def covariance(self, operator: Operator, frames: LabelledFrames) -> Float[np.ndarray, "labels labels"]:
        """Posterior covariance of all answers of an operator at some geometries, without noise, in its unit squared.

        Raises:
            ValueError: energies are asked about, which were no labels.
        """
        features = features_asked(self.kernel, frames, operator)
        design = constants_design(features, constant_elements(self.kernel.parts))
        if design.any() and not self.knows_energies:
            raise ValueError(
                f"std: {operator.name} depends on the constants of a sparse model, which were found from energies that were no "
                'labels; fit labels=("energy", "forces")'
            )
        found = LabelRows(self.factor.system.inducing.between(features), np.zeros(len(design)), design)
        return self.factor.covariance(found, kernel_between(features, features, self.amplitudes))

    def members(self, count: int, seed: int) -> list[PotentialSum]:
        """A few samples that share what they can: points, waves.

        A random function without its projection on the functionals, which it has of its own, and a sample of their weights:

            δ = g − k_u K_uu⁻¹ g_u + k_u U⁻¹ √A B^(−½) ξ
        """
        generator, inducing, factor = np.random.default_rng(seed), self.factor.system.inducing, self.factor
        functions, samples = random_functions(inducing.drawn(self.amplitudes), generator, count), []
        for function in functions:
            weights, constants = factor.deviation(generator)
            own = inducing.whitening.whitened(inducing.values_of(function)[None])[0]
            parts = inducing.expand(inducing.whitening.weights(weights - own))
            elements = constant_elements(self.kernel.parts)
            answer = Expansion(parts, constants, elements, label_order=inducing.label_order)
            if self.frames is not None:
                drawn = energies_of(PotentialSum((function, answer)), self.frames)
                answer = answer.shifted(-self.mixing @ drawn)
            samples.append(PotentialSum((function, answer)))
        return samples

    def left_out(
        self, factor: SparseFactor, others: LabelledFrames, frames: LabelledFrames, progress: Progress
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Standard deviations, without noise, and errors of labels of some frames, by the model of others; no energies of atoms whose
        constants these do not tell.

        Arguments:
            factor: of the others.
        """
        without, model = dataclasses.replace(self, factor=factor), factor.model(self.kernel)
        told = [composition(model.elements, numbers) for numbers in others.having(ENERGY.name).compositions]
        found: dict[str, list] = {}
        done = 0
        progress("error bars", 0.0)
        for batch in frames.batches:
            force_field, asked = ForceField(model, batch.numbers), (FORCES, ENERGY)
            if not factor.system.given and not _is_told(composition(model.elements, batch.numbers), told):
                asked = (FORCES,)
            for k in range(len(batch)):
                one, where = batch.take([k]), (batch.positions[k], batch.cells[k], batch.pbc[k])
                for operator in asked:
                    if operator.name in factor.system.labels and operator.name in batch.labels:
                        variances = np.diagonal(without.covariance(operator, LabelledFrames((one,))))
                        error = one.labels[operator.name][0] - force_field.apply(operator, *where)
                        pair = np.sqrt(np.maximum(variances, 0.0)), np.ravel(error)
                        found.setdefault(operator.name, []).append(pair)
                done += 1
                progress("error bars", done / len(frames))
        return {name: tuple(map(np.concatenate, zip(*pairs, strict=True))) for name, pairs in found.items()}


def _is_told(asked: Float[np.ndarray, " z"], told: list[Float[np.ndarray, " z"]]) -> bool:
    """Whether a combination of constants follows from others."""
    return bool(told and np.linalg.matrix_rank([*told, asked]) == np.linalg.matrix_rank(told))
