"""Calibrated schemes: what every layer's outputs are, and what is told of the rest."""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinit as ji
from jaxinit.calibrate import _balance, autoinit, gradinit, lsuv, metainit, weight_norm
from jaxinit.trace import layers, outputs, program, replay

pytestmark = pytest.mark.usefixtures("users_broadcast")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
ACTIVATIONS = (
    *(jnp.tanh, nn.relu, nn.gelu, nn.silu, nn.sigmoid, nn.softplus, nn.elu),
    *(jnp.sin, jnp.square, jnp.abs),
)


def data(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def tokens(*shape):
    return jnp.asarray(RNG.integers(0, 50, shape))


X, IMAGES, SERIES = data(64, 12), data(16, 8, 8, 3), data(8, 6, 16)


class MLP(nn.Module):
    """A layer before each of ten activations, and a head."""

    @nn.compact
    def __call__(self, x):
        for activation in ACTIVATIONS:
            x = activation(nn.Dense(16)(x))
        return nn.Dense(3)(x)


class Normed(nn.Module):
    """Residual convolutions with batch statistics, in training."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        for _ in range(2):
            y = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3))(x)))
            x = x + nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3))(y))
        return nn.Dense(4)(x.mean((1, 2)))


class GRU(nn.Module):
    """A recurrence over time, and a head."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.asarray(nn.RNN(nn.GRUCell(16))(x))[:, -1])


class Mixer(nn.Module):
    """Layers over places, then over features."""

    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        x = x + jnp.swapaxes(nn.Dense(6)(nn.gelu(nn.Dense(8)(y))), 1, 2)
        return x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x))))


class UNet(nn.Module):
    """Down by a stride, up by a transposed convolution, and a skip connection."""

    @nn.compact
    def __call__(self, x):
        top = nn.silu(nn.Conv(4, (3, 3))(x))
        low = nn.silu(nn.Conv(8, (3, 3), (2, 2))(top))
        up = nn.ConvTranspose(4, (2, 2), (2, 2))(low)
        return nn.Conv(3, (3, 3))(jnp.concatenate([top, up], -1))


class Equinox(eqx.Module):
    """A perceptron with attention, of one example."""

    first: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    last: eqx.nn.Linear

    def __init__(self, key):
        self.first = eqx.nn.Linear(16, 8, key=key)
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=key)
        self.last = eqx.nn.Linear(8, 3, key=key)

    def __call__(self, x):
        x = jnp.tanh(jax.vmap(self.first)(x))
        return jax.vmap(self.last)(x + self.attention(x, x, x))


def drawn(shapes):
    """Kernels and tables of noise, by no initializer; scales of 1, biases of 0."""

    def one(path, x):
        name = str(path[-1])
        noise = len(x.shape) > 1 and "bias" not in name and "scale" not in name
        start = 1.0 if "scale" in name else 0.0
        return data(*x.shape) if noise else jnp.full(x.shape, start)

    return jax.tree_util.tree_map_with_path(one, shapes)


def linen(module, *inputs):
    variables = dict(jax.eval_shape(module.init, KEY, *inputs))
    params, variables = drawn(variables.pop("params")), drawn(variables)

    def apply(params, *inputs):
        mutable = list(variables) or False
        out = module.apply({"params": params, **variables}, *inputs, mutable=mutable)
        return out[0] if mutable else out

    return apply, params, *inputs


def of_nnx(make, x):
    shapes = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, params, rest = nnx.split(shapes, nnx.Param, ...)
    params, rest = jax.tree.map(lambda x: jnp.ones(x.shape), params), drawn(rest)
    params = jax.tree.map(lambda x: data(*x.shape) if x.ndim > 1 else x, params)
    apply = lambda params, x: nnx.merge(graph, params, rest, copy=True)(x)  # noqa: E731
    return apply, params, x


def of_equinox(x):
    params, rest = eqx.partition(Equinox(KEY), eqx.is_array)
    return lambda params, x: jax.vmap(eqx.combine(params, rest))(x), params, x


def block(norm):
    return nets.GPT(layers=2, width=16, block=nets.Block(norm=norm), tied=False)


