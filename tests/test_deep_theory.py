"""Theory of deep networks against closed forms and against simulation."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import meanfield as mf

RNG = np.random.default_rng(0)


def test_kernels_of_relu_have_closed_forms():
    x = RNG.normal(size=(4, 3)) * np.array([[1.0], [2.0], [0.5], [1.0]])
    weight, bias, depth = 2.0, 0.3, 3
    k = weight * x @ x.T / 3 + bias
    t = k.copy()
    for _ in range(depth):
        size = np.sqrt(np.outer(np.diag(k), np.diag(k)))
        angle = np.arccos(np.clip(k / size, -1, 1))
        one = size * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        zero = (np.pi - angle) / (2 * np.pi)
        k = weight * one + bias
        t = k + weight * t * zero
    found = mf.kernels("relu", x, depth, weight_variance=weight, bias_variance=bias)
    np.testing.assert_allclose(found.nngp, k, rtol=1e-7)
    # An angle near zero is a root of the rounding of its cosine.
    np.testing.assert_allclose(found.ntk, t, rtol=1e-6)


def test_kernels_of_erf_have_a_closed_form():
    x = RNG.normal(size=(3, 2))
    k = x @ x.T / 2 + 0.1
    d = np.sqrt(np.outer(1 + 2 * np.diag(k), 1 + 2 * np.diag(k)))
    slopes = 4 / np.pi / np.sqrt(d**2 - 4 * k**2)
    with_bias = mf.kernels("erf", x, 1, weight_variance=1.0, bias_variance=0.1)
    value = 2 / np.pi * np.arcsin(2 * k / d) + 0.1
    np.testing.assert_allclose(with_bias.nngp, value, rtol=1e-9)
    np.testing.assert_allclose(with_bias.ntk, value + k * slopes, rtol=1e-9)


def test_kernels_of_no_depth_and_bad_inputs():
    x = RNG.normal(size=(3, 2))
    found = mf.kernels("tanh", x, 0, weight_variance=2.0)
    np.testing.assert_allclose(found.nngp, x @ x.T)
    np.testing.assert_allclose(found.ntk, x @ x.T)
    with pytest.raises(ValueError, match="must be"):
        mf.kernels("tanh", x[0], 1, weight_variance=1.0)


def test_the_tangent_kernel_is_that_of_a_wide_network():
    x = jnp.asarray(RNG.normal(size=(2, 4)), jnp.float32)
    width = 2048

    def apply(params, x):
        first, second, last = params
        x = jnp.tanh(x @ first * math.sqrt(1.5 / 4))
        x = jnp.tanh(x @ second * math.sqrt(1.5 / width))
        return x @ last * math.sqrt(1.5 / width)

    def kernel(key):
        keys = jax.random.split(key, 3)
        shapes = ((4, width), (width, width), (width,))
        params = [jax.random.normal(*pair) for pair in zip(keys, shapes, strict=True)]
        out, back = jax.vjp(lambda p: apply(p, x), params)
        rows = [back(row)[0] for row in jnp.eye(2)]
        dot = lambda a, b: sum(  # noqa: E731
            jnp.vdot(u, v) for u, v in zip(a, b, strict=True)
        )
        return jnp.array([[dot(a, b) for b in rows] for a in rows])

    found = np.mean([kernel(jax.random.key(k)) for k in range(4)], axis=0)
    theory = mf.kernels("tanh", np.asarray(x), 2, weight_variance=1.5).ntk
    np.testing.assert_allclose(found, theory, rtol=0.1)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_spectrum_of_a_jacobian_is_that_of_a_simulation(orthogonal):
    depth, width = 4, 200
    point = mf.fixed_point("tanh", weight_variance=1.3, bias_variance=0.2)
    means, seconds = [], []
    for _ in range(12):
        h = RNG.normal(size=width)
        h *= math.sqrt(point.variance * width) / np.linalg.norm(h)
        jacobian = np.eye(width)
        for _ in range(depth):
            w = RNG.normal(size=(width, width))
            w = np.linalg.qr(w)[0] if orthogonal else w / math.sqrt(width)
            w = w * math.sqrt(1.3)
            jacobian = w @ ((1 - np.tanh(h) ** 2)[:, None] * jacobian)
            h = w @ np.tanh(h) + RNG.normal(size=width) * math.sqrt(0.2)
        squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
        means.append(squares.mean())
        seconds.append((squares**2).mean())
    theory = mf.jacobian_spectrum(
        "tanh",
        depth,
        weight_variance=1.3,
        variance=point.variance,
        orthogonal=orthogonal,
    )
    np.testing.assert_allclose(np.mean(means), theory.mean, rtol=0.06)
    second = theory.variance + theory.mean**2
    np.testing.assert_allclose(np.mean(seconds), second, rtol=0.15)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_fluctuations_at_finite_width_are_those_of_a_simulation(name):
    depth, width, weight = 6, 100, 2.0
    q = 1.0 if name == "relu" else mf.fixed_point(name, weight_variance=weight).variance
    activation = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[name]
    sizes = []
    for _ in range(3000):
        # Pre-activations are normal given the size of what is before them.
        size = q
        for _ in range(depth):
            h = activation(RNG.normal(size=width) * math.sqrt(size))
            size = weight * np.mean(h**2)
        sizes.append(size)
    theory = mf.width_fluctuation(
        name, depth, width, weight_variance=weight, variance=q
    )
    # 3,000 draws know a variance to 3 %, more where tails are heavy.
    np.testing.assert_allclose(np.var(sizes) / q**2, theory, rtol=0.25)


def test_trainable_depth():
    point = mf.fixed_point("tanh", weight_variance=1.5, bias_variance=0.1)
    found = mf.trainable_depth("tanh", weight_variance=1.5, bias_variance=0.1)
    assert found == 6 * point.correlation_depth
    with pytest.raises(ValueError, match="no slope"):
        mf.jacobian_spectrum(jnp.sign, 3, weight_variance=1.0)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_a_residual_stream_is_that_of_a_simulation(name):
    depth, width, draws = 6, 256, 24
    weight, branch, bias = 1.5, 0.4, 0.1
    function = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}[name]
    slope = {"relu": lambda x: 1.0 * (x > 0), "tanh": lambda x: 1 - np.tanh(x) ** 2}
    start = 0.5
    sizes, products, growth = [], [], []
    for _ in range(draws):
        one, other = np.linalg.qr(RNG.normal(size=(width, 2)))[0].T * math.sqrt(width)
        x = np.stack([one, start * one + math.sqrt(1 - start**2) * other])
        kept = []
        for _ in range(depth):
            w = RNG.normal(size=(width, width)) * math.sqrt(weight / width)
            v = RNG.normal(size=(width, width)) * math.sqrt(branch / width)
            h = x @ w + RNG.normal(size=width) * math.sqrt(bias)
            kept.append((w, v, slope[name](h[0])))
            x = x + function(h) @ v
            sizes.append(np.mean(x[0] ** 2))
            products.append(np.mean(x[0] * x[1]))
        g = RNG.normal(size=width)
        whole = np.mean(g**2)
        for w, v, slopes in kept[::-1]:
            g = g + w @ (slopes * (v @ g))
        growth.append(np.mean(g**2) / whole)
    sizes = np.reshape(sizes, (draws, depth)).mean(0)
    products = np.reshape(products, (draws, depth)).mean(0)
    theory = mf.residual_signal(
        name,
        depth,
        weight_variance=weight,
        branch_variance=branch,
        bias_variance=bias,
        correlation=start,
    )
    # A stream strays by a tenth at this width; 24 draws know its mean to 3 %.
    np.testing.assert_allclose(sizes, theory.variance[1:], rtol=0.1)
    expected = theory.variance[1:] * theory.correlation[1:]
    np.testing.assert_allclose(products, expected, rtol=0.12)
    np.testing.assert_allclose(np.mean(growth), theory.gradient[0], rtol=0.1)
    assert theory.gradient[-1] == 1
    with pytest.raises(ValueError, match="must lie in"):
        mf.residual_signal(
            name, 1, weight_variance=1.0, branch_variance=1.0, correlation=2.0
        )
