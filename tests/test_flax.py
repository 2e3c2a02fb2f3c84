"""Straight into `kernel_init=`, Linen and NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import jaxinit as ji


def test_linen_layers(key):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(8, (3, 3), kernel_init=ji.delta_orthogonal())(x)
            x = nn.relu(x).reshape(len(x), -1)
            x = nn.Dense(16, kernel_init=ji.he_normal(), bias_init=ji.zeros)(x)
            x = nn.Dense(4, kernel_init=ji.glorot_uniform(), bias_init=ji.zeros())(x)
            return x

    params = Net().init(key, jnp.ones((2, 6, 6, 3)))["params"]
    assert params["Dense_0"]["kernel"].shape == (288, 16)
    std = float(params["Dense_0"]["kernel"].std())
    assert abs(std / (2 / 288) ** 0.5 - 1) < 0.05


def test_linen_same_values_as_jax(key):
    for name in ("lecun_normal", "he_uniform", "glorot_normal"):
        ours, theirs = (
            nn.Dense(4, kernel_init=getattr(home, name)()).init(key, jnp.ones((1, 3)))
            for home in (ji, jax.nn.initializers)
        )
        np.testing.assert_array_equal(
            ours["params"]["kernel"], theirs["params"]["kernel"]
        )


def test_equal_modules_compare_equal():
    assert nn.Dense(4, kernel_init=ji.he_normal()) == nn.Dense(
        4, kernel_init=ji.he_normal()
    )
    assert nn.Dense(4, kernel_init=ji.he_normal()) != nn.Dense(
        4, kernel_init=ji.he_normal(gain=2)
    )


def test_attention_embedding_and_recurrence(key):
    x = jnp.ones((2, 5, 16))
    attention = nn.MultiHeadDotProductAttention(4, kernel_init=ji.glorot_normal())
    kernel = attention.init(key, x, x)["params"]["query"]["kernel"]
    assert kernel.shape == (16, 4, 4)
    embed = nn.Embed(50, 16, embedding_init=ji.normal(0.02))
    assert embed.init(key, jnp.zeros(3, jnp.int32))["params"]["embedding"].size == 800
    cell = nn.RNN(nn.LSTMCell(8, recurrent_kernel_init=ji.orthogonal()))
    w = cell.init(key, x)["params"]["cell"]["hi"]["kernel"]
    np.testing.assert_allclose(w.T @ w, np.eye(8), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nnx_layers(dtype):
    rngs = nnx.Rngs(0)
    dense = nnx.Linear(
        256, 256, kernel_init=ji.he_normal(), param_dtype=dtype, rngs=rngs
    )
    assert dense.kernel.dtype == dtype
    std = float(dense.kernel[...].astype(jnp.float32).std())
    assert abs(std / (2 / 256) ** 0.5 - 1) < 0.02
    conv = nnx.Conv(3, 8, (3, 3), kernel_init=ji.delta_orthogonal(), rngs=rngs)
    assert conv.kernel.shape == (3, 3, 3, 8)
    # LSTMCell calls its initializers with a key and a shape alone.
    nnx.LSTMCell(4, 8, recurrent_kernel_init=ji.orthogonal(), rngs=rngs)
    nnx.MultiHeadAttention(2, 8, 8, kernel_init=ji.xavier_uniform(), rngs=rngs)


def test_nnx_metadata(key):
    init = nnx.with_metadata(ji.he_normal(), out_sharding=(None, "model"))
    with jax.set_mesh(jax.make_mesh((8,), ("model",), (AxisType.Auto,))):
        layer = nnx.Linear(4, 8, kernel_init=init, rngs=nnx.Rngs(0))
    assert layer.kernel[...].sharding.shard_shape((4, 8)) == (4, 1)
    boxed = nn.with_partitioning(ji.he_normal(), (None, "model"))
    params = nn.Dense(8, kernel_init=boxed).init(key, jnp.ones((1, 4)))["params"]
    assert isinstance(params["kernel"], nn.Partitioned)


def test_jit_of_vmapped_model_init(key):
    model = nn.Sequential([nn.Dense(16, kernel_init=ji.orthogonal()) for _ in range(8)])
    init = jax.jit(jax.vmap(lambda k: model.init(k, jnp.ones((1, 16)))))
    params = init(jax.random.split(key, 3))["params"]
    assert params["layers_7"]["kernel"].shape == (3, 16, 16)
