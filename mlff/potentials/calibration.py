"""Error bars that are as large as errors turn out to be: factors of standard deviations, from frames that were held out.

A kernel is never quite the right one, so that its posterior has the right order and not the right size. One factor for all is
what covariances and samples are scaled by; standard deviations of one kind of label are scaled by a factor that depends on their
size, as a single one would hide that large ones are wrong by another factor than small ones.

A committee of K members says σ √(χ²_K / (K − 2)) in place of σ: its largest standard deviations are those that chance made large, its
smallest those that chance made small. It has tables of its own, which undo that where σ itself hardly varies.

Source: Musil, Willatt, Langovoy, Ceriotti, J. Chem. Theory Comput. 15, 906 (2019), doi 10.1021/acs.jctc.8b00959 (one factor);
    Levi, Gispan, Giladi, Fetaya, Sensors 22, 5540 (2022), doi 10.3390/s22155540 (by bins).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mlff.precision import Array
from mlff.trees import Tree

BINS = 5
LEAST = 30  # errors a bin
SMALLEST = 1e-300  # standard deviations and factors have logarithms
DRAWN = 20_000  # standard deviations of committees that their table is made of
ROUNDING = 1e-5  # of the largest standard deviation
ONE_SIGMA, TWO_SIGMA = 0.6827, 0.9545  # shares of a normal distribution


class Calibration(Tree):
    """What standard deviations are multiplied by.

    Attributes:
        factor: for covariances, samples, and labels that have no table.
        tables: by the name of an operator, (2, k): standard deviations as they are, ascending, and their factors there.
        of_committee: the same of what a committee says; None where `tables` are that.
    """

    factor: float
    tables: dict[str, Float[Array, "2 k"]]
    of_committee: dict[str, Float[Array, "2 k"]] | None = None

    @classmethod
    def of(cls, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], members: int | None = None) -> Calibration:
        """Of labels that were held out.

        Arguments:
            pairs: by the name of an operator, standard deviations as they are and errors; forces, or the first, give the factor for all.
            members: of the committee that will stand for these standard deviations; None where they are a committee's.
        Raises:
            ValueError: there are none, or all are known beforehand.
        """
        kept = _telling(pairs)
        if not kept:
            raise ValueError(
                "calibration: all labels are known beforehand (by symmetry); give frames that are less regular"
            )
        return cls(
            _factor(*(kept.get("forces") or next(iter(kept.values())))),
            {name: _table(*pair, bin_count(len(pair[1]))) for name, pair in kept.items()},
            None
            if members is None
            else {name: _table(*_drawn(*pair, members), bin_count(len(pair[1]))) for name, pair in kept.items()},
        )

    def summary(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict:
        """What the record says: factors, and how the labels they were found from lie within one and two calibrated standard deviations.

        Arguments:
            pairs: as of `of`.
        """
        return {"factor": self.factor, **{name: self._coverage(name, *pair) for name, pair in _telling(pairs).items()}}

    def _coverage(self, name: str, stds: np.ndarray, errors: np.ndarray) -> dict:
        return {"count": len(errors), **shares(self.scaled(name, stds), errors)}

    def scaled(self, name: str, stds: np.ndarray | float, committee: bool = False) -> np.ndarray | float:
        """Standard deviations of an operator's labels, calibrated; of a committee, or exact ones."""
        stds = np.asarray(stds)
        tables = self.of_committee if committee and self.of_committee is not None else self.tables
        if name not in tables:
            return self.factor * stds
        known, factors = np.asarray(tables[name])
        logarithm = np.interp(np.log(np.maximum(stds, SMALLEST)), np.log(known), np.log(factors))
        return stds * np.exp(logarithm)


def shares(stds: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """Shares of errors within one and two standard deviations, and their root mean square."""
    ratios = np.abs(errors) / np.maximum(stds, SMALLEST)
    within = {"within_one": float(np.mean(ratios < 1.0)), "within_two": float(np.mean(ratios < 2.0))}
    return {**within, "rmse": float(np.sqrt(np.mean(np.square(errors))))}


def unknown(stds: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without labels that symmetry fixes, whose standard deviations are rounding: forces in a perfect crystal."""
    chosen = stds > ROUNDING * stds.max(initial=0.0)
    return stds[chosen], errors[chosen]


def _telling(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The labels that symmetry does not fix, of all kinds that have some."""
    kept = {name: unknown(*map(np.ravel, pair)) for name, pair in pairs.items()}
    return {name: pair for name, pair in kept.items() if len(pair[0])}


def bin_count(errors: int) -> int:
    """How many bins tell something of so many errors."""
    return max(1, min(BINS, errors // LEAST))


def _table(stds: np.ndarray, errors: np.ndarray, count: int) -> Float[np.ndarray, "2 k"]:
    """Factors by bins of equal numbers, each at the middle of its bin."""
    bins = np.array_split(np.argsort(stds), count)
    middle = [max(float(np.median(stds[b])), SMALLEST) for b in bins]
    return np.array([np.maximum.accumulate(middle), [_factor(stds[b], errors[b]) for b in bins]])


def _drawn(stds: np.ndarray, errors: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """What committees would say in place of exact standard deviations, with the errors."""
    chances = np.random.default_rng(0).chisquare(members, (max(1, DRAWN // len(stds)), len(stds)))
    return (stds * np.sqrt(chances / (members - 2))).ravel(), np.tile(errors, len(chances))


def _factor(stds: np.ndarray, errors: np.ndarray) -> float:
    """For which the shares of errors within one and two standard deviations are those of a normal distribution, the mean of both;
    the root mean square ratio would follow the few largest."""
    ratios = np.abs(errors) / np.maximum(stds, SMALLEST)
    inner, outer = np.quantile(ratios, [ONE_SIGMA, TWO_SIGMA])
    return max(float(np.sqrt(inner * outer / 2.0)), SMALLEST)
