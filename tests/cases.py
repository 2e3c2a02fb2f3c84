"""THE table: a row per initializer. Every general test runs over it.

A row gives the initializer, a shape of 2**17 elements or near, the mean and standard
deviation of its closed form (None where there is none), the distribution of an element
in units of that standard deviation, and the peer in `jax.nn.initializers` whose float32
bits it shares, if there is one. `small` is a shape like it that compiles fast,
`complex` says that a complex draw is circular, of the same mean square; `tolerance` is
0 where eager, jitted and sharded draws agree to the bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.special
import scipy.stats

import jaxinit as ji

jinit = jax.nn.initializers

DENSE = (256, 512)
CONV = (3, 3, 64, 128)


class Case(NamedTuple):
    init: ji.Initializer
    shape: tuple[int, ...]
    mean: float
    stddev: float
    distribution: Any  # has the cdf of (x - mean) / stddev, or None
    peer: Any = None
    complex: bool = True
    tolerance: float = 0.0

    @property
    def small(self) -> tuple[int, ...]:
        if self.init.arguments.get("groups", 1) > 1:
            return (3, 3, 1, 512)
        return tuple(min(size, 16) for size in self.shape)

    def __repr__(self) -> str:
        return f"{self.init!r}{self.shape}".replace(" ", "")


NORMAL = scipy.stats.norm()
UNIFORM = scipy.stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))
CUT = scipy.stats.truncnorm(-2, 2).std()
TRUNCATED = scipy.stats.truncnorm(-2, 2, scale=1 / CUT)
DISTRIBUTIONS = {"normal": NORMAL, "uniform": UNIFORM, "truncated_normal": TRUNCATED}


def truncated(lower, upper):
    """Truncated normal, shifted and scaled to mean 0 and variance 1."""
    distribution = scipy.stats.truncnorm(lower, upper)
    mean, std = distribution.mean(), distribution.std()
    return scipy.stats.truncnorm(lower, upper, loc=-mean / std, scale=1 / std)


class Quantiles:
    """A distribution by its quantile function, shifted and scaled."""

    def __init__(self, quantile):
        grid = np.sort(quantile((np.arange(2**20) + 0.5) / 2**20))
        self.mean, self.stddev = grid.mean(), grid.std()
        self.grid = (grid - self.mean) / self.stddev

    def cdf(self, z):
        return np.searchsorted(self.grid, z) / len(self.grid)

    def case(self, init):
        return Case(init, (2**17,), self.mean, self.stddev, self, complex=False)


def entry_of_haar(n):
    """An entry of a Haar matrix of size n, times sqrt(n): a scaled symmetric beta."""
    half = (n - 1) / 2
    return scipy.stats.beta(half, half, loc=-math.sqrt(n), scale=2 * math.sqrt(n))


def _scaling(mode, distribution):
    fans = {"fan_in": 576, "fan_out": 1152, "fan_avg": 864, "fan_geo_avg": 576 * 2**0.5}
    return Case(
        ji.variance_scaling(1.7, mode, distribution),
        CONV,
        0.0,
        math.sqrt(1.7 / fans[mode]),
        DISTRIBUTIONS[distribution],
        jinit.variance_scaling(1.7, mode, distribution),
    )


def _named(name, std, distribution):
    return Case(
        getattr(ji, name)(),
        DENSE,
        0.0,
        std,
        DISTRIBUTIONS[distribution],
        getattr(jinit, name)(),
    )


CONSTANTS = [
    Case(ji.zeros, DENSE, 0.0, 0.0, None, jinit.zeros),
    Case(ji.ones, DENSE, 1.0, 0.0, None, jinit.ones),
    Case(ji.constant(-7.5), DENSE, -7.5, 0.0, None, jinit.constant(-7.5)),
]

FIXED = [
    Case(ji.uniform(), DENSE, 0.005, 0.01 / 12**0.5, UNIFORM, jinit.uniform()),
    Case(ji.uniform(0.3), DENSE, 0.15, 0.3 / 12**0.5, UNIFORM, jinit.uniform(0.3)),
    Case(ji.uniform(minval=-1, maxval=3), DENSE, 1.0, 4 / 12**0.5, UNIFORM),
    Case(ji.normal(), DENSE, 0.0, 0.01, NORMAL, jinit.normal()),
    Case(ji.normal(0.037), DENSE, 0.0, 0.037, NORMAL, jinit.normal(0.037)),
    Case(ji.normal(0.5, mean=2.0), DENSE, 2.0, 0.5, NORMAL),
    Case(
        ji.truncated_normal(0.3),
        DENSE,
        0.0,
        0.3 * CUT,
        TRUNCATED,
        jinit.truncated_normal(0.3),
    ),
    Case(
        ji.truncated_normal(0.3, lower=-1.0, upper=3.0),
        DENSE,
        0.3 * scipy.stats.truncnorm(-1, 3).mean(),
        0.3 * scipy.stats.truncnorm(-1, 3).std(),
        truncated(-1, 3),
        jinit.truncated_normal(0.3, lower=-1.0, upper=3.0),
    ),
    Case(
        ji.truncated_normal(0.3, lower=-1.0, upper=3.0, mean=1.0, corrected=True),
        DENSE,
        1.0,
        0.3,
        truncated(-1, 3),
    ),
    Case(
        ji.truncated_normal(2.0, lower=0.0, upper=1.0, mean=1.0, bounds="absolute"),
        DENSE,
        1 + 2 * scipy.stats.truncnorm(-0.5, 0).mean(),
        2 * scipy.stats.truncnorm(-0.5, 0).std(),
        truncated(-0.5, 0),
    ),
    Case(
        ji.truncated_normal(1.0, lower=-math.inf, upper=0.5),
        DENSE,
        scipy.stats.truncnorm(-np.inf, 0.5).mean(),
        scipy.stats.truncnorm(-np.inf, 0.5).std(),
        truncated(-np.inf, 0.5),
    ),
]

VARIANCE = [
    *[
        _scaling(mode, distribution)
        for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
        for distribution in DISTRIBUTIONS
    ],
    _named("lecun_normal", (1 / 256) ** 0.5, "truncated_normal"),
    _named("lecun_uniform", (1 / 256) ** 0.5, "uniform"),
    _named("glorot_normal", (2 / 768) ** 0.5, "truncated_normal"),
    _named("glorot_uniform", (2 / 768) ** 0.5, "uniform"),
    _named("he_normal", (2 / 256) ** 0.5, "truncated_normal"),
    _named("he_uniform", (2 / 256) ** 0.5, "uniform"),
    Case(
        ji.he_normal(in_axis=0, out_axis=(1, 2), batch_axis=3),
        (32, 8, 16, 32),
        0.0,
        (2 / 32) ** 0.5,
        TRUNCATED,
        jinit.he_normal(in_axis=0, out_axis=(1, 2), batch_axis=3),
    ),
    # Flax's embedding: overlapping axes leave the features as the fan.
    Case(
        ji.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
        (1024, 128),
        0.0,
        128**-0.5,
        NORMAL,
        jinit.variance_scaling(1.0, "fan_in", "normal", out_axis=0),
    ),
    Case(ji.glorot_normal(distribution="normal"), DENSE, 0.0, (2 / 768) ** 0.5, NORMAL),
    Case(ji.he_normal(distribution="normal"), DENSE, 0.0, (2 / 256) ** 0.5, NORMAL),
    Case(ji.he_normal(mode="fan_out"), DENSE, 0.0, (2 / 512) ** 0.5, TRUNCATED),
    Case(ji.lecun_normal(gain=3.0), DENSE, 0.0, 3 * (1 / 256) ** 0.5, TRUNCATED),
    Case(ji.he_uniform(gain=1.0), DENSE, 0.0, (1 / 256) ** 0.5, UNIFORM),
    Case(ji.lecun_uniform(fan=64), (2**17,), 0.0, 1 / 8, UNIFORM),
    Case(
        ji.glorot_uniform(groups=512),
        (3, 3, 1, 512 * 28),
        0.0,
        (2 / (9 + 9 * 28)) ** 0.5,
        UNIFORM,
    ),
]

ORTHOGONAL = [
    Case(ji.orthogonal(), (256, 256), 0.0, 1 / 16, entry_of_haar(256)),
    Case(ji.orthogonal(1.5), (512, 256), 0.0, 1.5 * 512**-0.5, entry_of_haar(512)),
    Case(
        ji.orthogonal(column_axis=0), (256, 8, 64), 0.0, 512**-0.5, entry_of_haar(512)
    ),
    Case(ji.orthogonal(batch_axis=0), (32, 64, 64), 0.0, 1 / 8, entry_of_haar(64)),
    Case(
        ji.orthogonal(1.5, method="qr"),
        (512, 256),
        0.0,
        1.5 * 512**-0.5,
        entry_of_haar(512),
        jinit.orthogonal(1.5),
    ),
    Case(
        ji.orthogonal(column_axis=0, method="qr"),
        (256, 8, 64),
        0.0,
        512**-0.5,
        entry_of_haar(512),
        jinit.orthogonal(column_axis=0),
    ),
    Case(ji.delta_orthogonal(), (1, 1, 256, 512), 0.0, 512**-0.5, entry_of_haar(512)),
    Case(
        ji.delta_orthogonal(0.5, method="qr"),
        (3, 3, 64, 128),
        0.0,
        0.5 * 128**-0.5 / 3,
        None,
        jinit.delta_orthogonal(0.5),
    ),
]

DEPTH = [
    Case(ji.random_walk("linear"), DENSE, 0.0, math.exp(1 / 512) / 256**0.5, NORMAL),
    Case(
        ji.random_walk(), DENSE, 0.0, (2 / 256) ** 0.5 * math.exp(1.2 / 253.6), NORMAL
    ),
    Case(ji.spectral(), (1024, 128), 0.0, (1 / 1024 / 8) ** 0.5, NORMAL),
    Case(ji.spectral(activation="relu"), (128, 1024), 0.0, 1 / 8, NORMAL),
    Case(ji.small_init(), DENSE, 0.0, (2 / 5 / 256) ** 0.5, NORMAL),
    Case(ji.wang_init(8), DENSE, 0.0, 2 / 8 / 16, NORMAL),
    Case(ji.hyperfan(64), DENSE, 0.0, (1 / 64 / 256) ** 0.5, UNIFORM),
    Case(
        ji.hyperfan(64, 0.5, biases=True, activation="relu"),
        DENSE,
        0.0,
        (2 / 64 / 256 / 0.5 / 2) ** 0.5,
        UNIFORM,
    ),
    Case(ji.siren(), DENSE, 0.0, (2 / 256) ** 0.5 / 30, UNIFORM),
    Case(ji.siren(first=True), (2, 2**16), 0.0, 1 / 2 / 3**0.5, UNIFORM),
    Case(ji.siren_bias(64), (2**17,), 0.0, 1 / 8 / 3**0.5, UNIFORM),
]

COMBINED = [
    Case(ji.scaled(ji.lecun_normal(), 0.5), DENSE, 0.0, 0.5 / 16, TRUNCATED),
    Case(ji.stacked(ji.he_normal()), (4, 128, 256), 0.0, 1 / 8, TRUNCATED),
    Case(
        ji.sum_of(ji.uniform(minval=-1, maxval=1)),
        DENSE,
        0.0,
        (2 / 3) ** 0.5,
        scipy.stats.triang(0.5, -(6**0.5), 2 * 6**0.5),
        complex=False,
    ),
    Case(
        ji.per_gate(ji.glorot_normal(distribution="normal")),
        DENSE,
        0.0,
        (2 / 384) ** 0.5,
        NORMAL,
    ),
    Case(ji.masked(ji.normal(1.0), True), DENSE, 0.0, 1.0, NORMAL),
    Case(ji.looks_linear(ji.normal(1.0)), DENSE, 0.0, 1.0, None, complex=False),
    Case(ji.icnr(ji.normal(1.0)), (3, 3, 64, 256), 0.0, 1.0, None, complex=False),
]

STRUCTURED = [
    Case(ji.identity(2.0), (64, 64), None, None, None),
    Case(ji.dirac(), (3, 3, 16, 32), None, None, None),
    Case(ji.hadamard_identity(), (48, 100), None, None, None),
    Case(ji.idinit(0.5), (48, 100), None, None, None),
    Case(ji.bilinear(), (4, 4, 8, 8), None, None, None),
    Case(ji.stft(), (64, 1, 33), None, None, None),
    Case(ji.hippo_legs(), (64, 64), None, None, None),
    Case(ji.hippo_legs_input(), (64,), None, None, None),
    Case(ji.s4d_lin("frequency"), (64,), None, None, None),
    Case(ji.s4d_lin("log_decay"), (64,), -math.log(2), 0.0, None),
    Case(ji.forget_bias(), (64,), None, None, None),
    Case(ji.sparse(15), DENSE, 0.0, (15 / 256) ** 0.5, None),
    Case(ji.sparse(sparsity=0.9), DENSE, 0.0, (25 / 256) ** 0.5, None),
]

RECURRENT = [
    Quantiles(lambda u: np.log(1 + 98 * u)).case(ji.chrono(100.0)),
    Quantiles(lambda u: -np.log(1 + 98 * u)).case(ji.chrono(100.0, "input")),
    Quantiles(lambda u: scipy.special.logit(2**-17 + u * (1 - 2**-16))).case(
        ji.uniform_gate()
    ),
    Quantiles(lambda u: np.log(1e-3) + u * np.log(100)).case(ji.log_step()),
    Quantiles(lambda u: np.log(-np.log(0.25 + u * (0.81 - 0.25)) / 2)).case(
        ji.lru_nu_log(0.5, 0.9)
    ),
    Quantiles(lambda u: np.log(2 * np.pi * u)).case(ji.lru_theta_log()),
    Quantiles(lambda u: np.log1p(-0.25 - u * (0.81 - 0.25)) / 2).case(
        ji.lru_gamma_log(0.5, 0.9)
    ),
]

HAAR_BASED = [
    Case(ji.scaled_orthogonal(), (128, 512), 0.0, (4 / 512) ** 0.5, entry_of_haar(512)),
    Case(ji.convolution_orthogonal(), (3, 3, 32, 64), 0.0, 1 / 24, None),
    Case(ji.stacked(ji.orthogonal()), (32, 64, 64), 0.0, 1 / 8, entry_of_haar(64)),
]

CASES = [
    *CONSTANTS,
    *FIXED,
    *VARIANCE,
    *DEPTH,
    *COMBINED,
    *STRUCTURED,
    *RECURRENT,
    *[case._replace(tolerance=1e-5) for case in ORTHOGONAL + HAAR_BASED],
]
"""Every row."""

RANDOM = [case for case in CASES if case.stddev]
