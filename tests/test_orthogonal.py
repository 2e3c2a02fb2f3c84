"""What orthogonal kernels are for: norms kept, as matrices and as convolutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinit as ji


@pytest.mark.parametrize("shape", [(64, 64), (48, 16), (16, 48), (3, 3, 8, 100)])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_rows_or_columns_are_orthonormal(shape, dtype, key):
    w = ji.orthogonal(2.0)(key, shape, dtype).reshape(-1, shape[-1])
    gram = w.conj().T @ w if w.shape[0] >= w.shape[1] else w @ w.conj().T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=2e-5)


def test_column_axis_and_batch_axis(key):
    w = ji.orthogonal(column_axis=1, batch_axis=2)(key, (4, 6, 3, 5))
    matrices = w.transpose(2, 0, 3, 1).reshape(3, 20, 6)
    gram = jnp.einsum("bij,bik->bjk", matrices, matrices)
    np.testing.assert_allclose(gram, np.tile(np.eye(6), (3, 1, 1)), atol=1e-5)
    assert not np.allclose(matrices[0], matrices[1])


def test_mean_entry_is_zero_as_haar_demands(key):
    # Without the signs of R's diagonal, E[Q00] is -0.498 at n = 3.
    draws = jax.vmap(lambda k: ji.orthogonal()(k, (3, 3)))(jax.random.split(key, 4096))
    corner = np.asarray(draws[:, 0, 0])
    assert abs(corner.mean()) < 6 * corner.std() / 64
    assert abs((corner**2).mean() - 1 / 3) < 6 * (corner**2).std() / 64
    signs = np.linalg.det(np.asarray(draws))
    assert abs(signs.mean()) < 6 / 64


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12), (12, 8)])
def test_delta_orthogonal_convolution_keeps_the_norm(inputs, outputs, key):
    kernel = ji.delta_orthogonal()(key, (3, 5, inputs, outputs))
    x = jax.random.normal(key, (2, 9, 9, inputs))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    before, after = jnp.linalg.norm(x, axis=-1), jnp.linalg.norm(y, axis=-1)
    if inputs <= outputs:
        np.testing.assert_allclose(after, before, rtol=1e-5)
    else:
        assert (after <= before * (1 + 1e-5)).all()


def test_qr_warns_where_it_can_hang(key):
    init = ji.orthogonal(method="qr")
    with pytest.warns(RuntimeWarning, match="never ends"):
        jax.jit(lambda k: init(k, (4, 4)))(key)
    eager = init(key, (4, 4), jnp.bfloat16)
    assert eager.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("init", "shape"),
    [
        (ji.orthogonal(), (16, 16)),
        (ji.orthogonal(1.4), (48, 96)),
        (ji.orthogonal(batch_axis=0), (3, 64, 32)),
        (ji.scaled_orthogonal(), (16, 32)),
        (ji.delta_orthogonal(), (3, 16, 16)),
        (ji.convolution_orthogonal(), (3, 8, 16)),
        (ji.stacked(ji.orthogonal()), (2, 16, 16)),
    ],
    ids=repr,
)
def test_bits_hold_eager_and_jitted_and_nearly_in_batches_and_shards(init, shape, key):
    eager = init(key, shape)
    np.testing.assert_array_equal(eager, jax.jit(lambda k: init(k, shape))(key))
    bound = 1e-6 * max(1.0, float(abs(eager).max()))
    batched = jax.vmap(lambda k: init(k, shape))(key[None])[0]
    np.testing.assert_allclose(eager, batched, rtol=0, atol=bound)
    mesh = jax.make_mesh((2, 4), ("x", "y"), (jax.sharding.AxisType.Auto,) * 2)
    spec = jax.sharding.PartitionSpec(*(None,) * (len(shape) - 2), "x", "y")
    sharded = init(key, shape, None, jax.sharding.NamedSharding(mesh, spec))
    np.testing.assert_allclose(eager, sharded, rtol=0, atol=bound)
