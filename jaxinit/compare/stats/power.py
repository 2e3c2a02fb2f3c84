"""What a comparison of so many seeds could have shown."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import special

FACTORS = (3.0, 2.0, 1.5, 1.25, 1.1, 1.05, 1.02)
"""Ratios that one asks about."""

MOST_SEEDS = 10_000


class Power(NamedTuple):
    """What so many seeds could have shown, by the spread that they saw.

    Attributes:
        seeds: at which both schemes ran.
        factor: the greatest of `FACTORS` that they show in less than 80 % of sweeps.
        chance: probability that they show it.
        needed: seeds that show it in 80 % of sweeps.
        larger: the factor before it, which they do show so often; None if there is
            none.
        larger_chance: probability that they show that one.
    """

    seeds: int
    factor: float
    chance: float
    needed: int
    larger: float | None
    larger_chance: float


def power(factor: float, spread: float, seeds: int, level: float) -> float:
    r"""Probability that a two-sided paired t-test shows a ratio of times.

    $P(|T| > t_{n-1, 1 - \alpha/2})$ with $T$ noncentral Student with $n - 1$ degrees of
    freedom and noncentrality $\sqrt n \log(\text{factor}) / s$, the tail on the wrong
    side left out.

    Args:
        factor: the true ratio of geometric mean times, above 1.
        spread: standard deviation $s$ of the logarithm of the ratio over seeds.
        seeds: pairs $n$.
        level: of the test, $\alpha$.

    Returns:
        The probability; 0 with fewer than two pairs, and 1 without spread.

    Example:
        >>> round(power(1.5, 0.5, 5, 0.05), 2), round(power(1.5, 0.5, 18, 0.05), 2)
        (0.29, 0.9)
    """
    if seeds < 2:
        return 0.0
    if spread <= 0:
        return 1.0
    threshold = float(special.stdtrit(seeds - 1, 1 - level / 2))
    shift = math.sqrt(seeds) * math.log(factor) / spread
    if shift > threshold + 40:
        return 1.0
    return 1 - float(special.nctdtr(seeds - 1, shift, threshold))


def of_pair(spread: float, seeds: int, level: float) -> Power | None:
    """What a pair's seeds could have shown.

    Args:
        spread: standard deviation of the logarithm of the ratio over seeds.
        seeds: at which both ran.
        level: of the test of this pair.

    Returns:
        The power; None where there is no spread to judge by, or all of `FACTORS` are
        shown.
    """
    if not spread > 0 or seeds < 2:
        return None
    chances = [power(factor, spread, seeds, level) for factor in FACTORS]
    missed = next((i for i, each in enumerate(chances) if each < 0.8), None)
    if missed is None:
        return None
    return Power(
        seeds=seeds,
        factor=FACTORS[missed],
        chance=chances[missed],
        needed=_needed(FACTORS[missed], spread, seeds, level),
        larger=FACTORS[missed - 1] if missed else None,
        larger_chance=chances[missed - 1] if missed else 0.0,
    )


def _needed(factor: float, spread: float, seeds: int, level: float) -> int:
    """The fewest seeds that show a factor in 80 % of sweeps."""
    low, high = seeds, 2 * seeds
    while power(factor, spread, high, level) < 0.8 and high < MOST_SEEDS:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(factor, spread, middle, level) >= 0.8
        low, high = (low, middle) if enough else (middle, high)
    return high
