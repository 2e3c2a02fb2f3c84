"""What holds for every row of the table."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from cases import CASES, DEPTH, FIXED, NORMAL, RANDOM, TRUNCATED, VARIANCE

import jaxinit as ji
from jaxinit._compat import NORMALS_ROUND_ONCE

each = pytest.mark.parametrize("case", CASES, ids=repr)
each_by_products = pytest.mark.parametrize(
    "case", [c for c in CASES if "qr" not in repr(c)], ids=repr
)
LOW_PRECISION = ["bfloat16", "float8_e4m3b11fnuz"]  # the widest and the narrowest


@pytest.mark.parametrize("case", [c for c in CASES if c.stddev is not None], ids=repr)
def test_moments_and_distribution(case, key):
    # Over 1,000 keys for each elementwise row, no mean and no square left 4.5 standard
    # errors and no p-value fell below 4e-6: no false alarm in 38,000. What is caught:
    # test_detects_planted_bugs.
    x = np.asarray(case.init(key, case.shape), np.float64)
    if not case.stddev:
        np.testing.assert_allclose(x, case.mean, rtol=1e-7)
        return
    z = (x - case.mean).ravel() / case.stddev
    error = 6 / np.sqrt(z.size)
    fourth = (z**4).mean()
    assert abs(z.mean()) < error
    assert abs((z**2).mean() - 1) < error * np.sqrt(max(fourth - 1, 1e-3))
    if case.distribution is not None:
        assert scipy.stats.kstest(z, case.distribution.cdf).pvalue > 1e-6


def promised(case, dtype, compiled):
    """Whether the README promises the bits of `jax.nn.initializers` here."""
    if case.distribution is NORMAL and compiled:
        return NORMALS_ROUND_ONCE  # before, JAX's compiled draws differ from its eager
    if dtype == "complex64":
        # JAX has no complex `uniform`, and misses the variance of a truncated modulus.
        none = case.init.name in ("uniform", "truncated_normal")
        return not none and case.distribution is not TRUNCATED
    # JAX's standard deviation of a truncated normal has 15 digits.
    return dtype == "float32" or case.distribution is not TRUNCATED


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_same_bits_as_jax(dtype, compiled, key):
    compared = 0
    with jax.enable_x64(dtype == "float64"):
        for case in CASES:
            if case.peer is None or not promised(case, dtype, compiled):
                continue
            shape = case.shape if dtype == "float32" else case.small
            peer = lambda k, peer=case.peer, shape=shape: peer(k, shape, dtype)  # noqa: E731
            theirs = (jax.jit(peer) if compiled else peer)(key)
            ours = case.init(key, shape, dtype)
            assert ours.dtype == dtype, case
            np.testing.assert_array_equal(ours, theirs, err_msg=repr(case))
            compared += 1
    assert compared > 10


@each
def test_eager_jit_and_vmap_agree_to_the_bit(case, key):
    shape = case.small
    if "qr" in repr(case):
        case = case._replace(init=case.init.replace(method="products"))
    keys = jax.random.split(key, 3)
    eager = jnp.stack([case.init(k, shape) for k in keys])
    draw = lambda k: case.init(k, shape)  # noqa: E731
    for other in (
        jnp.stack([jax.jit(draw)(k) for k in keys]),
        jax.vmap(draw)(keys),
        jax.jit(jax.vmap(draw))(keys),
    ):
        if case.tolerance:
            np.testing.assert_allclose(eager, other, atol=case.tolerance)
        else:
            np.testing.assert_array_equal(eager, other)


@each
def test_positional_calls_and_shapes(case, key):
    shape = case.small
    two = case.init(key, shape)
    three = case.init(key, shape, jnp.float32)
    four = case.init(key, shape, jnp.float32, None)
    assert two.shape == shape and two.dtype == jnp.float32
    np.testing.assert_array_equal(two, three)
    np.testing.assert_array_equal(two, four)
    raw = jax.random.key_data(key)
    np.testing.assert_array_equal(two, case.init(raw, shape))


@pytest.mark.parametrize(
    "case", [c for c in [*FIXED, *VARIANCE, *DEPTH] if "batch" not in repr(c)], ids=repr
)
def test_eval_shape_without_drawing(case, key):
    shape = (10**6, 512 * 10**6)
    result = jax.eval_shape(lambda k: case.init(k, shape), key)
    assert result.shape == shape


@each_by_products
@pytest.mark.parametrize("dtype", LOW_PRECISION)
def test_low_precision_is_the_rounded_float32_draw(case, dtype, key):
    low = case.init(key, case.small, dtype)
    assert low.dtype == dtype
    limit = float(jnp.finfo(dtype).max)
    exact = jnp.clip(case.init(key, case.small, jnp.float32), -limit, limit)
    np.testing.assert_array_equal(low, exact.astype(dtype))
    assert jnp.isfinite(low.astype(jnp.float32)).all()
    assert case.init == ji.zeros or jnp.any(low.astype(jnp.float32) != 0)


def test_low_precision_keeps_mean_and_tails(key):
    x = np.asarray(ji.normal(1.0)(key, (2**17,), jnp.bfloat16), np.float64)
    assert abs(x.mean()) < 6 / np.sqrt(x.size)
    assert len(np.unique(x)) > 2000 and np.abs(x).max() > 4


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        ("float8_e4m3fn", 448),
        ("float8_e5m2", 57344),
        ("float8_e4m3b11fnuz", 30),
        ("float8_e4m3fnuz", 240),
    ],
)
def test_float8_saturates_instead_of_nan(dtype, largest, key):
    x = ji.normal(1e5)(key, (4096,), dtype).astype(jnp.float32)
    assert jnp.isfinite(x).all() and float(abs(x).max()) == largest
    x = ji.he_normal()(key, (512, 64), dtype).astype(jnp.float32)
    assert abs(float(x.std()) * 16 - 1) < 0.05


def test_float16_is_the_rounded_float32_draw(key):
    for init in (ji.he_normal(), ji.orthogonal(), ji.truncated_normal(0.3)):
        np.testing.assert_array_equal(
            init(key, (64, 64), jnp.float16),
            init(key, (64, 64), jnp.float32).astype(jnp.float16),
        )


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in RANDOM
        if c.complex
        and not any(word in repr(c) for word in ("qr", "lower", "upper", "absolute"))
    ],
    ids=repr,
)
def test_complex(case, key):
    z = np.asarray(case.init(key, case.shape, jnp.complex64), np.complex128)
    centered = z - z.mean()
    error = 6 / np.sqrt(z.size)
    power = (abs(centered) ** 2).mean()
    expected = case.stddev**2
    if case.init.name == "uniform":  # both parts uniform
        expected *= 2
    if case.init.name == "truncated_normal":  # modulus, not parts
        expected = (0.3) ** 2 * (1 - 4 / np.expm1(4))
    assert abs(power / expected - 1) < 2 * error
    assert abs((centered**2).mean()) / expected < 2 * error  # circular


@pytest.mark.parametrize("bounds", [(-1.5, 0.5), (-0.1, 2.9), (-5.0, 5.0)])
def test_truncated_normals_share_the_bits_of_jax_compiled(bounds, key):
    lower, upper = bounds
    ours = ji.truncated_normal(0.7, lower=lower, upper=upper)
    jaxs = jax.nn.initializers.truncated_normal(0.7, lower=lower, upper=upper)
    compiled = jax.jit(lambda key: jaxs(key, (96, 57)))(key)
    np.testing.assert_array_equal(ours(key, (96, 57)), compiled)


BOUNDS = [
    (-1.5, 0.5), (-0.1, 2.9), (-5.0, 5.0), (-2.0, 2.0), (3.5, 4.5), (-9.0, -8.0),
    (-7.0, 3.1), (0.0, 40.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "corrected"),
    [*((bounds, False) for bounds in BOUNDS), (BOUNDS[0], True), (BOUNDS[4], True)],
)
def test_truncated_normals_have_gradients_by_their_bounds(bounds, corrected, key):
    def draw(lower, upper):
        init = ji.truncated_normal(
            0.7, lower=lower, upper=upper, mean=0.3, corrected=corrected
        )
        return init(key, (4, 512))

    # As a quantile moves: by how much more of the mass lies below it, over its density.
    with jax.enable_x64(True):
        low, high = map(jnp.float64, bounds)
        one, two = (jax.jacfwd(draw, k)(low, high) for k in (0, 1))
        step = 1e-6
        near = (draw(low + step, high) - draw(low - step, high)) / (2 * step)
        far = (draw(low, high + step) - draw(low, high - step)) / (2 * step)
        for slope, known in ((one, near), (two, far)):
            assert jnp.isfinite(slope).all()
            np.testing.assert_allclose(slope, known, rtol=2e-3, atol=1e-5)
    total = jax.grad(lambda low, high: draw(low, high).sum(), (0, 1))
    for find in (total, jax.jit(total)):
        assert all(jnp.isfinite(g) for g in find(*bounds))
    traced = jax.jit(draw)(*bounds)
    concrete = draw(*bounds)
    np.testing.assert_allclose(traced, concrete, rtol=2e-4, atol=1e-5)
    batched = jax.vmap(lambda high: draw(bounds[0], high))(jnp.array([bounds[1]]))
    np.testing.assert_allclose(batched[0], concrete, rtol=2e-4, atol=1e-5)


def test_absolute_bounds_have_gradients_too(key):
    def mean(upper):
        init = ji.truncated_normal(2.0, lower=-1.0, upper=upper, bounds="absolute")
        return init(key, (4096,)).mean()

    slope = (mean(1.1) - mean(0.9)) / 0.2
    np.testing.assert_allclose(jax.grad(mean)(1.0), slope, rtol=0.02)


def test_complex_truncated_has_the_variance_that_jax_misses(key):
    shape = (1024, 1024)
    ours = ji.lecun_normal()(key, shape, jnp.complex64)
    jaxs = jax.nn.initializers.lecun_normal()(key, shape, jnp.complex64)
    power = lambda z: float((abs(z) ** 2).mean() * 1024)  # noqa: E731
    assert abs(power(ours) - 1) < 0.005 < 0.015 < power(jaxs) - 1


@each
def test_zero_size_gives_an_empty_array(case, key):
    shape = (0, *case.shape[1:])
    assert case.init(key, shape, jnp.bfloat16).shape == shape


def test_numeric_parameters_may_be_traced(key):
    stds = jnp.array([0.5, 1.0, 2.0])
    draws = jax.vmap(lambda s: ji.normal(s)(key, (8, 8)))(stds)
    np.testing.assert_array_equal(draws[2], ji.normal(2.0)(key, (8, 8)))
    draws = jax.jit(jax.vmap(lambda g: ji.he_normal(gain=g)(key, (8, 8))))(stds)
    np.testing.assert_allclose(draws[1], ji.lecun_normal()(key, (8, 8)), rtol=1e-6)
    bounds = jax.vmap(
        lambda b: ji.truncated_normal(1.0, lower=-b, upper=b, corrected=True)(
            key, (512, 512)
        )
    )(stds)
    np.testing.assert_allclose(bounds.std(axis=(1, 2)), 1, atol=0.01)


def test_gradient_flows_through_a_parameter(key):
    init = lambda s: (ji.orthogonal(s)(key, (8, 8)) ** 2).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(init)(3.0), 2 * 3.0 * 8, rtol=1e-5)
    gain = lambda g: (ji.glorot_uniform(gain=g)(key, (8, 8)) ** 2).sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(gain)(2.0), gain(2.0), rtol=1e-5)


def test_traced_initializer_says_so():
    shown = []

    def draw(s):
        shown.append(repr(ji.normal(s)))
        return s

    jax.jit(draw)(1.0)
    assert shown == ["normal(stddev=<traced>)"]


def test_detects_planted_bugs(key):
    # The checks of test_moments_and_distribution, on draws that are wrong by design:
    # fans swapped, the correction for truncation missing, one key used twice.
    def moments_hold(x, stddev):
        z = np.asarray(x, np.float64).ravel() / stddev
        error = 6 / np.sqrt(z.size)
        return abs(z.mean()) < error and abs((z**2).mean() - 1) < 1.5 * error

    shape, stddev = (256, 512), (2 / 256) ** 0.5
    assert moments_hold(ji.he_normal()(key, shape), stddev)
    assert not moments_hold(ji.he_normal()(key, shape[::-1]), stddev)
    uncorrected = ji.truncated_normal(stddev)(key, shape)
    assert not moments_hold(uncorrected, stddev)
    once = ji.he_normal(distribution="normal")(key, shape)
    assert not moments_hold((once + once) / 2**0.5, stddev)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(3.5, 4), (6, 7), (-7, -6), (8, 8.001), (20, 21), (-math.inf, -5), (40, math.inf)],
)
@pytest.mark.parametrize("traced", [False, True])
def test_truncated_normal_is_exact_in_the_far_tail(lower, upper, traced, key):
    # jax.random.truncated_normal(key, 6, 7) has one value.
    def draw(lower, upper):
        init = ji.truncated_normal(1.0, lower=lower, upper=upper)
        return init(key, (2**15,))

    draw = jax.jit(draw) if traced else draw
    if traced and math.inf in (-lower, upper):
        lower, upper = max(lower, -60.0), min(upper, 60.0)
    x = np.asarray(draw(float(lower), float(upper)), np.float64)
    distribution = scipy.stats.truncnorm(lower, upper)
    assert (x > lower).all() and (x < upper).all()
    if upper - lower > 0.1:
        assert len(np.unique(x)) > 2**15 / 8
    # 8 to 8.001 has about 1,000 floats: the distribution has steps of their spacing.
    assert scipy.stats.kstest(x, distribution.cdf).pvalue > 1e-6
    init = ji.truncated_normal(
        1.0, lower=float(lower), upper=float(upper), corrected=True
    )
    if not traced and math.isfinite(lower + upper) and upper - lower > 0.1:
        y = np.asarray(init(key, (2**15,)), np.float64)
        assert abs(y.mean()) < 6 / 2**7.5 and abs(y.std() - 1) < 0.1
