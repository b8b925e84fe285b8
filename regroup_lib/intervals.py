"""Confidence intervals of differences between methods, and the stars of tables.

A difference of two methods has two sources of uncertainty: the seed of the training and the sample of test images.
The interval covers both, and every table, figure and verdict uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its confidence interval.

    Attributes
    ----------
    mean, low, high : float
        In the unit of the values; AP and balanced accuracy are in percentage points.
    error : float
        Standard error of the mean.
    degrees : float
        Degrees of freedom of Student's t.
    """

    mean: float
    low: float
    high: float
    error: float
    degrees: float

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 1) -> str:
        """Return ``"+1.2 [+0.3, +2.1]"``."""
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]".replace("-", "−")

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    @property
    def p_value(self) -> float:
        """The two-sided probability of a mean at least as far from 0 if there is no difference."""
        if not self.error > 0:
            return float("nan") if np.isnan(self.mean) else float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / self.error, self.degrees))


def interval(by_seed: Sequence[float], resampled: np.ndarray | None = None, *, n_units: int | None = None) -> Interval:
    """Return the 95% interval of a mean over seeds, for other seeds and another test set of the same size.

    Parameters
    ----------
    by_seed : sequence of float [n]
        The quantity, usually a difference of two methods, for each seed on the whole test set.
    resampled : array [n, B], optional
        The same in resamples of the test set, which all seeds share. None: only the seeds vary.
    n_units : int, optional
        Independent units behind `resampled`: the positives of the test set. It bounds the degrees of freedom of the
        variance over resamples.

    Returns
    -------
    Interval
        ``mean ± t * sqrt(s² / n + v)``: s² is the variance over seeds and v the variance over resamples of the mean
        over seeds; t has Satterthwaite's degrees of freedom. With one seed s² is unknown and left out. All numbers
        are NaN where a run diverged.

    Raises
    ------
    ValueError
        If there is no seed, or one seed and nothing resampled.

    References
    ----------
    Satterthwaite (1946), An approximate distribution of estimates of variance components.

    Examples
    --------
    >>> str(interval([1.0, 2.0, 3.0]))
    '+2.0 [−0.5, +4.5]'
    """
    values = np.asarray(by_seed, float)
    n = len(values)
    if n == 0 or (n == 1 and resampled is None):
        raise ValueError(f"an interval needs two seeds, or resamples of the test set; got {n} seed")
    seeds = values.var(ddof=1) / n if n > 1 else 0.0
    test = 0.0 if resampled is None else float(np.mean(resampled, axis=0).var(ddof=1))
    units = np.inf if n_units is None else max(n_units - 1, 1)
    spread = (seeds**2 / (n - 1) if n > 1 else 0.0) + test**2 / units
    degrees = (seeds + test) ** 2 / spread if spread > 0 else np.inf
    error = float(np.sqrt(seeds + test))
    margin = student.ppf(0.975, degrees) * error
    mean = float(values.mean())
    return Interval(mean, float(mean - margin), float(mean + margin), error, float(degrees))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for several comparisons; NaN stays NaN and does not count.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)[: int(np.isfinite(p).sum())]
    corrected = np.full(len(p), np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return corrected


def starred(intervals: Sequence[Interval | None]) -> list[str]:
    """Return the intervals of one table as text, with a star if the difference is significant after Holm's correction.

    The level is 5%. An entry that is None, such as a method's difference to itself, becomes empty text.
    """
    given = [found for found in intervals if found is not None]
    corrected = iter(holm([found.p_value for found in given]))
    return ["" if found is None else f"{found}{' *' if next(corrected) < 0.05 else ''}" for found in intervals]


def mean_std(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Return "mean ± standard deviation" (n - 1 degrees), in percent by default."""
    values = np.asarray(values, float) * scale
    deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
    return minus(f"{values.mean():.{digits}f} ± {deviation:.{digits}f}")


def minus(text: str) -> str:
    """Return a text with a minus sign instead of each hyphen."""
    return text.replace("-", "−")
