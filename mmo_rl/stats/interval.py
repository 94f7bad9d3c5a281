"""Interval estimates, and the quantiles that intervals are built from."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

POCOCK = (1.960, 2.178, 2.289, 2.361, 2.413, 2.453, 2.485, 2.512, 2.535, 2.555)
"""Standard errors that an estimate must lie from 0 at each of 1 to 10 equally spaced looks, so that all looks together
err in 5 % (Pocock 1977, "Group sequential methods in the design and analysis of clinical trials", Biometrika 64;
Jennison and Turnbull 2000, table 2.1)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its interval (95 % unless another level was asked for), in the units of the estimate. A bound
    that the data cannot give (one market only, a base that may be 0) is infinite."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0.0 or self.high < 0.0


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t with ``degrees`` >= 1 of freedom; ``probability`` in (0, 1)."""
    from scipy.special import stdtrit  # scipy.stats has the same number and takes several times as long to import

    return float(stdtrit(degrees, probability))


def t_two_sided(t: float, degrees: int) -> float:
    """Probability, in [0, 1], of a Student's t at least as far from 0 as ``t``; ``degrees`` >= 1 of freedom."""
    from scipy.special import stdtr

    return float(2.0 * stdtr(degrees, -abs(t)))


def level_of_looks(looks: int) -> float:
    """Level, in (0, 1), of intervals that hold together with 95 % at all of ``looks`` equally spaced looks.

    Repeated confidence intervals with Pocock's constants (Jennison and Turnbull 1989, JRSS B 51): one may stop at the
    first look whose interval excludes 0, and quote that interval. ``looks`` from 1 to 10; 1 gives 0.95.
    """
    return 0.95 if looks == 1 else 2.0 * NormalDist().cdf(POCOCK[looks - 1]) - 1.0