MODELS = {  # and the paths of kernels that hold several layers
    "MLP": (lambda: linen(MLP(), X), ()),
    "CNN": (lambda: linen(nets.CNN(depth=3), IMAGES), ()),
    "ResNet": (lambda: linen(nets.ResNet(blocks=2), IMAGES), ()),
    "ResNet, normalised": (lambda: linen(Normed(), IMAGES), ()),
    "pre": (lambda: linen(block("pre"), tokens(8, 6)), ()),
    "post": (lambda: linen(block("post"), tokens(8, 6)), ()),
    "none": (lambda: linen(block("none"), tokens(8, 6)), ()),
    "scanned": (
        lambda: linen(nets.GPT(2, 16, scan=True, tied=False), tokens(8, 6)),
        ("blocks/",),
    ),
    "NNX": (lambda: of_nnx(nets.NNXTransformer, data(8, 5, 8)), ()),
    "Equinox": (lambda: of_equinox(SERIES), ()),
    "mixer": (lambda: linen(Mixer(), SERIES), ()),
    "U-Net": (lambda: linen(UNet(), IMAGES), ()),
    "experts": (lambda: linen(nets.Experts("gathered"), SERIES), ()),
}
REUSED = {
    "LSTM": lambda: linen(nets.LSTM(), data(8, 5, 8)),
    "GRU": lambda: linen(GRU(), SERIES),
    "tied": lambda: linen(nets.GPT(layers=1, width=16), tokens(8, 6)),
    "shared": lambda: linen(nets.Albert(passes=3, width=16), tokens(8, 6)),
}


@pytest.fixture(autouse=True)
def operation_by_operation(monkeypatch):
    """What the models share is then compiled once."""
    monkeypatch.setattr(_balance, "LONG", -1)


def spread(apply, params, *inputs):
    """For each kernel the deviation of its outputs in its first product."""
    return {
        path: np.asarray(out, np.float64)
        for path, out in outputs(apply, params, *inputs).items()
    }


def silently(scheme, apply, params, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return scheme(KEY, params, apply, inputs)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_has_unit_variance(name):
    make, stacked = MODELS[name]
    apply, params, *inputs = make()
    new = silently(lsuv(base=None), apply, params, *inputs)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    found = spread(apply, new, *inputs)
    kernels = {
        x.path for x in layers(apply, params, *inputs) if x.kind in ji.trace.KERNELS
    }
    assert found.keys() == kernels
    for path, out in found.items():
        rows = out if path.startswith(stacked) and stacked else out[None]
        for row in rows:
            assert abs(row.std() - 1) < 1e-5, path


def measured(apply, params, *inputs):
    """Over all uses of each leaf, the deviation of its outputs."""
    made = program(apply, params, *inputs)

    def visit(product, operands, result, given, found):
        outs = []
        for part in product.parts:
            axis, start, stop = part.span or (0, 0, result.shape[0])
            outs.append(jax.lax.slice_in_dim(result, start, stop, axis=axis))
        return result, outs

    _, found = replay(made, visit)
    seen = {}
    for site, outs in found.items():
        for part, out in zip(made.products[site].parts, outs, strict=True):
            seen.setdefault(part.path, []).append(np.asarray(out, float).ravel())
    return {path: np.concatenate(outs).std() for path, outs in seen.items()}


@pytest.mark.parametrize("name", REUSED)
def test_a_kernel_that_is_used_again_has_it_over_all_its_uses(name):
    apply, params, *inputs = REUSED[name]()
    new = silently(lsuv(base=None), apply, params, *inputs)
    for path, deviation in measured(apply, new, *inputs).items():
        assert abs(deviation - 1) < 2e-5, path


def test_the_size_of_the_start_makes_no_difference():
    for apply, params, x in (linen(MLP(), X), linen(GRU(), SERIES)):
        scheme = lsuv(base=None)
        new = scheme(KEY, params, apply, (x,))
        for factor in (1e3, 1e-20, 1e30):
            scale = lambda w, by=factor: w * jnp.float32(by) if w.ndim > 1 else w  # noqa: E731
            other = scheme(KEY, jax.tree.map(scale, params), apply, (x,))
            for one, two in zip(*map(jax.tree.leaves, (new, other)), strict=True):
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-8)


def unmet(made: Any, found):
    return made.unmet(found)


def test_one_pass_and_one_that_verifies():
    apply, params, x = linen(MLP(), X)
    made = lsuv().made(apply, params, (x,))
    _, found = made(KEY, params, (x,))
    assert [int(n) for n in found.passes] == [2] and not unmet(made, found)


