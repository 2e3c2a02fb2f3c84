"""Fans from what a layer means, proven by the variance of the layer's output."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxinit as ji

LECUN = ji.lecun_normal


def conv(x, kernel, strides=(1, 1), groups=1, padding="VALID"):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def transposed(x, kernel, strides, transpose_kernel):
    return lax.conv_transpose(
        x, kernel, strides, "VALID", transpose_kernel=transpose_kernel
    )[:, 8:-8, 8:-8]


def normal(key, *shape):
    return jax.random.normal(key, shape)


FORWARD = {
    "dense": (LECUN(), (256, 128), lambda x, w: x(64, 256) @ w),
    "dense with a batch axis (DenseGeneral's batch_dims)": (
        LECUN(batch_axis=0),
        (16, 64, 64),
        lambda x, w: jnp.einsum("bnd,ndf->bnf", x(64, 16, 64), w),
    ),
    "einsum hdf, 8 heads": (
        LECUN(**ji.einsum_axes("bhd,hdf->bhf")),
        (8, 32, 64),
        lambda x, w: jnp.einsum("bhd,hdf->bhf", x(64, 8, 32), w),
    ),
    "attention's in-projection": (
        LECUN(**ji.einsum_axes("bsd,dhk->bshk")),
        (128, 4, 16),
        lambda x, w: jnp.einsum("bsd,dhk->bshk", x(16, 16, 128), w),
    ),
    "attention's out-projection": (
        LECUN(**ji.einsum_axes("bshk,hkd->bsd")),
        (4, 16, 128),
        lambda x, w: jnp.einsum("bshk,hkd->bsd", x(16, 16, 4, 16), w),
    ),
    "experts": (
        LECUN(**ji.einsum_axes("becd,edf->becf")),
        (8, 64, 32),
        lambda x, w: jnp.einsum("becd,edf->becf", x(8, 8, 16, 64), w),
    ),
    "convolution": (
        LECUN(strides=2),
        (3, 3, 32, 64),
        lambda x, w: conv(x(4, 17, 17, 32), w, (2, 2)),
    ),
    "grouped convolution": (
        LECUN(groups=8),
        (3, 3, 8, 64),
        lambda x, w: conv(x(4, 16, 16, 64), w, groups=8),
    ),
    "transposed convolution, stride 2": (
        LECUN(transpose=True, strides=2),
        (4, 4, 64, 8),
        lambda x, w: transposed(x(4, 24, 24, 64), w, (2, 2), False),
    ),
    "transposed convolution, transpose_kernel": (
        LECUN(transpose=True, strides=2, in_axis=-1, out_axis=-2),
        (4, 4, 8, 64),
        lambda x, w: transposed(x(4, 24, 24, 64), w, (2, 2), True),
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_unit_inputs_give_unit_outputs(name, key):
    init, shape, layer = FORWARD[name]
    x_key, w_key = jax.random.split(key)

    @jax.jit
    @jax.vmap
    def mean_square(x_key, w_key):
        y = layer(lambda *shape: normal(x_key, *shape), init(w_key, shape))
        return (y**2).mean()

    draws = np.asarray(
        mean_square(jax.random.split(x_key, 32), jax.random.split(w_key, 32))
    )
    assert abs(draws.mean() - 1) < 6 * draws.std() / 32**0.5 + 1e-3
    assert draws.std() / 32**0.5 < 0.02  # tight enough to see a wrong fan


BACKWARD = {
    "depthwise": (
        dict(groups=64),
        (3, 3, 1, 64),
        (4, 20, 20, 64),
        lambda x, w: conv(x, w, groups=64),
    ),
    "grouped": (
        dict(groups=4),
        (3, 3, 8, 64),
        (4, 20, 20, 32),
        lambda x, w: conv(x, w, groups=4),
    ),
    "strided": (
        dict(strides=2),
        (4, 4, 16, 64),
        (4, 28, 28, 16),
        lambda x, w: conv(x, w, (2, 2)),
    ),
    "dense": ({}, (256, 64), (64, 256), lambda x, w: x @ w),
    "one of a fused three": (
        dict(fused=3),
        (128, 3 * 64),
        (64, 128),
        lambda x, w: (x @ w)[:, 64:128],
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_fan_out_keeps_the_gradient(name, key):
    layout, shape, x_shape, layer = BACKWARD[name]
    init = ji.variance_scaling(1.0, "fan_out", "normal", **layout)
    x_key, w_key, g_key = jax.random.split(key, 3)

    @jax.jit
    @jax.vmap
    def mean_square(x_key, w_key, g_key):
        x = normal(x_key, *x_shape)
        y, pullback = jax.vjp(lambda x: layer(x, init(w_key, shape)), x)
        (gradient,) = pullback(normal(g_key, *y.shape))
        inner = gradient[:, 6:-6, 6:-6] if gradient.ndim == 4 else gradient
        return (inner**2).mean()

    draws = np.asarray(
        mean_square(*(jax.random.split(k, 32) for k in (x_key, w_key, g_key)))
    )
    assert abs(draws.mean() - 1) < 6 * draws.std() / 32**0.5 + 1e-3
    assert draws.std() / 32**0.5 < 0.05


def test_depthwise_glorot_is_not_drowned_by_the_other_groups(key):
    # Without groups= the deviation is .062, ideal is .333.
    w = ji.glorot_normal(groups=512)(key, (3, 3, 1, 512))
    assert abs(float(w.std()) * 3 - 1) < 0.05


def test_embedding_has_the_features_for_its_fan(key):
    init = ji.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    table = nn.Embed(4096, 64, embedding_init=init).init(key, jnp.zeros(1, int))
    assert abs(float(table["params"]["embedding"].std()) * 8 - 1) < 0.01


@pytest.mark.parametrize(
    ("spec", "axes"),
    [
        ("bd,df->bf", ((0,), (1,), ())),
        ("...d,dhk->...hk", ((0,), (1, 2), ())),
        ("bshk,hkd->bsd", ((0, 1), (2,), ())),
        ("ecd , edf -> ecf", ((1,), (2,), (0,))),
        ("bd,dfz->bf", ((0, 2), (1,), ())),
    ],
)
def test_einsum_axes(spec, axes):
    names = ("in_axis", "out_axis", "batch_axis")
    assert ji.einsum_axes(spec) == dict(zip(names, axes, strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ji.einsum_axes("bd,df"), "must read 'inputs,kernel->output'"),
        (lambda: ji.einsum_axes("bd,d...->b..."), "letters alone for the kernel"),
        (lambda: ji.einsum_axes("bd,df->bz"), "each letter of the output"),
        (lambda: ji.einsum_axes("bd,dd->b"), "none twice"),
        (lambda: LECUN(strides=0), "strides=0"),
        (lambda: LECUN(fused=0), "fused=0"),
        (lambda: LECUN(gain=1.0, activation="relu"), "both given"),
        (lambda: LECUN(activation="rleu"), "'rleu' is unknown"),
        (lambda: LECUN(strides=(2, 2, 2))(jax.random.key(0), (3, 3, 4, 4)), "2 recept"),
        (lambda: LECUN(fused=3)(jax.random.key(0), (4, 8)), "times fused=3 does not"),
    ],
)
def test_bad_layouts_in_one_sentence(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message


def test_the_gain_of_an_activation(key):
    assert ji.gain("relu") == pytest.approx(2**0.5)
    shape = (512, 512)
    he = ji.lecun_normal(activation="relu")(key, shape)
    np.testing.assert_allclose(he, ji.he_normal()(key, shape), rtol=1e-6)
    gelu = ji.variance_scaling(1.0, "fan_in", "normal", activation="gelu")
    y = jax.nn.gelu(jax.random.normal(key, (512, 512))) @ gelu(key, shape)
    assert abs(float((y**2).mean()) - 1) < 0.03
    assert ji.parse(repr(gelu)) == gelu
