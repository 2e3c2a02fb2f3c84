"""THE table: a row an initializer. Every law in the tests runs over it.

A row gives the initializer, a shape of 2**17 elements or near, the mean and standard
deviation of its closed form, the law of an element in units of that deviation, and the
peer in `jax.nn.initializers` whose float32 bits it shares, if there is one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np
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
    law: Any  # frozen scipy distribution of (x - mean) / stddev, or None
    peer: Any = None

    def __repr__(self) -> str:
        return f"{self.init!r}{self.shape}".replace(" ", "")


NORMAL = scipy.stats.norm()
UNIFORM = scipy.stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))
CUT = scipy.stats.truncnorm(-2, 2).std()
TRUNCATED = scipy.stats.truncnorm(-2, 2, scale=1 / CUT)
LAWS = {"normal": NORMAL, "uniform": UNIFORM, "truncated_normal": TRUNCATED}


def truncated(lower, upper):
    """Truncated normal, shifted and scaled to mean 0 and variance 1."""
    law = scipy.stats.truncnorm(lower, upper)
    mean, std = law.mean(), law.std()
    return scipy.stats.truncnorm(lower, upper, loc=-mean / std, scale=1 / std)


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
        LAWS[distribution],
        jinit.variance_scaling(1.7, mode, distribution),
    )


def _named(name, std, law):
    return Case(getattr(ji, name)(), DENSE, 0.0, std, LAWS[law], getattr(jinit, name)())


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
        for distribution in LAWS
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

CASES = [*CONSTANTS, *FIXED, *VARIANCE, *ORTHOGONAL]
"""Every row."""

RANDOM = [case for case in CASES if case.stddev]