def test_a_compiled_pass_does_the_same(monkeypatch):
    apply, params, x = linen(UNet(), IMAGES)
    by_operation = lsuv(None)(KEY, params, apply, (x,))
    compiled = jax.jit(lambda params, x: lsuv(None)(KEY, params, apply, (x,)))(
        params, x
    )
    monkeypatch.setattr(_balance, "LONG", 10**6)
    at_once = lsuv(None)(KEY, params, apply, (x,))
    for other in (compiled, at_once):
        for one, two in zip(*map(jax.tree.leaves, (by_operation, other)), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_deviations_that_are_asked_for():
    apply, params, x = linen(block("pre"), tokens(8, 6))
    scheme = lsuv(
        None, target={"*/up/kernel": 0.5}, branch="depth", head=0.1, logits=0.25
    )
    new = silently(scheme, apply, params, x)
    found = {path: out.std() for path, out in spread(apply, new, x).items()}
    wanted = {
        "block_0/up/kernel": 0.5,
        "block_1/down/kernel": 4**-0.5,
        "block_0/attention/out/kernel": 4**-0.5,
        "block_0/attention/value/kernel": 1.0,
        "readout/kernel": 0.1,
    }
    for path, value in wanted.items():
        assert abs(found[path] / value - 1) < 1e-5, path
    with pytest.raises(
        ValueError, match=r"target names '\*/w', which matches no .*\.$"
    ):
        lsuv(target={"*/w": 1})(KEY, params, apply, (x,))
    outs = spread(apply, new, x)
    for k in range(2):
        query, key = (outs[f"block_{k}/attention/{n}/kernel"] for n in ("query", "key"))
        logits = np.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        assert abs(logits.var(-1).mean() ** 0.5 / 0.25 - 1) < 1e-4


def handed_back(apply, params, x):
    """For each kernel the deviation of the gradient by what goes into it."""
    noise = jax.random.normal(jax.random.key(5), jax.eval_shape(apply, params, x).shape)
    made = program(apply, params, x)

    def total(taps):
        def visit(product, operands, result, given, found):
            return result + given, (result, operands)

        out, found = replay(made, visit, None, taps)
        return jnp.sum(out * noise), found

    _, outs = replay(made, lambda p, o, r, g, f: (r, jnp.zeros_like(r)))
    grads, found = jax.grad(total, has_aux=True)(outs)
    return {
        made.products[site].parts[0].path: np.asarray(g @ found[site][1][1].T).std()
        for site, g in grads.items()
    }


def test_backward_and_both():
    def apply(p, x):
        return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"]

    params = {"a": data(12, 32), "b": data(32, 16), "c": data(16, 64)}
    x = data(256, 12)
    back = silently(lsuv(direction="backward"), apply, params, x)
    # Its noise is another: what is handed back differs by chance.
    for path, deviation in handed_back(apply, back, x).items():
        assert abs(deviation - 1) < 0.05, path
    fore = silently(lsuv(), apply, params, x)
    both = silently(lsuv(direction="both"), apply, params, x)
    for path in params:
        ratio = both[path] / jnp.sqrt(jnp.abs(fore[path] * back[path]))
        np.testing.assert_allclose(np.abs(ratio), 1, rtol=1e-4)
    stack = {"w": data(3, 12, 12)}
    scan = lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0]  # noqa: E731
    new = silently(lsuv(base=None, direction="backward"), scan, stack, x)
    g = jax.random.normal(jax.random.key(6), x.shape)
    for w in new["w"][::-1]:
        g = g @ w.T
        assert abs(float(g.std()) - 1) < 0.1


def test_biases_that_centre():
    apply, params, x = linen(MLP(), X)
    new = silently(lsuv(None, center=True), apply, params, x)
    for k in range(11):
        x = x @ new[f"Dense_{k}"]["kernel"] + new[f"Dense_{k}"]["bias"]
        np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
        assert abs(float(x.std()) - 1) < 1e-5
        x = ACTIVATIONS[k](x) if k < 10 else x


def test_features_one_by_one():
    apply, params, x = linen(nets.CNN(depth=2), IMAGES + 1)
    new = silently(weight_norm(None), apply, params, x)
    for path in ("Conv_0", "Conv_1"):
        out: Any = nn.Conv(16, (3, 3)).apply({"params": new[path]}, x)
        np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(out.std((0, 1, 2)), 1, rtol=1e-5)
        x = jnp.tanh(out)
    stack = {"w": data(3, 12, 12)}  # without biases: scaled alone
    scan = lambda p, x: jax.lax.scan(lambda x, w: (x @ w, None), x, p["w"])[0]  # noqa: E731
    x = X
    for w in silently(weight_norm(None), scan, stack, X)["w"]:
        x = x @ w
        np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)
    apply, params, x = REUSED["GRU"]()
    with pytest.warns(UserWarning, match="kernel is used more than once"):
        weight_norm(None)(KEY, params, apply, (x,))


