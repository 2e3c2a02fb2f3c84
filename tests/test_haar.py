"""Haar matrices by products alone: their law, their program, their shards."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from cases import entry_of_haar
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinit as ji
from jaxinit._haar import haar


def draws(n, m, count, key, dtype="float32"):
    return np.asarray(haar(key, n, m, (count,), jnp.dtype(dtype)))


@pytest.mark.parametrize(
    ("n", "m"), [(1, 1), (2, 2), (33, 33), (64, 3), (3, 64), (300, 129), (257, 513)]
)
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_as_orthogonal_as_a_factorisation(n, m, dtype, key):
    def error(q):
        q = np.asarray(q, np.complex128)
        gram = q.conj().T @ q if n >= m else q @ q.conj().T
        return np.abs(gram - np.eye(min(n, m))).max()

    ours = [error(q) for q in draws(n, m, 4, key, dtype)]
    long, short = max(n, m), min(n, m)
    factored = [
        jax.random.orthogonal(k, long, (), dtype, short)
        for k in jax.random.split(key, 4)
    ]
    theirs = [error(q if n >= m else q.T) for q in factored]
    # Measured over 64 draws: 1.2 times QR's worst entry in float32, 2.4 in complex64.
    factor = 2 if dtype == "float32" else 3
    assert max(ours) <= max(factor * max(theirs), 1e-6)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_law_of_entries_and_determinant(n, key):
    q = draws(n, n, 2**14, key).astype(np.float64)
    corner = q[:, -1, 0]
    assert abs(corner.mean()) < 6 * (1 / n / 2**14) ** 0.5
    assert abs((corner**2).mean() * n - 1) < 6 * (2 / 2**14) ** 0.5
    if n > 2:
        law = entry_of_haar(n)
        for entry in (q[:, 0, 0], corner, q[:, 1, -1]):
            assert scipy.stats.kstest(entry * n**0.5, law.cdf).pvalue > 1e-6
    signs = np.sign(np.linalg.det(q))
    assert abs(signs.mean()) < 6 / 2**7


def test_law_of_eigenvalue_angles(key):
    # SO(2) and its reflections: with determinant 1 the angle is uniform on (0, pi).
    q = draws(2, 2, 2**14, key).astype(np.float64)
    rotations = q[np.linalg.det(q) > 0]
    angles = np.arccos(np.clip(np.trace(rotations, axis1=1, axis2=2) / 2, -1, 1))
    assert scipy.stats.kstest(angles / math.pi, "uniform").pvalue > 1e-6
    # Of a unitary matrix each eigenvalue's angle is uniform, and two repel: their
    # difference has the density (1 - cos x) / (2 pi).
    u = draws(2, 2, 2**13, key, "complex64")
    angles = np.angle(np.linalg.eigvals(u.astype(np.complex128)))
    rng = np.random.default_rng(0)
    one = angles[np.arange(len(angles)), rng.integers(2, size=len(angles))]
    assert scipy.stats.kstest(one / (2 * math.pi) + 0.5, "uniform").pvalue > 1e-6
    gap = (angles[:, 0] - angles[:, 1]) % (2 * math.pi)

    def cdf(x):
        return (x - np.sin(x)) / (2 * math.pi)

    assert scipy.stats.kstest(gap, cdf).pvalue > 1e-6


def test_rectangles_are_columns_or_rows_of_the_same_law(key):
    law = entry_of_haar(12)
    for n, m in ((12, 5), (5, 12)):
        q = draws(n, m, 2**13, key).astype(np.float64)
        for entry in (q[:, 0, 0], q[:, -1, -1]):
            assert scipy.stats.kstest(entry * 12**0.5, law.cdf).pvalue > 1e-6
        assert abs(np.corrcoef(q[:, 0, 0], q[:, -1, -1])[0, 1]) < 6 / 2**6.5


@pytest.mark.parametrize(
    "init",
    [
        ji.orthogonal(),
        ji.delta_orthogonal(),
        ji.convolution_orthogonal(),
        ji.scaled_orthogonal(),
    ],
    ids=repr,
)
def test_no_lapack_in_the_program(init, key):
    shape = (3, 3, 64, 64)
    text = jax.jit(lambda k: init(k, shape)).lower(key).as_text()
    assert "lapack" not in text and "custom_call" not in text.replace("Sharding", "")
    qr = jax.jit(lambda k: jax.nn.initializers.orthogonal()(k, (64, 64)))
    assert "lapack" in qr.lower(key).as_text()


@pytest.mark.parametrize(("layers", "keys", "n"), [(20, 5, 64), (40, 8, 32)])
def test_a_deep_model_initializes_under_jit_and_vmap(layers, keys, n, key):
    # With jax.nn.initializers.orthogonal this program never ends on a CPU.
    init = ji.orthogonal()

    @jax.jit
    @jax.vmap
    def deep(k):
        return [init(layer, (n, n)) for layer in jax.random.split(k, layers)]

    model = deep(jax.random.split(key, keys))
    for matrix in (model[0][0], model[-1][-1]):
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(n), atol=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((1024, 512), P("x")),
        ((1024, 512), P(None, "x")),
        ((1024, 512), P("x", "y")),
        ((512, 1024), P("x", "y")),
        ((8, 128, 512), P("x")),
        ((8, 128, 512), P("y", "x")),
        ((4, 256, 512), P(None, ("y", "x"))),
        ((4, 64, 1024), P(None, "x", "y")),
    ],
    ids=str,
)
def test_shards_without_gathering_the_matrix(shape, spec, kind, key):
    mesh = jax.make_mesh((4, 2), ("x", "y"), (kind, kind))
    sharding = NamedSharding(mesh, spec)
    init = ji.orthogonal()
    program = jax.jit(lambda k: init(k, shape, None, sharding))
    with jax.set_mesh(mesh):
        compiled = program.lower(key).compile()
        assert "all-gather" not in compiled.as_text()
        size = 4 * math.prod(shape)
        part = 4 * math.prod(sharding.shard_shape(shape))
        memory = compiled.memory_analysis()
        assert memory.output_size_in_bytes == part
        if part <= size // 8:  # in parts both ways: panels, never the whole
            assert memory.temp_size_in_bytes < size
        drawn = program(key)
    assert drawn.sharding.is_equivalent_to(sharding, len(shape))
    np.testing.assert_allclose(drawn, init(key, shape), atol=2e-5)


def test_shards_of_a_transposed_stack(key):
    mesh = jax.make_mesh((4, 2), ("x", "y"), (AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, P("x", None, "y"))
    init = ji.orthogonal(column_axis=0, batch_axis=2)
    drawn = init(key, (64, 32, 4), None, sharding)
    assert drawn.sharding.is_equivalent_to(sharding, 3)
    np.testing.assert_allclose(drawn, init(key, (64, 32, 4)), atol=2e-5)


def test_low_precision_is_orthogonal_before_it_is_rounded(key):
    q = ji.orthogonal()(key, (64, 64), jnp.bfloat16)
    assert q.dtype == jnp.bfloat16
    gram = np.asarray(q, np.float64).T @ np.asarray(q, np.float64)
    np.testing.assert_allclose(gram, np.eye(64), atol=0.02)


def test_rbg_keys(key):
    rbg = jax.random.key(0, impl="rbg")
    w = ji.orthogonal()(rbg, (32, 32))
    np.testing.assert_allclose(w.T @ w, np.eye(32), atol=1e-5)
    x = np.asarray(ji.he_normal()(rbg, (256, 512)))
    assert abs(x.std() * 128**0.5 - 1) < 0.02
