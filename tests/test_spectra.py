"""What a report tells on request, against dense algebra."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxinit as ji
from jaxinit.diagnosis import _singular, _spectra
from jaxinit.diagnosis._prepare import prepare

pytestmark = pytest.mark.usefixtures("users_broadcast")
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, LABELS = normal(20, 6), jnp.asarray(RNG.integers(0, 3, 20))
PARAMS = {"w0": normal(6, 7) / 2, "b0": normal(7) / 2, "w1": normal(7, 3) / 2}


@jax.custom_vjp
def own(x):
    return jnp.tanh(x)


own.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g / jnp.cosh(x) ** 2,))


def network(p, x):
    x = x - 0.1 * x.mean(0)  # examples meet, as in a normalization of the batch
    return own(x @ p["w0"] + p["b0"]) @ p["w1"]


def cross_entropy(logits, labels):
    logs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logs, labels[:, None], 1)[:, 0]


@pytest.fixture(scope="module")
def report():
    with jax.numpy_rank_promotion("allow"):
        return ji.diagnose(network, PARAMS, X, labels=LABELS, spectra=True)


COUNT = _spectra.EXAMPLES
FEW = X[:COUNT]


def test_the_jacobian_is_that_of_an_example(report):
    whole = np.asarray(jax.jacrev(lambda x: network(PARAMS, x))(FEW))
    values = [
        np.linalg.svd(whole[k, :, k].astype(float), compute_uv=False) for k in range(4)
    ]
    found = report.spectra
    np.testing.assert_allclose(found.largest, np.mean([v[0] for v in values]), 1e-5)
    np.testing.assert_allclose(found.smallest, np.mean([v[-1] for v in values]), 1e-4)
    squares = np.mean([np.mean(v**2) for v in values])
    np.testing.assert_allclose(found.mean_square, squares, 1e-5)
    assert found.mean_square_error == 0 and report.notes == ()


def kernel_of(params, apply=network, x=FEW):
    jacobian = jax.jacrev(lambda p: apply(p, x))(params)
    rows = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(jacobian)]
    rows = np.concatenate(rows, axis=2).astype(float)
    return np.einsum("icp,jcp->ij", rows, rows) / rows.shape[1]


def test_the_tangent_kernel_is_that_of_explicit_gradients(report):
    values = np.linalg.eigvalsh(kernel_of(PARAMS))
    found = report.spectra
    np.testing.assert_allclose(found.ntk_largest, values[-1], 1e-5)
    np.testing.assert_allclose(found.ntk_smallest, values[0], 1e-3)
    np.testing.assert_allclose(found.ntk_condition, values[-1] / values[0], 1e-3)


def test_quotient_and_cosine_are_those_of_explicit_derivatives(report):
    flat, rebuild = ravel_pytree(PARAMS)

    def loss(flat):
        return cross_entropy(network(rebuild(flat), X), LABELS).mean()

    g, h = (
        np.asarray(jax.grad(loss)(flat)),
        np.asarray(jax.jacrev(jax.grad(loss))(flat)),
    )
    terms = np.abs((g - h @ g) / (g + 1e-5 * np.where(g < 0, -1, 1)) - 1)
    np.testing.assert_allclose(report.spectra.gradient_quotient, terms.mean(), 1e-3)

    def losses(flat):
        return cross_entropy(network(rebuild(flat), FEW), LABELS[:COUNT])

    rows = np.asarray(jax.jacrev(losses)(flat), float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[~np.eye(COUNT, dtype=bool)]
    np.testing.assert_allclose(report.spectra.gradient_cosine, cosines.mean(), 1e-3)


def test_it_is_told_in_words_and_as_json(report):
    said = str(report)
    for words in ("norm", "Jacobian: singular values from", "condition", "quotient"):
        assert words in said
    content = json.loads(report.to_json())
    assert content["spectra"]["ntk_condition"] == report.spectra.ntk_condition
    plain = ji.diagnose(network, PARAMS, X)
    assert plain.spectra is None and json.loads(plain.to_json())["spectra"] is None
    assert math.isnan(plain.rows[0].spectral_norm) and "norm" not in str(plain)


def test_above_the_size_of_a_dense_spectrum(monkeypatch):
    monkeypatch.setattr(_spectra, "DENSE", 8)
    params = {"w0": normal(40, 30) / 6, "w1": normal(30, 24) / 5}
    x = normal(4, 40)

    def apply(p, x):
        return jnp.tanh(x @ p["w0"]) @ p["w1"]

    report = ji.diagnose(apply, params, x, spectra=True)
    jacobian = np.asarray(jax.jacrev(lambda x: apply(params, x))(x))
    values = [np.linalg.svd(jacobian[k, :, k], compute_uv=False) for k in range(4)]
    found = report.spectra
    np.testing.assert_allclose(found.largest, np.mean([v[0] for v in values]), 1e-4)
    square = np.mean([np.mean(v**2) for v in values])
    assert 0 < found.mean_square_error < 0.1 * square
    assert abs(found.mean_square - square) < 4 * found.mean_square_error
    assert math.isnan(found.smallest) and "with 24 of them" in report.notes[0]
    # 24 outputs: random sums of them.
    values = np.linalg.eigvalsh(kernel_of(params, apply, x))
    np.testing.assert_allclose(found.ntk_largest, values[-1], 0.3)


def test_bidiagonalization_of_a_gaussian_matrix():
    matrix = RNG.normal(size=(500, 400)).astype(np.float32)
    found = _singular.largest(lambda v: matrix @ v, lambda v: matrix.T @ v, 400)
    exact = np.linalg.norm(matrix, 2)
    assert 0.99 * exact < found < exact * (1 + 1e-6)


def test_the_spectral_norm_of_every_kind_of_kernel():
    params = {
        "conv": normal(3, 3, 2, 4),
        "grouped": normal(3, 3, 2, 6),
        "stack": normal(3, 6, 6),
        "experts": normal(2, 6, 5),
        "heads": normal(6, 2, 3),
    }

    def apply(p, x):
        names = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, p["conv"], (1, 1), "SAME", dimension_numbers=names
        )
        x = jax.lax.conv_general_dilated(
            jnp.tanh(x),
            p["grouped"],
            (1, 1),
            "SAME",
            dimension_numbers=names,
            feature_group_count=2,
        ).mean((1, 2))
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"])
        both = jnp.stack([x, 2 * x])
        y = jnp.einsum("ebd,edf->ebf", both, p["experts"]).sum((0, 2))
        return jnp.einsum("bd,dhk->bhk", x, p["heads"]).sum((1, 2)) + y

    ready = prepare("diagnose", apply, params, (normal(4, 5, 5, 2),))
    norms = ready.spectral_norms(params)
    groups = params["grouped"].reshape(18, 2, 3)
    norm = lambda x: np.linalg.norm(np.asarray(x), 2)  # noqa: E731
    expected = {
        "conv": norm(params["conv"].reshape(18, 4)),
        "grouped": max(norm(groups[:, k]) for k in range(2)),
        **{f"stack[{k}]": norm(params["stack"][k]) for k in range(3)},
        "experts": max(norm(params["experts"][k]) for k in range(2)),
        "heads": norm(params["heads"].reshape(6, 6)),
    }
    names = [label.name for label in ready.measurement.labels]
    found = dict(zip(names, norms, strict=True))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, 1e-5, err_msg=name)


def test_what_is_not_known_is_told():
    table = {"w": normal(5, 4), "v": normal(4, 3)}
    tokens = jnp.asarray(RNG.integers(0, 5, 6))
    apply = lambda p, x: p["w"][x] @ p["v"]  # noqa: E731
    whole = lambda out: jnp.square(out).mean()  # noqa: E731
    report = ji.diagnose(apply, table, tokens, loss=whole, spectra=True)
    assert "they are integers" in report.notes[0]
    assert "one number and not one of each example" in report.notes[1]
    assert math.isnan(report.spectra.largest) and report.spectra.ntk_condition > 1
    assert report.spectra.gradient_quotient > 0
    report = ji.diagnose(network, PARAMS, X, spectra=True)
    assert "they are those of a loss" in report.notes[0]
    summed = lambda p, x: network(p, x).sum()  # noqa: E731
    report = ji.diagnose(summed, PARAMS, X, spectra=True)
    assert "no axis of examples" in report.notes[0]
    once = lambda p, x: jax.lax.while_loop(  # noqa: E731
        lambda s: s[1] < 2, lambda s: (s[0] @ p["w"], s[1] + 1), (x, 0)
    )[0]
    square = {"w": normal(6, 6)}
    report = ji.diagnose(once, square, X, spectra=True)
    assert "while loop" in report.notes[0] and report.rows[0].spectral_norm > 0
    with pytest.raises(TypeError, match="outside of jax.jit"):
        jax.jit(lambda p: ji.diagnose(network, p, X, spectra=True).loss)(PARAMS)
