"""What a fit does not know: the posterior covariance of labels, and samples, from the factor of the linear system it solved.

    cov(L, L′) = A [ L L′ k − k_Lᵀ C⁻¹ k_L′ + (h_L − Hᵀ C⁻¹ k_L)ᵀ (Hᵀ C⁻¹ H)⁻¹ (h_L′ − Hᵀ C⁻¹ k_L′) ],   k in units of A

H are the columns of the constants, which least squares found with the weights; what it does not know of them is the last
term. Where a combination of constants is in no training label (H has less than its full rank), it counts as known; unless the
constants were found afterwards, from energies that were no labels: c = M (y_E − E u). Then every L acts on u − h M E u.

A sample of the posterior is the model plus g − k C⁻¹ (L g + ε), with a random function g of the kernel's covariance and noise ε.

Source: Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), section 2.7; Wilson et al., Proc. Mach. Learn. Res.
    119, 10292 (2020) (samples).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Integer

from mlff.data.batches import LabelledFrames
from mlff.operators import ENERGY, FORCES, Operator
from mlff.potentials.expansion import Expansion
from mlff.potentials.sums import PotentialSum
from mlff.potentials.uncertainty import Uncertainty
from mlff.potentials.waves import RandomFunction
from mlff.regression.constants import constants_mixing, energies_left
from mlff.regression.exact import Factor, Progress
from mlff.regression.system.coefficients import RANK_CUTOFF, Weights, energies_of, expand
from mlff.regression.system.features import Features, features_asked
from mlff.regression.system.kernel_blocks import kernel_between, kernel_product
from mlff.regression.system.linear_system import LinearSystem, constants_design
from mlff.regression.system.observations import FrameObservations
from mlff.regression.system.rows import Rows
from mlff.regression.waves import Drawn, label_values, random_functions

AT_ONCE = 20  # frames that are left out together


@dataclasses.dataclass(frozen=True)
class Anchor:
    """Energies that are no labels, from which the constants were found: c = M (y − E u).

    Attributes:
        features: of the frames that have them, their energies as rows.
        energies: y, eV.
        mixing: M, shape (constants, energies), by the weights that the energies had in the constants of the model.
    """

    features: Features
    energies: Float[np.ndarray, " energies"]
    mixing: Float[np.ndarray, "z energies"]

    @classmethod
    def of(cls, system: LinearSystem, model: Expansion, frames: LabelledFrames) -> Anchor:
        """Of the energies of some frames, and the model that leaves something of them."""
        having = frames.having("energy")
        features = features_asked(system.kernel, having, ENERGY)
        return cls(
            features,
            having.values(ENERGY.name),
            constants_mixing(system.elements, having, energies_left(model, having)),
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Posterior(Uncertainty):
    """A linear system that was solved, with what its solution needed.

    Attributes:
        system: the operator C with its right-hand sides.
        factor: solves C x = b.
        weights: what solved it: a, and C⁻¹ H unless constants are given or in no label.
        anchor: of constants that were found afterwards.
    """

    system: LinearSystem
    factor: Factor
    weights: Weights
    anchor: Anchor | None = None

    @property
    def nbytes(self) -> int:
        """Of the factor, which is nearly all there is."""
        return self.factor.tiles.nbytes

    def anchored(self, model: Expansion, frames: LabelledFrames) -> Posterior:
        """Where the constants of a model were found from the energies of these frames, which are no labels."""
        return dataclasses.replace(self, anchor=Anchor.of(self.system, model, frames))

    def covariance(self, operator: Operator, frames: LabelledFrames) -> Float[np.ndarray, "labels labels"]:
        """Posterior covariance of all answers of an operator at some geometries, without noise, in its unit squared."""
        return self.of_features(features_asked(self.system.kernel, frames, operator))

    def of_features(self, features: Features) -> Float[np.ndarray, "labels labels"]:
        """The same of frames in descriptor space, between their rows.

        Time grows with the square of the training rows times the rows that are asked about, memory with their product.
        """
        prior, with_training, asked = self._seen(features)
        return self._covariance(prior, with_training, self.factor.whitened(with_training), asked)

    def _seen(self, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of rows: the kernel between them, that between the training rows and them, and what they are of constants; less what the
        constants are by the anchor."""
        system = self.system
        prior = kernel_between(features, features, system.shares)
        with_training = kernel_between(system.features, features, system.shares)
        asked = constants_design(features, system.elements)
        if self.anchor is not None and asked.any():
            across, own = self._anchors
            shared = asked @ (self.anchor.mixing @ kernel_between(self.anchor.features, features, system.shares))
            prior = prior - shared - shared.T + asked @ own @ asked.T
            with_training = with_training - across @ asked.T
        return prior, with_training, asked

    def _covariance(self, prior, with_training, whitened, asked) -> Float[np.ndarray, "labels labels"]:
        """From what `_seen` gives, and L⁻¹ times the kernel with the training rows."""
        covariance = prior - whitened.T @ whitened
        if self.weights.responses is not None:
            missing = asked.T - self.weights.responses.T @ with_training
            covariance += missing.T @ self._of_constants @ missing
        return self.system.scale * covariance

    @functools.cached_property
    def _anchors(self) -> tuple[np.ndarray, np.ndarray]:
        """The kernel between the training labels and M E u, (rows, z), and of M E u with itself, (z, z)."""
        features, mixing, shares = self.anchor.features, self.anchor.mixing, self.system.shares
        across = kernel_product(self.system.features, features, shares, mixing.T)
        return across, mixing @ kernel_product(features, features, shares, mixing.T)

    @functools.cached_property
    def _of_constants(self) -> Float[np.ndarray, "z z"]:
        """(Hᵀ C⁻¹ H)⁻¹, the covariance of the constants in units of the scale."""
        return np.linalg.pinv(self.system.design.T @ self.weights.responses, rcond=RANK_CUTOFF, hermitian=True)

    def members(self, count: int, seed: int) -> list[PotentialSum]:
        """A few samples that share what they can: points, waves."""
        system, generator = self.system, np.random.default_rng(seed)
        pairs = zip(system.features.terms, system.amplitudes, strict=True)
        functions = random_functions([Drawn.of(term, amplitude) for term, amplitude in pairs], generator, count)
        noise = np.sqrt(system.scale * system.noise)[:, None] * generator.standard_normal((len(system.labels), count))
        right = -noise - np.stack([label_values(function, system.features) for function in functions], axis=1)
        return [
            self._answered(function, weights) for function, weights in zip(functions, self._solved(right), strict=True)
        ]

    def _solved(self, right: Float[np.ndarray, "rows k"]) -> list[Weights]:
        """Weights and constants that answer to other labels than those of the fit, column by column."""
        solved, responses = self.factor.solve(right), self.weights.responses
        if responses is None:
            return [Weights(column, np.zeros(self.system.design.shape[1]), None) for column in solved.T]
        constants = self._of_constants @ (responses.T @ right)
        return [Weights(a, c, None) for a, c in zip((solved - responses @ constants).T, constants.T, strict=True)]

    def _answered(self, function: RandomFunction, weights: Weights) -> PotentialSum:
        answer = expand(self.system, weights)
        if self.anchor is not None:
            drawn = energies_of(PotentialSum((function, answer)), self.anchor.features.frames)
            answer = answer.shifted(-self.anchor.mixing @ drawn)
        return PotentialSum((function, answer))

    def constants_part(self, rows=slice(None)) -> np.ndarray | float:
        """C⁻¹H (HᵀC⁻¹H)⁻¹ HᵀC⁻¹ between some rows; 0 without constants that were found with the weights."""
        if self.weights.responses is None:
            return 0.0
        responses = self.weights.responses[rows]
        return responses @ self._of_constants @ responses.T

    def labels_of(self, j: int, rows: Float[np.ndarray, " rows"]) -> tuple[np.ndarray, float]:
        """Rows of a frame, by its place, as forces, (n, 3), and energy; of a kind that was no label none, and NaN."""
        forces, energy = np.zeros((0, 3)), np.nan
        for name, basis, there in _bases(self.system.features.observations[j]):
            values = rows[there] @ basis
            if name == FORCES.name:
                forces = values.reshape(-1, 3)
            else:
                energy = float(values[0])
        return forces, energy

    def left_out(
        self, frames: int, seed: int, progress: Progress = lambda stage, share: None
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """What leaving out one frame after another says of its labels: standard deviations of them, without their noise, and errors.

            r_j = P_jj⁻¹ a_j,   cov r_j = A P_jj⁻¹ (noise included),   P = C⁻¹ − C⁻¹H (HᵀC⁻¹H)⁻¹ HᵀC⁻¹

        in closed form, and from the basis of the rows back to forces and energies. n rows and q rows of the frames looked at take
        n² q/2 multiply-adds.

        Arguments:
            frames: how many are looked at, drawn with `seed`.
        Source: Sundararajan, Keerthi, Neural Comput. 13, 1103 (2001), doi 10.1162/08997660151134343.
        """
        system, features = self.system, self.system.features
        having = np.flatnonzero(features.row_counts)
        drawn = np.sort(np.random.default_rng(seed).permutation(having)[:frames])
        found: dict[str, list] = {}
        for done, (j, of_frame, own, covariance) in enumerate(self._frames_out(drawn)):
            progress("error bars", done / len(drawn))
            residual = covariance @ self.weights.rows[of_frame]
            if self.anchor is not None and (energy := self._energy_left_out(j, own, covariance, residual)):
                found.setdefault(ENERGY.name, []).append(energy)
            covariance = covariance - np.diag(system.noise[of_frame])
            for name, basis, there in _bases(features.observations[j]):
                variances = system.scale * np.einsum("ra,rs,sa->a", basis, covariance[there, there], basis)
                found.setdefault(name, []).append((np.sqrt(np.maximum(variances, 0.0)), residual[there] @ basis))
        progress("error bars", 1.0)
        return {
            name: (np.concatenate([std for std, _ in pairs]), np.concatenate([error for _, error in pairs]))
            for name, pairs in found.items()
        }

    def _frames_out(
        self, places: Integer[np.ndarray, " k"]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Of one frame after another, by its place: that, its rows, L⁻¹ of their unit vectors, and P_jj⁻¹."""
        ends, counts = self.system.features.ends, self.system.features.row_counts
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            rows = [np.arange(ends[j] - counts[j], ends[j]) for j in some]
            unit = np.zeros((len(self.system.labels), sum(map(len, rows))))
            unit[np.concatenate(rows), np.arange(unit.shape[1])] = 1.0
            columns = np.split(self.factor.whitened(unit), np.cumsum([len(r) for r in rows])[:-1], axis=1)
            for j, of_frame, own in zip(some, rows, columns, strict=True):
                # of an array with itself NumPy calls `dsyrk`, which crashes when threaded
                inverse = own.T @ own.copy() - self.constants_part(of_frame)
                yield int(j), of_frame, own, np.linalg.pinv(inverse, rcond=RANK_CUTOFF, hermitian=True)

    def rests_on(
        self, operator: Operator, frames: LabelledFrames, most: int
    ) -> tuple[Integer[np.ndarray, " k"], Float[np.ndarray, "k labels"], Float[np.ndarray, "variances labels"]]:
        """What leaving one training frame out changes in what is said of labels, in closed form.

            w = P k_L + C⁻¹H (HᵀC⁻¹H)⁻¹ h_L,    Δ_j = w_jᵀ r_j,    Δ_j var = A w_jᵀ P_jj⁻¹ w_j

        w is the weight of every training label in the answer, r_j = P_jj⁻¹ a_j what the labels of the frame are off from what all
        others say. Constants that energies tell which are no labels are kept.

        Arguments:
            most: frames, those whose labels have the largest weights.
        Returns:
            places of frames; by what the answers would be less, (k, labels); variances with all frames, and without each of these,
            (1 + k, labels).
        """
        prior, with_training, asked = self._seen(features_asked(self.system.kernel, frames, operator))
        variances = np.diagonal(self._covariance(prior, with_training, self.factor.whitened(with_training), asked))
        weights = self.factor.solve(with_training)
        if (responses := self.weights.responses) is not None:
            weights += responses @ (self._of_constants @ (asked.T - responses.T @ with_training))
        of_frames = np.split(weights * np.sqrt(self.system.diagonal())[:, None], self.system.features.ends[:-1])
        sizes = np.array([np.sum(part**2) for part in of_frames])
        places = np.argsort(-sizes)[: min(most, int(np.sum(sizes > 0.0)))]
        changes, more = np.zeros((2, len(places), weights.shape[1]))
        for i, (_, rows, _, covariance) in enumerate(self._frames_out(places)):
            own = weights[rows]
            changes[i] = (covariance @ self.weights.rows[rows]) @ own
            more[i] = self.system.scale * np.einsum("rl,rs,sl->l", own, covariance, own)
        return places, changes, np.stack([variances, *(variances + more)])

    def _energy_left_out(
        self, j: int, columns: np.ndarray, covariance: np.ndarray, residual: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Standard deviation and error of the energy of a frame when its other labels are left out; None where it has none.

        With c = k_E P_:j, the error is that of the model and c r_j, the variance that of the model and A c P_jj⁻¹ cᵀ.
        """
        anchor, system = self.anchor, self.system
        (place,) = np.nonzero(anchor.features.frames.index == system.features.frames.index[j])
        if not len(place):
            return None
        prior, with_training, asked = self._seen(anchor.features.take(place))
        whitened = self.factor.whitened(with_training)
        through = whitened.T @ columns  # (1, r)
        missed = (
            anchor.energies[place] - with_training.T @ self.weights.rows - asked @ (anchor.mixing @ anchor.energies)
        )
        of_model = self._covariance(prior, with_training, whitened, asked)
        variance = np.diagonal(of_model + system.scale * through @ covariance @ through.T)
        return np.sqrt(np.maximum(variance, 0.0)), missed + through @ residual


def _bases(frame: FrameObservations):
    """Of forces and energies, where rows are of these: their name, the basis from rows to labels, and which rows."""
    for name, there in frame.places.items():
        rows = Rows(*(array[there] for array in frame.rows))
        if name == FORCES.name:
            yield name, -rows.directions, there
        elif name == ENERGY.name:
            yield name, rows.values[:, None], there
