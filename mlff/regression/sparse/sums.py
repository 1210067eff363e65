"""Sparse models: kernel regression in the span of a few functionals, from frames that are looked at one after another.

With K_uu = UᵀU between m inducing functionals and K_lu between labels of a kind l and these, the energy is Σ_k a_k k(·, u_k) with

    a = U⁻¹ w,      (1/A + Σ_l A_lᵀA_l/σ_l²) w = Σ_l A_lᵀ y_l/σ_l²,      A_l = K_lu U⁻¹

Rows are whitened with U before they are multiplied with each other: the equations for a itself,
(K_uu/A + Σ_l K_ul K_lu/σ_l²) a = Σ_l K_ul y_l/σ_l², would lose half the digits. What is kept of the labels of a kind is A_lᵀA_l,
A_lᵀy_l and y_lᵀy_l, fold by fold. From that follow the models of any noise σ_l, of any amplitudes A and of fewer functionals, each
with its errors on the folds that were left out. Labels whose noise is stated while that of their kind is looked for are a kind of
their own. Memory grows with m² and a few frames, time with n m², and frames may be added.

Source: Quiñonero-Candela, Rasmussen, J. Mach. Learn. Res. 6, 1939 (2005) (subset of regressors); Foster et al., J. Mach. Learn.
    Res. 10, 857 (2009) (its stable solution); Bartók, Csányi, Int. J. Quantum Chem. 115, 1051 (2015), doi 10.1002/qua.24927.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular

from mlff.batching import machine_memory
from mlff.data.batches import LabelledFrames
from mlff.operators import ENERGY, FORCES, Operator
from mlff.potentials.expansion import Expansion, composition, constant_elements
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.exact import IndefiniteMatrix, Progress
from mlff.regression.sparse.inducing import Inducing, LabelRows
from mlff.regression.sparse.label_kinds import LabelKinds, label_of, ungrouped
from mlff.regression.sparse.row_moments import Moments, Sums, state_of, taken_up
from mlff.regression.system.coefficients import RANK_CUTOFF

FOLDS = 5
POWERS = 10  # of a matrix, from which its largest eigenvalue is known well enough


Levels = Mapping[str, float]  # the standard deviation of labels, by their kind


@dataclasses.dataclass(frozen=True)
class SparseSystem:
    """The labels of frames, whitened and summed.

    Attributes:
        inducing: the functionals.
        folds: of every kind of label what is kept of it, fold by fold.
        units: kinds of the labels of every frame, and the units in which they are taken.
        reference: energies of atoms (of the molecule) that the energies are counted from, eV, shape (z,).
        given: whether these are the constants, or constants are found beside them.
        extensive: whether the noise of energies and of strain derivatives is that of one atom, σ√n of n.
        rows: how many labels there are.
        unseen: share of the squared forces that lies in net forces, which no energy has.
    """

    inducing: Inducing
    folds: dict[str, list[Moments]]
    units: LabelKinds
    reference: Float[np.ndarray, " z"]
    given: bool
    extensive: bool
    rows: int
    unseen: float

    @classmethod
    def of(
        cls,
        inducing: Inducing,
        kernel,
        frames: LabelledFrames,
        operators: Mapping[Operator, float],
        fold_of: Mapping[int, int],
        atomic_energies: Mapping[int, float] | None = None,
        extensive: bool = False,
        progress: Progress = lambda stage, fraction: None,
        checkpoint: Checkpoint = NOWHERE,
        groups: Mapping[int, str] | None = None,
    ) -> SparseSystem:
        """Look at all frames, one after another.

        Arguments:
            operators: what labels are of, with their noise; any, where it is to be looked for.
            fold_of: the fold of every frame, by its index.
            atomic_energies: by atomic number, eV, in place of constants that are found.
            extensive: the noise is to be looked for.
            checkpoint: keeps the sums over the frames that were looked at.
            groups: of frames whose labels are kinds of their own, by index.
        Raises:
            ValueError: what is to be kept would not fit into memory, or a descriptor is not finite.
        """
        elements = constant_elements(kernel.parts)
        compositions = {int(i): composition(elements, b.numbers) for b in frames.batches for i in b.index}
        given = None if atomic_energies is None else np.array([atomic_energies[z] for z in elements])
        reference = _reference(frames, compositions, ENERGY in operators) if given is None else given
        count = max(fold_of.values()) + 1
        m, constants = len(inducing.whitening), len(reference) if given is None else 0
        kinds = LabelKinds.of(frames, operators, extensive, groups)
        _require_memory(m, count * len(kinds.names))
        sums = {kind: [Sums(m + constants) for _ in range(count)] for kind in kinds.names}
        net, total = 0.0, 0.0
        seen = taken_up(sums, checkpoint)
        progress("labels", 0.0)
        left = frames.take(np.concatenate([batch.index for batch in frames.batches])[seen:]) if seen else frames
        looked_at = kinds.rows(inducing, left, operators, reference, constants) if seen < len(frames) else ()
        for done, (i, of_frame) in enumerate(looked_at, start=seen + 1):
            for kind, rows, labels in of_frame:
                sums[kind][fold_of[i]].add(rows, labels)
            progress("labels", done / len(frames))
            checkpoint.replace("labels", lambda done=done: state_of(sums, done))
        rows = sum(each.count for of_folds in sums.values() for each in of_folds)
        for batch in frames.having("forces").batches if FORCES in operators else ():
            forces = batch.labels["forces"]
            net += float(np.sum(forces.sum(axis=1) ** 2)) / forces.shape[1]
            total += float(np.sum(forces**2))
        folds = {name: [each.moments() for each in of_folds] for name, of_folds in sums.items()}
        unseen = net / total if total else 0.0
        return cls(inducing, folds, kinds, reference, given is not None, extensive, rows, unseen)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.folds)

    @property
    def stated(self) -> dict[str, float]:
        """Noise of the kinds for which it is stated, and not looked for."""
        return self.units.stated

    @property
    def labels(self) -> set[str]:
        """Names of the labels that the kinds are of."""
        return {label_of(kind) for kind in self.kinds}

    @functools.cached_property
    def whole(self) -> dict[str, Moments]:
        """Of all frames."""
        return {name: functools.reduce(Moments.__add__, of_folds) for name, of_folds in self.folds.items()}

    @property
    def constants(self) -> int:
        """How many constants are found."""
        return 0 if self.given else len(self.reference)

    @functools.cached_property
    def amplitudes(self) -> Float[np.ndarray, " p"]:
        """A of every part for which the prior variances of the forces (without any, of the first kind of labels) are equal
        shares of their mean square."""
        forces = [moments for kind, moments in self.whole.items() if label_of(kind) == FORCES.name]
        moments = functools.reduce(Moments.__add__, forces) if forces else next(iter(self.whole.values()))
        owners = self.inducing.owners
        traces = np.bincount(owners, np.diagonal(moments.matrix)[: len(owners)])
        return np.where(traces > 0.0, moments.square, 1.0) / (len(traces) * np.where(traces > 0.0, traces, 1.0))

    def __add__(self, other: SparseSystem) -> SparseSystem:
        """With the labels of more frames, of the same functionals and reference energies.

        Raises:
            ValueError: other functionals, kinds of label or reference energies.
        """
        same = (
            self.inducing is other.inducing
            and set(self.kinds) == set(other.kinds)
            and self.extensive == other.extensive
        )
        if not same or not np.array_equal(self.reference, other.reference):
            raise ValueError("sparse systems: expected the same inducing functionals, labels and atomic energies")
        folds = {
            name: [a + b for a, b in zip(ours, other.folds[name], strict=True)] for name, ours in self.folds.items()
        }
        rows = self.rows + other.rows
        unseen = (self.rows * self.unseen + other.rows * other.unseen) / rows
        return dataclasses.replace(self, folds=folds, units=self.units + other.units, rows=rows, unseen=unseen)

    def leading(self, functionals: int) -> SparseSystem:
        """Of the first functionals alone, to try what noise is worth; it gives no model."""
        folds = {
            name: [moments.leading(functionals, self.constants) for moments in of_folds]
            for name, of_folds in self.folds.items()
        }
        return dataclasses.replace(self, folds=folds)

    def levels_of(self, levels: Levels) -> dict[str, float]:
        """The noise of every kind: what is stated, its own, or that of its labels."""
        others = {
            kind: levels[kind if kind in levels else label_of(kind)] for kind in self.kinds if kind not in self.stated
        }
        return {**others, **self.stated}

    def merged(self, factors: Mapping[str, float]) -> SparseSystem:
        """With the kinds of groups in one with those of the others, in units of some factors: their noise is that of all times these.

        Arguments:
            factors: by kind, 1 without.
        """
        folds: dict[str, list[Moments]] = {}
        for kind, of_folds in self.folds.items():
            scaled = [moments.scaled(1.0 / factors.get(kind, 1.0)) for moments in of_folds]
            name = ungrouped(kind)
            folds[name] = [a + b for a, b in zip(folds[name], scaled, strict=True)] if name in folds else scaled
        return dataclasses.replace(self, folds=folds, units=self.units.merged(factors))

    def solve(self, levels: Levels, amplitudes: Float[np.ndarray, " p"], without: int | None = None) -> SparseFactor:
        """The solution of all frames, or of those that are not in one fold.

        Arguments:
            levels: noise of every kind for which it is not stated, in its unit (of energies and strain derivatives an atom where
                `extensive`).
            amplitudes: A of every part of the kernel, eV².
        Raises:
            IndefiniteMatrix: the noise is so small that nothing is left of the prior.
        """
        kept, levels = self.whole, self.levels_of(levels)
        if without is not None:
            kept = {
                name: Moments(all_.matrix - out.matrix, all_.right - out.right, all_.square, all_.count)
                for name, all_, out in ((n, self.whole[n], self.folds[n][without]) for n in self.kinds)
            }
        matrix = sum(moments.matrix / levels[name] ** 2 for name, moments in kept.items())
        right = sum(moments.right / levels[name] ** 2 for name, moments in kept.items())
        m = len(right) - self.constants
        roots = np.sqrt(np.asarray(amplitudes)[self.inducing.owners[:m]])
        inner = roots[:, None] * matrix[:m, :m] * roots
        inner.flat[:: m + 1] += 1.0
        try:
            factor = cho_factor(inner, overwrite_a=True, check_finite=False)
        except LinAlgError as error:
            raise IndefiniteMatrix(
                f"the labels outweigh what is known before by more than double precision holds; raise noise (now {_named(levels)})"
            ) from error
        w = cho_solve(factor, roots * right[:m], check_finite=False)
        responses, normal, c = None, None, np.zeros(0)
        if self.constants:
            across = roots[:, None] * matrix[:m, m:]
            responses = cho_solve(factor, across, check_finite=False)
            normal = matrix[m:, m:] - across.T @ responses
            c = np.linalg.lstsq(normal, right[m:] - across.T @ w, rcond=RANK_CUTOFF)[0]
            w = w - responses @ c
        return SparseFactor(
            self, levels, np.asarray(amplitudes), roots, factor, np.concatenate([roots * w, c]), responses, normal
        )

    def errors(self, levels: Levels, amplitudes: Float[np.ndarray, " p"]) -> dict[str, float]:
        """RMSE of every kind of label on the folds that are left out in turn, in the units of `levels`."""
        squares, counts = dict.fromkeys(self.kinds, 0.0), dict.fromkeys(self.kinds, 0)
        for fold in range(len(next(iter(self.folds.values())))):
            weights = self.solve(levels, amplitudes, without=fold).weights
            for name, of_folds in self.folds.items():
                if of_folds[fold].count:
                    squares[name] += of_folds[fold].mean_square(weights) * of_folds[fold].count
                    counts[name] += of_folds[fold].count
        return {name: float(np.sqrt(squares[name] / counts[name])) for name in self.kinds}


@dataclasses.dataclass(frozen=True)
class SparseFactor:
    """A sparse system that was solved; what a fit does not know, too.

    Attributes:
        system: with the inducing functionals.
        levels: noise of every kind of label.
        amplitudes: A of every part that the functionals tell apart.
        roots: √A of every whitened coordinate.
        factor: of B = 1 + √A (Σ_l A_lᵀA_l/σ_l²) √A, as SciPy has it.
        weights: w and the constants c found beside the reference, shape (m + z,).
        responses: B⁻¹ √A Σ_l A_lᵀH_l/σ_l², shape (m, z); None without constants.
        normal: of the constants, (z, z).
    """

    system: SparseSystem
    levels: dict[str, float]
    amplitudes: Float[np.ndarray, " p"]
    roots: Float[np.ndarray, " m"]
    factor: tuple
    weights: Float[np.ndarray, " c"]
    responses: Float[np.ndarray, "m z"] | None
    normal: Float[np.ndarray, "z z"] | None

    @property
    def condition(self) -> float:
        """About the condition number of B, from below: its largest and smallest eigenvalue by a few powers."""
        upper = np.triu(self.factor[0])
        largest = _growth(lambda x: upper.T @ (upper @ x), len(upper))
        return largest * _growth(lambda x: cho_solve(self.factor, x, check_finite=False), len(upper))

    def model(self, kernel) -> Expansion:
        """The energy as a function of a geometry."""
        inducing, m = self.system.inducing, len(self.roots)
        parts = inducing.expand(inducing.whitening.weights(self.weights[:m]))
        constants = self.system.reference + (self.weights[m:] if self.system.constants else 0.0)
        return Expansion(parts, constants, constant_elements(kernel.parts), label_order=inducing.label_order)

    def evidence_scale(self) -> float:
        """The factor of all amplitudes and noise variances for which the labels are most likely.

        s = (Σ_l |y_l − A_l w|²/σ_l² + wᵀw/A)/n
        """
        system = self.system
        missed = sum(
            moments.count * moments.mean_square(self.weights) / self.levels[name] ** 2
            for name, moments in system.whole.items()
        )
        prior = float(np.sum((self.weights[: len(self.roots)] / self.roots) ** 2))
        return (missed + prior) / sum(moments.count for moments in system.whole.values())

    def scaled(self, factor: float) -> SparseFactor:
        """With all amplitudes and noise variances times a number: the same model, less or more sure of itself."""
        root = factor**0.5
        return dataclasses.replace(
            self,
            levels={name: level * root for name, level in self.levels.items()},
            amplitudes=self.amplitudes * factor,
            roots=self.roots * root,
            responses=None if self.responses is None else self.responses / root,
            normal=None if self.normal is None else self.normal / factor,
        )

    def covariance(self, found: LabelRows, prior: Float[np.ndarray, "r r"]) -> Float[np.ndarray, "r r"]:
        """Posterior covariance of labels of a frame, without their noise.

            cov = k_LL − A_L A_Lᵀ + A_L B⁻¹ A_Lᵀ + constants,      all times the amplitudes

        Arguments:
            found: what `inducing.rows` gives of the labels.
            prior: their prior covariance, k_LL times the amplitudes.
        Source: Quiñonero-Candela, Rasmussen (2005), section 5 (deterministic training conditional).
        """
        whitened = self.roots * self.system.inducing.whitening.whitened(found.kernel)
        covariance = prior - whitened @ whitened.T + whitened @ cho_solve(self.factor, whitened.T)
        if self.normal is not None:
            missing = found.design.T - self.responses.T @ whitened.T
            covariance += missing.T @ np.linalg.pinv(self.normal, rcond=RANK_CUTOFF, hermitian=True) @ missing
        return covariance

    def deviation(self, generator: np.random.Generator) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " z"]]:
        """A sample of what is not known of the whitened weights and of the constants."""
        upper, _ = self.factor
        weights = solve_triangular(upper, generator.standard_normal(len(self.roots)), check_finite=False)
        constants = np.zeros(len(self.system.reference))
        if self.normal is not None:
            values, vectors = np.linalg.eigh(self.normal)
            known = values > RANK_CUTOFF * values[-1]
            drawn = generator.standard_normal(len(values)) * known / np.sqrt(np.where(known, values, 1.0))
            constants = vectors @ drawn
            weights = weights - self.responses @ constants
        return self.roots * weights, constants


def _reference(frames: LabelledFrames, compositions: Mapping[int, np.ndarray], found: bool) -> Float[np.ndarray, " z"]:
    """Constants that explain the energies as well as can be, by least squares: numbers are small beside them."""
    sizes = len(next(iter(compositions.values())))
    having = frames.having("energy").batches if found else ()
    if not having:
        return np.zeros(sizes)
    design = np.array([compositions[int(i)] for batch in having for i in batch.index])
    return np.linalg.lstsq(design, np.concatenate([batch.labels["energy"] for batch in having]), rcond=1e-10)[0]


def _growth(multiplied: Callable[[np.ndarray], np.ndarray], size: int) -> float:
    """The largest eigenvalue of a positive matrix, by powers of it."""
    vector, growth = np.random.default_rng(0).standard_normal(size), 1.0
    for _ in range(POWERS):
        vector = multiplied(vector / np.linalg.norm(vector))
        growth = float(np.linalg.norm(vector))
    return growth


def _require_memory(functionals: int, kept: int) -> None:
    """Refuse what would not fit, before any work is done: the moments, their sum, a factor and its copy."""
    needed, present = 8 * functionals**2 * (kept + 6), machine_memory()
    if needed > present:
        raise ValueError(
            f"inducing={functionals}: {kept} matrices of that size need {needed / 2**30:.1f} GiB, this machine has "
            f"{present / 2**30:.1f}; take fewer inducing points"
        )


def _named(levels: Levels) -> str:
    return ", ".join(f"{name} {level:.3g}" for name, level in levels.items())