def deep(p, x):
    for k in range(4):
        x = jnp.tanh(x @ p[f"w{k}"])
    return x @ p["head"]


DEEP = {**{f"w{k}": 0.9 * data(12, 12) for k in range(4)}, "head": data(12, 4)}


def test_norms_that_lower_the_gradient_quotient():
    made = metainit(None, steps=60).made(deep, DEEP, (X,))
    new, told = made(KEY, DEEP, (X,))
    made.tell(told)
    assert told.objective[-5:].mean() < 0.7 * told.objective[:5].mean()
    for path, w in new.items():  # norms alone have changed
        sizes = jnp.linalg.norm(w) * jnp.linalg.norm(DEEP[path])
        np.testing.assert_allclose(jnp.vdot(w, DEEP[path]) / sizes, 1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"two classes or more .*\.$"):
        metainit(None)(KEY, DEEP, lambda p, x: deep(p, x)[:, :1], (X,))


def test_scales_that_lower_the_loss_after_a_step():
    labels = jnp.asarray(RNG.integers(0, 4, len(X)))

    def loss(out):
        return -jnp.take_along_axis(jax.nn.log_softmax(out), labels[:, None], 1)

    def after(params):
        total = lambda p: loss(deep(p, X)).mean()  # noqa: E731
        g = jax.grad(total)(params)
        size = jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(g)))
        return size, total(jax.tree.map(lambda x, y: x - 0.1 * y, params, g))

    made = gradinit(None, steps=80).made(deep, DEEP, (X,), loss)
    new, told = made(KEY, DEEP, (X,))
    (size, value), (size_before, value_before) = after(new), after(DEEP)
    assert size_before > 1 and size < 1.2 and value < 0.8 * value_before
    assert told.objective.shape == (80,)
    with pytest.raises(ValueError, match=r"a loss, and none is given; .*\.$"):
        gradinit()(KEY, DEEP, deep, (X,))


def test_what_is_left_alone_is_named():
    def apply(p, x):
        x = x @ (p["normed"] / jnp.linalg.norm(p["normed"], axis=0))
        x = x + x @ p["zero"] + (x * 0) @ p["dark"]
        return x @ p["w"]

    params = {name: data(12, 12) for name in ("normed", "dark", "w")}
    params["zero"] = jnp.zeros((12, 12))
    with pytest.warns(UserWarning) as told:
        new = lsuv(base=None)(KEY, params, apply, (X,))
    (message,) = {str(each.message) for each in told}
    assert "normed is changed before its product" in message
    assert "zero is zero" in message and "dark has outputs that do not" in message
    assert message.startswith("lsuv: 3 of") and message.endswith(".")
    for path in ("normed", "zero"):
        np.testing.assert_array_equal(new[path], params[path])
    assert abs(float(apply(new, X).std()) - 1) < 1e-5


def plain(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


PLAIN = {"w": data(12, 8), "v": data(8, 4)}


@pytest.mark.parametrize(
    ("scheme", "apply", "x", "says"),
    [
        (lsuv(None), lambda p, x: x + p["w"][:, 0], X, "has no kernel"),
        (lsuv(), plain, X[:1], "have one example"),
        (lsuv(), plain, jnp.ones((9, 12)), "are alike"),
        (lsuv(), plain, X.at[3, 3].set(jnp.inf), "not finite"),
        (lsuv(), plain, jax.ShapeDtypeStruct((9, 12), jnp.float32), "shapes alone"),
        (autoinit(mean=(1.0, 2.0)), plain, X, "12 entries"),
        (autoinit(covariance=-np.eye(12)), plain, X, "negative eigenvalue"),
        (
            autoinit(None),
            lambda p, x: plain(p, x.astype(float)),
            jax.ShapeDtypeStruct((9, 12), jnp.int32),
            "look up no table",
        ),
    ],
)
def test_what_does_not_serve_is_a_sentence(scheme, apply, x, says):
    with pytest.raises(ValueError, match=says) as caught:
        scheme(KEY, PLAIN, apply, (x,))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: lsuv(target=-1), "greater than zero"),
        (lambda: lsuv(target=[("*", "a")]), "target"),
        (lambda: lsuv(branch="width"), "'depth' or a number"),
        (lambda: ji.parse("lsuv(direction='up')"), "direction='up' is unknown"),
        (lambda: lsuv(direction="both", center=True), "leave them out"),
        (lambda: lsuv(base=lsuv()), "make the rest its base= instead"),
        (lambda: ji.tree.combined(["lsuv()", "he_normal"]), "make the rest its base="),
        (lambda: lsuv(base=5), "must be an initializer"),
        (lambda: autoinit(examples=1), "2 or more"),
        (lambda: ji.parse("autoinit(like='me')"), "unknown"),
        (lambda: ji.reinit(KEY, PLAIN, "lsuv()"), "pass apply="),
    ],
)
def test_arguments_that_do_not_serve_are_a_sentence(build, says):
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        build()
    assert str(caught.value).endswith(".")


