"""Quadratures against closed forms, kinks and jumps included."""

from __future__ import annotations

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import jaxinit as ji
from jaxinit import meanfield
from jaxinit._quadrature import name_of

CDF = scipy.stats.norm.cdf
PDF = scipy.stats.norm.pdf


def shifted(x):
    """Relu with its kink at 0.3."""
    return jnp.maximum(x - 0.3, 0)


def steps(x):
    return jnp.floor(x)


FORWARD = {  # E[phi(z)^2], in closed form
    "linear": 1.0,
    "relu": 0.5,
    "leaky_relu": (1 + 0.01**2) / 2,
    "erf": 2 / math.pi * math.asin(2 / 3),
    "sin": (1 - math.exp(-2)) / 2,
    "cos": (1 + math.exp(-2)) / 2,
    "abs": 1.0,
    "squared_relu": 1.5,
    "hard_tanh": (2 * CDF(1) - 1 - 2 * PDF(1)) + 2 * CDF(-1),
    shifted: (1 + 0.3**2) * CDF(-0.3) - 0.3 * PDF(0.3),
    steps: sum(k**2 * (CDF(k + 1) - CDF(k)) for k in range(-20, 20)),
    jnp.sign: 1.0,
    jnp.exp: math.exp(2),
}
BACKWARD = {  # E[phi'(z)^2]
    "linear": 1.0,
    "relu": 0.5,
    "leaky_relu": (1 + 0.01**2) / 2,
    "erf": 4 / math.pi / math.sqrt(5),
    "sin": (1 + math.exp(-2)) / 2,
    "hard_tanh": 2 * CDF(1) - 1,
    "relu6": CDF(6) - 0.5,
    shifted: CDF(-0.3),
    jnp.exp: math.exp(2),
}


@pytest.mark.parametrize("activation", FORWARD, ids=name_of)
def test_forward_gain(activation):
    expected = FORWARD[activation] ** -0.5
    assert meanfield.gain(activation) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("activation", BACKWARD, ids=name_of)
def test_backward_gain(activation):
    expected = BACKWARD[activation] ** -0.5
    found = meanfield.gain(activation, direction="backward")
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", meanfield.ACTIVATIONS)
def test_every_name_against_a_sum_over_a_million_quantiles(name):
    n, wide = 10**6, 3  # of a normal so wide that the tail of exp is in it
    z = wide * scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
    weight = scipy.stats.norm.pdf(z) / scipy.stats.norm.pdf(z, scale=wide)
    with jax.enable_x64(True):
        y = np.asarray(meanfield.ACTIVATIONS[name](jnp.asarray(z)))
    square = (weight * y**2).mean()
    assert square * meanfield.gain(name) ** 2 == pytest.approx(1, rel=2e-5)


def test_torch_convention():
    torch = {"relu": 2**0.5, "tanh": 5 / 3, "selu": 0.75, "sigmoid": 1.0}
    for name, gain in torch.items():
        assert meanfield.gain(name, convention="torch") == gain
    with pytest.raises(ValueError, match="torch's table has no 'gelu'"):
        meanfield.gain("gelu", convention="torch")


@pytest.mark.parametrize("q", [1e-8, 1e-2, 1.0, 1e2, 1e6])
def test_moments_over_all_scales(q):
    moment = meanfield.second_moment
    arcsine = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    assert moment("erf", q) == pytest.approx(arcsine, rel=1e-9)
    slope = 4 / math.pi / math.sqrt(1 + 4 * q)
    assert moment("erf", q, derivative=True) == pytest.approx(slope, rel=1e-9)
    assert moment("relu", q) == pytest.approx(q / 2, rel=1e-9)


