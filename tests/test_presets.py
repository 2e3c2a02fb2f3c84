"""Defaults of the frameworks: by closed form, and against the frameworks at hand."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn
from flax import nnx

from jaxinit import presets

FRAMEWORKS = ["torch", "keras", "haiku", "equinox", "flax"]
KEPT = scipy.stats.truncnorm(-2, 2).std()  # of a deviation, by truncation at two


def leaves(params):
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in flat
    }


def linen(layer, key, *inputs):
    return leaves(layer.init(key, *inputs)["params"])


def conv(framework, groups=1):
    defaults = getattr(presets, framework).conv(64, (3, 3), groups)
    return nn.Conv(128, (3, 3), feature_group_count=groups, **defaults)


def conv_transpose(framework, transpose_kernel=False):
    defaults = getattr(presets, framework).conv_transpose(64, 16, (3, 3))
    return nn.ConvTranspose(16, (3, 3), transpose_kernel=transpose_kernel, **defaults)


def deviation(x):
    return float(x.std())


DENSE_STD = {
    "torch": (3 * 128) ** -0.5,
    "equinox": (3 * 128) ** -0.5,
    "keras": (2 / (128 + 512)) ** 0.5,
    "haiku": KEPT * 128**-0.5,
    "flax": 128**-0.5,
}
CONV_STD = {
    "torch": (3 * 576) ** -0.5,
    "equinox": (3 * 576) ** -0.5,
    "keras": (2 / (576 + 1152)) ** 0.5,
    "haiku": KEPT * 576**-0.5,
    "flax": 576**-0.5,
}
GROUPED_STD = {
    "torch": (3 * 144) ** -0.5,
    "equinox": (3 * 144) ** -0.5,
    "keras": (2 / (144 + 1152)) ** 0.5,
    "haiku": KEPT * 144**-0.5,
    "flax": 144**-0.5,
}
TRANSPOSED_STD = {
    "torch": (3 * 144) ** -0.5,  # of the outputs
    "equinox": (3 * 576) ** -0.5,
    "keras": (2 / (576 + 144)) ** 0.5,
    "haiku": KEPT * 576**-0.5,
    "flax": 576**-0.5,
}
EMBEDDING_STD = {
    "torch": 1.0,
    "equinox": 1.0,
    "keras": 0.05 / 3**0.5,
    "haiku": KEPT,
    "flax": 64**-0.5,
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_layers_have_the_deviation_of_their_framework(framework, key):
    preset = getattr(presets, framework)
    image = jnp.ones((1, 8, 8, 64))
    got = {
        "dense": linen(nn.Dense(512, **preset.linear(128)), key, jnp.ones((1, 128))),
        "conv": linen(conv(framework), key, image),
        "grouped": linen(conv(framework, 4), key, image),
        "transposed": linen(conv_transpose(framework), key, image),
    }
    want = {
        "dense": DENSE_STD,
        "conv": CONV_STD,
        "grouped": GROUPED_STD,
        "transposed": TRANSPOSED_STD,
    }
    fans = {"dense": 128, "conv": 576, "grouped": 144, "transposed": 576}
    if framework == "torch":
        fans["transposed"] = 144
        swapped = linen(conv_transpose(framework, True), key, image)["kernel"]
        assert deviation(swapped) == pytest.approx(TRANSPOSED_STD["torch"], rel=0.02)
    for layer, params in got.items():
        assert deviation(params["kernel"]) == pytest.approx(
            want[layer][framework], rel=0.02
        )
        bound = fans[layer] ** -0.5 if framework in ("torch", "equinox") else 0.0
        assert abs(params["bias"]).max() <= bound
        if bound:
            assert deviation(params["bias"]) == pytest.approx(bound / 3**0.5, rel=0.3)
    table = linen(nn.Embed(1000, 64, **preset.embedding(64)), key, jnp.ones(3, int))
    assert deviation(table["embedding"]) == pytest.approx(
        EMBEDDING_STD[framework], rel=0.02
    )


CELL_STD = {
    "torch": (192**-0.5, 192**-0.5, 192**-0.5),
    "equinox": (192**-0.5, 192**-0.5, 192**-0.5),
    "keras": (None, None, None),
    "haiku": (KEPT * 96**-0.5, KEPT * 96**-0.5, None),
    "flax": (32**-0.5, 64**-0.5, None),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_recurrent_cells(framework, key):
    preset = getattr(presets, framework)
    lstm = nnx.OptimizedLSTMCell(32, 64, rngs=nnx.Rngs(0), **preset.lstm(32, 64))
    gru = nnx.GRUCell(32, 64, rngs=nnx.Rngs(0), **preset.gru(32, 64))
    for cell, gates in ((lstm, 4), (gru, 3)):
        kernel = np.asarray(cell.dense_i.kernel[...])
        recurrent = np.asarray(cell.dense_h.kernel[...])
        bias_of = cell.dense_h if gates == 4 else cell.dense_i
        bias = np.asarray(bias_of.bias[...])
        std_i, std_h, _ = CELL_STD[framework]
        if framework == "haiku" and gates == 3:
            std_i, std_h = 32**-0.5, 64**-0.5
        if framework == "keras":
            std_i, std_h = (2 / (32 + gates * 64)) ** 0.5, (gates * 64) ** -0.5
            np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(64), atol=1e-5)
        if framework == "flax":
            gate = recurrent[:, :64]
            np.testing.assert_allclose(gate.T @ gate, np.eye(64), atol=1e-5)
        assert deviation(kernel) == pytest.approx(std_i, rel=0.04)
        assert deviation(recurrent) == pytest.approx(std_h, rel=0.04)
        if framework in ("torch", "equinox"):
            terms = 2 if framework == "torch" else 1
            assert deviation(bias) == pytest.approx((terms / 192) ** 0.5, rel=0.15)
        else:
            forget = gates == 4 and framework in ("keras", "haiku")
            assert bias[64:128].mean() == forget and bias.sum() == 64 * forget


ATTENTION_STD = {
    "torch": ((2 / 256) ** 0.5, 192**-0.5),
    "equinox": (192**-0.5, 192**-0.5),
    "keras": ((2 / 128) ** 0.5, (2 / 128) ** 0.5),
    "haiku": (1 / 8, 1 / 8),
    "flax": (1 / 8, 1 / 8),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_attention(framework, key):
    defaults = getattr(presets, framework).attention(64)
    layer = nn.MultiHeadDotProductAttention(4, **defaults)
    params = linen(layer, key, jnp.ones((1, 5, 64)))
    inner, outer = ATTENTION_STD[framework]
    for name in ("query", "key", "value", "out"):
        std = outer if name == "out" else inner
        assert deviation(params[f"{name}/kernel"]) == pytest.approx(std, rel=0.04)
        assert bool(params[f"{name}/bias"].any()) == (framework == "equinox")
    nnx.MultiHeadAttention(4, 64, rngs=nnx.Rngs(0), decode=False, **defaults)


def test_flax_is_flax_bit_for_bit(key):
    x = jnp.ones((1, 8, 8, 64))
    for ours, theirs, inputs in (
        (nn.Dense(32, **presets.flax.linear(64)), nn.Dense(32), x),
        (conv("flax"), nn.Conv(128, (3, 3)), x),
        (conv_transpose("flax"), nn.ConvTranspose(16, (3, 3)), x),
        (
            nn.Embed(10, 64, **presets.flax.embedding(64)),
            nn.Embed(10, 64),
            jnp.ones(3, int),
        ),
        (
            nn.MultiHeadDotProductAttention(4, **presets.flax.attention(64)),
            nn.MultiHeadDotProductAttention(4),
            x,
        ),
    ):
        jax.tree.map(
            np.testing.assert_array_equal,
            linen(ours, key, inputs),
            linen(theirs, key, inputs),
        )


def same_distribution(ours, theirs):
    assert (
        np.shape(ours)
        and scipy.stats.ks_2samp(np.ravel(ours), np.ravel(theirs))[1] > 1e-5
    )


def test_against_torch_itself(key):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    preset, nn_ = presets.torch, torch.nn
    draw = lambda init, tensor: init(key, tuple(tensor.shape))  # noqa: E731
    for layer, defaults in (
        (nn_.Linear(128, 512), preset.linear(128)),
        (nn_.Conv2d(64, 96, 3, groups=4), preset.conv(64, (3, 3), 4)),
        (nn_.ConvTranspose2d(64, 32, 3), preset.conv_transpose(64, 32, (3, 3))),
    ):
        same_distribution(
            draw(defaults["kernel_init"], layer.weight), layer.weight.detach()
        )
        same_distribution(draw(defaults["bias_init"], layer.bias), layer.bias.detach())
    table = nn_.Embedding(500, 64).weight
    same_distribution(
        draw(preset.embedding(64)["embedding_init"], table), table.detach()
    )
    for cell, defaults in (
        (nn_.LSTM(32, 256), preset.lstm(32, 256)),
        (nn_.GRU(32, 256), preset.gru(32, 256)),
    ):
        same_distribution(
            draw(defaults["kernel_init"], cell.weight_ih_l0), cell.weight_ih_l0.detach()
        )
        same_distribution(
            draw(defaults["recurrent_kernel_init"], cell.weight_hh_l0),
            cell.weight_hh_l0.detach(),
        )
        bias = cell.bias_ih_l0 + cell.bias_hh_l0
        same_distribution(draw(defaults["bias_init"], bias), bias.detach())
    attention = nn_.MultiheadAttention(128, 4)
    defaults = preset.attention(128)
    same_distribution(
        draw(defaults["kernel_init"], attention.in_proj_weight),
        attention.in_proj_weight.detach(),
    )
    same_distribution(
        draw(defaults["out_kernel_init"], attention.out_proj.weight),
        attention.out_proj.weight.detach(),
    )
    assert not attention.in_proj_bias.any() and not attention.out_proj.bias.any()


def test_against_keras_itself(key, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    preset, layers = presets.keras, keras.layers

    def built(layer, *inputs):
        layer(*(np.ones(shape, "float32") for shape in inputs))
        return {w.path.split("/", 1)[1]: np.asarray(w) for w in layer.weights}

    def same(init, weight):
        same_distribution(init(key, weight.shape), weight)

    same(
        preset.linear(128)["kernel_init"], built(layers.Dense(512), (1, 128))["kernel"]
    )
    same(
        preset.conv(64, (3, 3))["kernel_init"],
        built(layers.Conv2D(96, 3, groups=4), (1, 8, 8, 64))["kernel"],
    )
    same(
        preset.conv_transpose(64, 16, (3, 3))["kernel_init"],
        built(layers.Conv2DTranspose(16, 3), (1, 8, 8, 64))["kernel"],
    )
    same(
        preset.embedding(64)["embedding_init"],
        built(layers.Embedding(500, 64), (1, 3))["embeddings"],
    )
    for cell, defaults in (
        (layers.LSTM(64), preset.lstm(32, 64)),
        (layers.GRU(64), preset.gru(32, 64)),
    ):
        weights = built(cell, (1, 3, 32))
        name = next(iter(weights)).split("/")[0]
        same(defaults["kernel_init"], weights[f"{name}/kernel"])
        same(defaults["recurrent_kernel_init"], weights[f"{name}/recurrent_kernel"])
        bias = weights[f"{name}/bias"]
        np.testing.assert_array_equal(
            defaults["bias_init"](key, bias.shape[-1:]),
            bias.sum(bias.ndim - 2) if bias.ndim > 1 else bias,
        )
    weights = built(layers.MultiHeadAttention(4, 16), (1, 3, 64), (1, 3, 64))
    query = preset.attention(64)["kernel_init"](key, (64, 64))
    same_distribution(query, weights["query/kernel"])


def test_against_equinox_and_haiku_themselves(key):
    eqx = pytest.importorskip("equinox")
    hk = pytest.importorskip("haiku")
    preset = presets.equinox
    layer = eqx.nn.ConvTranspose2d(64, 32, 3, key=key)
    defaults = preset.conv_transpose(64, 32, (3, 3))
    same_distribution(defaults["kernel_init"](key, layer.weight.shape), layer.weight)
    same_distribution(defaults["bias_init"](key, layer.bias.shape), layer.bias)
    cell = eqx.nn.LSTMCell(32, 64, key=key)
    defaults = preset.lstm(32, 64)
    same_distribution(
        defaults["kernel_init"](key, cell.weight_ih.shape), cell.weight_ih
    )
    same_distribution(defaults["bias_init"](key, cell.bias.shape), cell.bias)

    def lstm(x):
        cell = hk.LSTM(64)
        return cell(x, cell.initial_state(1))

    params = hk.transform(lstm).init(key, jnp.ones((1, 32)))["lstm/linear"]
    init = presets.haiku.lstm(32, 64)["kernel_init"]
    same_distribution(init(jax.random.fold_in(key, 1), params["w"].shape), params["w"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_sentence(framework):
    preset = getattr(presets, framework)
    if framework in ("torch", "haiku", "equinox"):
        with pytest.raises(ValueError, match="groups=3 does not divide 64 features"):
            preset.conv(64, 3, 3)
        with pytest.raises(ValueError, match="features=0"):
            preset.linear(0)
    assert importlib.import_module("jaxinit").presets is presets