def test_low_precision_and_shards():
    mesh = jax.make_mesh((8,), ("d",), (AxisType.Auto,))
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PLAIN)
    new = silently(lsuv(), plain, half, X.astype(jnp.bfloat16))
    assert {w.dtype for w in new.values()} == {jnp.dtype(jnp.bfloat16)}
    for out in spread(plain, jax.tree.map(lambda w: w.astype(float), new), X).values():
        assert abs(out.std() - 1) < 4e-3
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    sharded = {"w": put(PLAIN["w"], None, "d"), "v": put(PLAIN["v"], "d")}
    alone = silently(lsuv(base=None), plain, PLAIN, X)
    spread_out = silently(lsuv(base=None), plain, sharded, put(X, "d"))
    for path, w in spread_out.items():
        assert w.sharding == sharded[path].sharding
        np.testing.assert_allclose(w, alone[path], rtol=1e-5)


# --- Without data ---------------------------------------------------------------------


def test_from_shapes_alone():
    model, shape = block("pre"), jax.ShapeDtypeStruct((1, 6), jnp.int32)
    variables = ji.init(model, KEY, shape, scheme="autoinit()")
    apply = lambda p, x: model.apply({"params": p}, x)  # noqa: E731
    for path, out in spread(apply, variables["params"], tokens(64, 6)).items():
        assert abs(out.std() - 1) < 0.15, path
    module = ji.init(nnx.Linear(12, 8, rngs=nnx.Rngs(0)), KEY, X[:1], scheme=autoinit())
    assert abs(float(module(data(512, 12)).std()) - 1) < 0.1


def test_moments_of_the_inputs():
    mix = data(12, 12)
    x = 3 + data(256, 12) @ mix
    for scheme in (
        autoinit(like="data", base=None),
        autoinit(mean=3.0, covariance=np.asarray(mix.T @ mix), base=None),
    ):
        new = silently(scheme, plain, PLAIN, x)
        by_data = silently(lsuv(base=None), plain, PLAIN, x)
        for path in PLAIN:
            ratio = new[path] / by_data[path]
            assert abs(float(ratio.mean()) - 1) < 0.1 and float(ratio.std()) < 1e-5


def test_a_model_that_takes_no_other_batch():
    def apply(p, x):
        return plain(p, x.reshape(4, 12))

    new = silently(autoinit(), apply, PLAIN, X[:4])
    assert all(bool(jnp.isfinite(w).all()) for w in new.values())


# --- Among other schemes --------------------------------------------------------------


def test_in_a_sweep_by_name():
    from jaxinit.compare import compare

    schemes = ["lsuv()", "autoinit(base='he_normal', like='data')"]
    few: Any = {"learning_rates": [0.05], "seeds": 2, "steps": 4, "quiet": True}
    result = compare("digits-mlp(depth=2)", schemes, **few)
    assert list(result.sweep.settings.schemes) == list(
        map(repr, map(ji.parse, schemes))
    )


def test_reinit_takes_it_and_its_base():
    scheme = lsuv(base=ji.tree.by_kind("he_normal", ji.constant(0.5)))
    apply, params, x = linen(UNet(), IMAGES)
    new = ji.reinit(KEY, params, scheme, apply, (x,))
    assert float(new["Conv_0"]["bias"][0]) == 0.5
    for out in spread(apply, new, x).values():
        assert abs(out.std() - 1) < 1e-5
    rows = ji.describe(params, scheme, apply, (x,))
    assert "he_normal" in str(rows)