@pytest.mark.parametrize("c", [-1.0, -0.5, 0.0, 0.3, 0.99, 1.0])
def test_correlation_map_is_the_kernel_of_the_textbook(c):
    found = meanfield.correlation_map("relu", c, 2.0, weight_variance=2.0)
    arccosine = (math.sqrt(1 - c**2) + c * (math.pi - math.acos(c))) / math.pi
    assert found == pytest.approx(arccosine, abs=1e-9)
    found = meanfield.correlation_map(
        "erf", c, 2.0, weight_variance=1.5, bias_variance=0.2
    )
    kernel = lambda c: 1.5 * 2 / math.pi * math.asin(4 * c / 5) + 0.2  # noqa: E731
    assert found == pytest.approx(kernel(c) / kernel(1), abs=1e-9)


def test_fixed_point_is_where_a_wide_network_settles(key):
    point = meanfield.fixed_point("tanh", weight_variance=1.5, bias_variance=0.1)
    q = meanfield.variance_map(
        "tanh", point.variance, weight_variance=1.5, bias_variance=0.1
    )
    assert q == pytest.approx(point.variance, rel=1e-9)
    h = jax.random.normal(key, (2048,))
    for layer in jax.random.split(key, 12):
        w_key, b_key = jax.random.split(layer)
        w = ji.normal((1.5 / 2048) ** 0.5)(w_key, (2048, 2048))
        h = jnp.tanh(h) @ w + ji.normal(0.1**0.5)(b_key, (2048,))
    # q fluctuates by about sqrt(2 / 2048) = 3 % of itself, over a few layers.
    assert float((h**2).mean()) == pytest.approx(point.variance, rel=0.15)


def test_depth_scale_is_the_decay_of_the_correlation():
    settings = {"weight_variance": 1.5, "bias_variance": 0.1}
    point = meanfield.fixed_point("tanh", **settings)
    assert point.slope < 1
    c, gaps = 0.99, []
    for _ in range(25):
        c = meanfield.correlation_map("tanh", c, point.variance, **settings)
        gaps.append(1 - c)
    decay = math.log(gaps[-2] / gaps[-1])
    assert 1 / decay == pytest.approx(point.correlation_depth, rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "weight", "bias"), [("tanh", 4.0, 0.05), ("erf", 3.0, 0.0)]
)
def test_depth_scale_of_the_chaotic_phase(activation, weight, bias):
    settings = {"weight_variance": weight, "bias_variance": bias}
    point = meanfield.fixed_point(activation, **settings)
    assert point.slope > 1
    gaps, c = [], 0.6
    for _ in range(12):
        c = meanfield.correlation_map(activation, c, point.variance, **settings)
        gaps.append(c - point.correlation)
    assert 0 < gaps[-1] < 0.2
    decay = math.log(gaps[-2] / gaps[-1])
    assert 1 / decay == pytest.approx(point.correlation_depth, rel=0.05)


def test_edge_of_chaos():
    for activation, bias in (("tanh", 0.05), ("erf", 0.1), ("sigmoid", 0.0)):
        point = meanfield.edge_of_chaos(activation, bias)
        settings = {"weight_variance": point.weight_variance}
        assert meanfield.slope(activation, point.variance, **settings) == pytest.approx(
            1, rel=1e-9
        )
        assert meanfield.variance_map(
            activation, point.variance, bias_variance=bias, **settings
        ) == pytest.approx(point.variance, rel=1e-6)
    for activation in ("relu", "relu6"):
        critical = meanfield.edge_of_chaos(activation)
        assert critical.weight_variance == pytest.approx(2, rel=1e-9)
    assert meanfield.edge_of_chaos("tanh").weight_variance == pytest.approx(1, rel=1e-9)


def test_works_inside_jit():
    assert jax.jit(lambda: meanfield.gain("gelu"))() == pytest.approx(1.5335805)


