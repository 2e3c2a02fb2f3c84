"""Every kernel of a tree drawn by one scheme, with the fans of its use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxinit as ji
from jaxinit.trace import kernels, layers
from jaxinit.tree import draw_kernels, path_keys


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(32, (3, 3), feature_group_count=4)(x))
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(64)(x))
        return nn.DenseGeneral((4, 8))(x)


def drawn(init, key, module=None):
    module = module or Net()
    x = jnp.ones((2, 4, 4, 16))
    params = module.init(key, x)["params"]
    apply = lambda params, x: module.apply({"params": params}, x)  # noqa: E731
    return params, draw_kernels(key, params, layers(apply, params, x), init)


def test_fans_come_from_use(key):
    before, after = drawn(ji.lecun_normal(), key)
    fans = {"Conv_0": 9 * 4, "Dense_0": 512, "Dense_1": 64, "DenseGeneral_0": 64}
    for name, fan in fans.items():
        kernel = after[name]["kernel"]
        assert kernel.shape == before[name]["kernel"].shape
        assert abs(float(kernel.std()) * fan**0.5 - 1) < 5 / kernel.size**0.5
        np.testing.assert_array_equal(after[name]["bias"], before[name]["bias"])


def test_a_leaf_depends_on_its_path_and_the_key_alone(key):
    class Less(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(64, name="Dense_1")(x.reshape(2, -1)[:, :64])

    _, whole = drawn(ji.he_normal(), key)
    _, part = drawn(ji.he_normal(), key, Less())
    np.testing.assert_array_equal(whole["Dense_1"]["kernel"], part["Dense_1"]["kernel"])
    assert not np.allclose(whole["Dense_1"]["kernel"], whole["Dense_2"]["kernel"])
    keys = path_keys(key, ["a/kernel", "b/kernel", "a"])
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 3
    np.testing.assert_array_equal(
        jax.random.key_data(path_keys(key, ["a"])[0]), jax.random.key_data(keys[2])
    )


def test_orthogonal_in_the_layers_own_sense(key):
    _, after = drawn(ji.orthogonal(), key)
    w = after["DenseGeneral_0"]["kernel"].reshape(64, 32)
    np.testing.assert_allclose(w.T @ w, np.eye(32), atol=1e-5)


def test_stacked_layers_are_drawn_apart(key):
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            body = nn.scan(
                lambda module, x, _: (module(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=5,
            )
            return body(nn.Dense(16), x.reshape(2, -1)[:, :16], None)[0]

    _, after = drawn(ji.orthogonal(), key, Scanned())
    (stack,) = [leaf for leaf in jax.tree.leaves(after) if leaf.ndim == 3]
    for layer in stack:
        np.testing.assert_allclose(layer.T @ layer, np.eye(16), atol=1e-5)
    assert not np.allclose(stack[0], stack[1])


def test_kernels_of_a_plain_function(key):
    params = {"w": jnp.ones((3, 4)), "scale": jnp.ones(4), "unused": jnp.ones((3, 4))}
    apply = lambda p, x: (x @ p["w"]) * p["scale"]  # noqa: E731
    found = kernels(layers(apply, params, jnp.ones((2, 3))))
    assert [(k.path, k.in_axes, k.out_axes) for k in found] == [("w", (0,), (1,))]