def test_bad_input_in_one_sentence():
    for call, words in (
        (lambda: meanfield.gain("rleu"), "'rleu' is unknown"),
        (lambda: meanfield.gain(lambda x: 0 * x), "no gain keeps a signal"),
        (lambda: meanfield.gain(lambda x: x.sum()), "must work elementwise"),
        (lambda: meanfield.gain("relu", direction="up"), "direction='up'"),
        (lambda: meanfield.edge_of_chaos("relu", 0.1), "no critical point"),
        (lambda: meanfield.fixed_point("relu", weight_variance=3.0), "smaller"),
        (lambda: meanfield.second_moment("relu", -1.0), "at least 0"),
        (
            lambda: meanfield.correlation_map("relu", 2.0, 1.0, weight_variance=2.0),
            "must lie in",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        message = str(caught.value)
        assert words in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (lambda x: jnp.sin(100 * x), 0.5),
        (lambda x: jnp.exp(-200 * x * x), 801**-0.5),
        (lambda x: jnp.abs(x) ** 0.25, 2**0.25 * math.gamma(0.75) / math.pi**0.5),
        (lambda x: jnp.clip(x, 0, 0.004), None),
        (lambda x: jnp.tanh(100 * x), None),
    ],
    ids=["rapid", "narrow", "root", "close kinks", "steep"],
)
def test_activations_that_bend_faster_than_the_panels(activation, expected):
    if expected is None:  # a plain sum over a fine grid
        z = np.linspace(-12, 12, 2_400_001) + 1e-7
        with jax.enable_x64(True):
            values = np.asarray(activation(jnp.asarray(z)))
        expected = (PDF(z) * values**2).sum() * (z[1] - z[0])
    found = meanfield.second_moment(activation)
    assert found == pytest.approx(expected, rel=1e-6)


def test_limits_where_the_variance_is_zero():
    # A ReLU at sigma_w^2 = 1 halves the variance and the gradient a layer.
    point = meanfield.fixed_point("relu", weight_variance=1.0)
    assert point.variance == 0 and point.slope == pytest.approx(0.5)
    assert point.correlation_depth == pytest.approx(1 / math.log(2))
    assert meanfield.second_moment("relu", 0.0, derivative=True) == pytest.approx(0.5)


def test_variance_depth_on_the_edge_of_chaos():
    point = meanfield.edge_of_chaos("tanh", 0.05)
    q, gaps = 0.9 * point.variance, []
    for _ in range(12):
        q = meanfield.variance_map(
            "tanh", q, weight_variance=point.weight_variance, bias_variance=0.05
        )
        gaps.append(point.variance - q)
    decay = math.log(gaps[-2] / gaps[-1])
    assert 1 / decay == pytest.approx(point.variance_depth, rel=1e-2)
    # gelu's variance leaves the critical point: the map's slope there is above one.
    assert meanfield.edge_of_chaos("gelu", 0.04).variance_depth == math.inf


def test_nothing_is_not_a_number_quietly():
    for call in (
        lambda: meanfield.second_moment(jnp.log),
        lambda: meanfield.slope(lambda x: jnp.abs(x) ** 0.5, 1.0, weight_variance=1.0),
        lambda: meanfield.correlation_map(jnp.log, 0.1, 1.0, weight_variance=1.0),
        lambda: meanfield.fixed_point("relu", weight_variance=2.0),
        lambda: meanfield.edge_of_chaos(jnp.sign),
        lambda: meanfield.gain([1], convention="torch"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
            call()
    with pytest.raises(TypeError, match="jax.numpy in place of numpy"):
        meanfield.gain(np.tanh)
    assert meanfield.second_moment(jnp.exp, 1e6) == math.inf


SMOOTH = ("tanh", "erf", "sigmoid", "sin", "softplus", "gelu", "silu", "elu")
PIECES = {  # by name where there are kinks
    **dict.fromkeys(SMOOTH, ()),
    "elu": (0.0,),
    "selu": (0.0,),
    "soft_sign": (0.0,),
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "relu6": (0.0, 6.0),
    "hard_tanh": (-1.0, 1.0),
    "hard_sigmoid": (-3.0, 3.0),
}
CRITICAL = {"tanh": 0.05, "erf": 0.05, "sigmoid": 0.01, "sin": 0.05, "soft_sign": 0.05}
CRITICAL |= {"hard_tanh": 0.05, "hard_sigmoid": 0.01}
POINTS = np.polynomial.legendre.leggauss(200)


def reference(values, q, edges):
    """E[f(sqrt(q) z)] by 200 points between any two edges."""
    ends = np.array([-10.0, 0.0, *(np.array(edges) / q**0.5), 10.0])
    ends = np.unique(ends[np.abs(ends) <= 10])
    half = np.diff(ends)[:, None] / 2
    z = (ends[:-1, None] + half + half * POINTS[0]).ravel()
    return ((half * POINTS[1]).ravel() * PDF(z)) @ values(q**0.5 * z)


@pytest.mark.parametrize("name", PIECES)
def test_moments_and_critical_points_against_200_points(name):
    def values(x, function=meanfield.ACTIVATIONS[name]):
        with jax.enable_x64(True):
            return np.asarray(function(jnp.asarray(x))) ** 2

    slope = jax.grad(meanfield.ACTIVATIONS[name])
    slopes = functools.partial(values, function=jax.vmap(slope))
    edges = PIECES[name]
    for q in (0.1, 1.0, 3.0):
        for of, derivative in ((values, False), (slopes, True)):
            found = meanfield.second_moment(name, q, derivative=derivative)
            assert found == pytest.approx(reference(of, q, edges), rel=1e-5)
    bias = CRITICAL.get(name)
    if bias is None:
        return
    point = meanfield.edge_of_chaos(name, bias)

    def balance(q):
        return reference(values, q, edges) / reference(slopes, q, edges) + bias - q

    q = scipy.optimize.brentq(balance, 0.8 * point.variance, 1.25 * point.variance)
    assert point.variance == pytest.approx(q, rel=1e-5)
    weight = 1 / reference(slopes, q, edges)
    assert point.weight_variance == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "far"), [("tanh", True), ("hard_tanh", True), ("relu", False)]
)
def test_the_phase_diagram_is_a_grid_of_fixed_points(name, far):
    weights, biases = [1.2, *([3.0] if far else [])], [0.05, 0.3]
    found = meanfield.phase_diagram(name, weights, biases)
    for b, bias in enumerate(biases):
        for w, weight in enumerate(weights):
            point = meanfield.fixed_point(
                name, weight_variance=weight, bias_variance=bias
            )
            assert found.variance[b, w] == pytest.approx(point.variance, rel=3e-3)
            assert found.slope[b, w] == pytest.approx(point.slope, rel=3e-3)
            assert found.depth[b, w] == pytest.approx(point.correlation_depth, rel=0.05)
        if far:
            critical = meanfield.edge_of_chaos(name, bias).weight_variance
            assert found.critical[b] == pytest.approx(critical, rel=3e-3)
    assert far or (np.isnan(found.critical).all() and found.activation == "relu")
    with pytest.raises(ValueError, match="must be numbers that rise"):
        meanfield.phase_diagram(name, [1.0, 0.5])


def test_the_depth_scales_of_the_paper(capsys, tmp_path):
    """Schoenholz et al. 2017: tanh with a bias variance of 0.05."""
    cli = pytest.importorskip("jaxinit.compare.cli")
    expected = {1.0: 3.63, 1.5: 15.8, 1.7: 74.9, 2.5: 11.8}
    asked = ["theory", "tanh", "--bias-variance", "0.05"]
    weights = [*map(str, expected)]
    assert cli.run([*asked, "--weight-variances", *weights, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for row, (weight, depth) in zip(found["points"], expected.items(), strict=True):
        assert row["weight_variance"] == weight
        assert row["correlation_depth"] == pytest.approx(depth, rel=5e-3)
    assert found["critical"]["weight_variance"] == pytest.approx(1.76095, rel=1e-5)
    figure = tmp_path / "phase.png"
    assert cli.run(["theory", "relu", "--plot", str(figure)]) == 0
    said = capsys.readouterr().out
    assert "'relu' has no critical point with bias_variance=0.05" in said
    assert "unbounded" in said and figure.stat().st_size > 5000
    assert cli.run(["theory", "rleu"]) == 2
