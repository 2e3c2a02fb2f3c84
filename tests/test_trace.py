"""`jaxinit.trace` on plain JAX functions: each primitive, each higher-order one."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinit.trace import Layer, kernels, layers
from jaxinit.trace._value import Value
from jaxinit.trace._view import whole_leaf
from jaxinit.trace._walk import Trace

pytestmark = pytest.mark.usefixtures("users_broadcast")


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def ids(*shape):
    return shaped(*shape, dtype=jnp.int32)


def only(apply, param, *inputs) -> Layer:
    """The layer of a function with one parameter."""
    (layer,) = layers(apply, param, *inputs)
    return layer


def by_path(apply, params, *inputs) -> dict[str, Layer]:
    return {layer.path: layer for layer in layers(apply, params, *inputs)}


def roles(layer: Layer) -> str:
    """A letter for each leaf axis: in, out, batch or window."""
    letters = [""] * len(layer.shape)
    for letter, axes in zip(
        "iobw",
        (layer.in_axes, layer.out_axes, layer.batch_axes, layer.receptive_axes),
        strict=True,
    ):
        assert list(axes) == sorted(axes)
        for axis in axes:
            letters[axis] += letter
    return "".join(letter or "-" for letter in letters)


def conv(x, w, *, strides=(1, 1), **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    padding = [(1, 1), (1, 1)]
    return lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=numbers, **options
    )


def loop(step, *carry):
    """A Python-friendly scan over the rows of the last argument."""
    return lax.scan(lambda c, x: (step(c, x), None), *carry)[0]


X = shaped(2, 6)
IMAGE = shaped(2, 8, 8, 6)
KEY = jax.random.key(0)

# name: function of one parameter and inputs, shape, inputs, axis roles, fan in and out.
DENSE = {
    "dot": (lambda w, x: x @ w, (6, 5), [X], "io", 6, 5),
    "from the left": (lambda w, x: w @ x.T, (5, 6), [X], "oi", 6, 5),
    "vector": (lambda w, x: x @ w, (6,), [X], "i", 6, 1),
    "heads": (
        lambda w, x: jnp.einsum("bd,hdf->bhf", x, w), (3, 6, 4), [X], "oio", 6, 12
    ),
    "experts": (
        lambda w, x: jnp.einsum("ecd,edf->ecf", x, w),
        (3, 6, 4), [shaped(3, 2, 6)], "bio", 6, 4,
    ),
    "axis split, one role": (
        lambda w, x: jnp.einsum("bd,dhk->bhk", x, w.reshape(6, 2, 4)),
        (6, 8), [X], "io", 6, 8,
    ),
    "axes joined": (
        lambda w, x: x @ w.reshape(6, 8).astype(jnp.bfloat16),
        (2, 3, 8), [shaped(2, 6, dtype=jnp.bfloat16)], "iio", 6, 8,
    ),
    "one input": (lambda w, x: x[:, :1] @ w, (1, 5), [X], "io", 1, 5),
    "one input, squeezed": (
        lambda w, x: (x[:, :1] @ w.reshape(5)[None]), (1, 5), [X], "oo", 1, 5
    ),
    "transposed and turned": (
        lambda w, x: x @ -jnp.flip(w.transpose(2, 0, 1), 0)[None][0].reshape(6, -1),
        (2, 4, 6), [X], "ooi", 6, 8,
    ),
    "rolled": (lambda w, x: x @ jnp.roll(w, 1, 0), (6, 5), [X], "io", 6, 5),
    "masked": (
        lambda w, x: x @ jnp.where(jnp.tri(6, 5) > 0, w, 0.0), (6, 5), [X], "io", 6, 5
    ),
    "triangle": (lambda w, x: x @ jnp.tril(w), (6, 6), [X], "io", 6, 6),
    "padded": (
        lambda w, x: x @ jnp.pad(w, ((1, 0), (0, 3))), (5, 4), [X], "io", 5, 4
    ),
    "cropped by negative padding": (
        lambda w, x: x @ lax.pad(w, 0.0, [(-1, -1, 0), (0, 0, 0)]),
        (8, 4), [X], "io", 6, 4,
    ),
    "tiled": (lambda w, x: x @ jnp.tile(w, (2, 1)), (3, 4), [X], "io", 6, 4),
    "block diagonal": (
        lambda w, x: jnp.einsum("bgi,gio->bgo", x.reshape(2, 2, 3), w.reshape(2, 3, 5)),
        (6, 5), [X], "io", 3, 5,
    ),
    "product by hand": (
        lambda w, x: (x[:, :, None] * w).sum(1), (6, 5), [X], "io", 6, 5
    ),
    "state by hand": (
        lambda w, h: (h * w).sum(-1), (6, 5), [shaped(2, 6, 5)], "bi", 5, 1
    ),
    "scanned": (
        lambda w, x: loop(lambda x, w: jnp.tanh(x @ w), x, w),
        (3, 6, 6), [X], "bio", 6, 6,
    ),
    "indexed in a loop": (
        lambda w, x: lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w[i]), x),
        (3, 6, 6), [X], "bio", 6, 6,
    ),
    "indexed in an unbounded loop": (
        lambda w, x, n: lax.fori_loop(0, n, lambda i, x: x @ w, x),
        (6, 6), [X, ids()], "io", 6, 6,
    ),
    "stacked": (
        lambda w, x: jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]) @ w[2],
        (3, 6, 6), [X], "bio", 6, 6,
    ),
    "unstacked": (
        lambda w, x: x @ jnp.unstack(w)[0] @ jnp.unstack(w)[1],
        (2, 6, 6), [X], "bio", 6, 6,
    ),
    "chosen expert": (
        lambda w, i, x: jnp.einsum("bd,bdf->bf", x, w[i]),
        (7, 6, 5), [ids(2), X], "bio", 6, 5,
    ),
    "columns picked": (
        lambda w, x: x @ w[:, jnp.array([4, 1, 3])], (6, 5), [X], "io", 6, 3
    ),
    "rows permuted by axis": (
        lambda w, x: x @ jnp.take_along_axis(w, jnp.argsort(jnp.ones((6, 5)), 0), 0),
        (6, 5), [X], "io", 6, 5,
    ),
    "a row overwritten": (
        lambda w, x: x @ w.at[0].set(0.0), (6, 5), [X], "io", 6, 5
    ),
    "complex": (
        lambda w, x: (lax.complex(x, x) @ (w.astype(jnp.complex64) * 1.0j)).imag,
        (6, 5), [X], "io", 6, 5,
    ),
    "candidates looked up": (
        lambda w, x, i: jnp.einsum("bd,bsd->bs", x, w[i]),
        (9, 6), [X, ids(2, 3)], "bi", 6, 3,
    ),
    "chosen task": (lambda w, i, x: x @ w[i], (7, 6, 5), [ids(), X], "bio", 6, 5),
    "recurrent": (
        lambda w, x: loop(lambda h, x: jnp.tanh(x + h @ w), jnp.zeros((2, 6)), x),
        (6, 6), [shaped(4, 2, 6)], "io", 6, 6,
    ),
    "while": (
        lambda w, x: lax.while_loop(
            lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] @ w), (0, x)
        )[1],
        (6, 6), [X], "io", 6, 6,
    ),
    "remat": (
        lambda w, x: jax.checkpoint(lambda w, x: jnp.sin(x @ w))(w, x),
        (6, 5), [X], "io", 6, 5,
    ),
    "jit in vmap in jit": (
        jax.jit(lambda w, x: jax.vmap(jax.jit(jnp.dot), (0, None))(x, w)),
        (6, 5), [X], "io", 6, 5,
    ),
    "vmapped": (
        lambda w, x: jax.vmap(jnp.matmul)(x, w), (3, 6, 5), [shaped(3, 2, 6)],
        "bio", 6, 5,
    ),
    "vmapped twice, last": (
        lambda w, x: jax.vmap(jax.vmap(jnp.matmul, (0, 2)), (0, 3))(x, w),
        (6, 5, 2, 3), [shaped(3, 2, 4, 6)], "iobb", 6, 5,
    ),
    "its own gradient": (
        lambda w, x: jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w)))(x),
        (6, 5), [X], "io", 6, 5,
    ),
    "dropconnect": (
        lambda w, x, key: x @ (w * jax.random.rademacher(key, (6, 5), w.dtype)),
        (6, 5), [X, KEY], "io", 6, 5,
    ),
    "weight noise": (
        lambda w, x, key: x @ (w + jax.random.normal(key, (6, 5))),
        (6, 5), [X, KEY], "io", 6, 5,
    ),
    "standardised": (
        lambda w, x: x @ ((w - w.mean(0)) / jnp.sqrt(w.var(0) + 1e-5)),
        (6, 5), [X], "io", 6, 5,
    ),
    "spectral norm": (
        # The first product in order is with the columns, and only measures.
        lambda w, x, u: x @ (w / (u @ (w.T @ (w @ u)))),
        (6, 5), [X, shaped(5)], "io", 6, 5,
    ),
    "behind a barrier": (
        lambda w, x: x @ lax.optimization_barrier(lax.stop_gradient(2.0 * w)),
        (6, 5), [X], "io", 6, 5,
    ),
    "in float16, then softplus": (
        lambda w, x: x @ jax.nn.softplus(w.astype(jnp.float16)).astype(jnp.float32),
        (6, 5), [X], "io", 6, 5,
    ),
}  # fmt: skip

CONV = {
    "plain": (conv, {}, (3, 3, 6, 4), "wwio", 54, 36),
    "strided": (conv, {"strides": (2, 2)}, (3, 3, 6, 4), "wwio", 54, 9),
    "patches": (conv, {"strides": (4, 4)}, (4, 4, 6, 8), "wwio", 96, 8),
    "stride above the window": (conv, {"strides": (2, 2)}, (1, 1, 6, 4), "wwio", 6, 4),
    "one-sided stride": (conv, {"strides": (1, 3)}, (3, 3, 6, 4), "wwio", 54, 12),
    "transposed": (conv, {"lhs_dilation": (2, 2)}, (4, 4, 6, 8), "wwio", 24, 128),
    "dilated": (conv, {"rhs_dilation": (2, 2)}, (3, 3, 6, 4), "wwio", 54, 36),
    "grouped": (conv, {"feature_group_count": 3}, (3, 3, 2, 12), "wwio", 18, 36),
    "depthwise": (conv, {"feature_group_count": 6}, (3, 3, 1, 6), "wwio", 9, 9),
    "keras depthwise": (
        lambda x, w: conv(x, w.reshape(3, 3, 1, 12), feature_group_count=6),
        {}, (3, 3, 6, 2), "wwbo", 9, 18,
    ),
    "torch layout": (
        lambda x, w: conv(x, w.transpose(2, 3, 1, 0)), {}, (4, 6, 3, 3), "oiww", 54, 36
    ),
    "torch transposed": (
        lambda x, w: conv(x, jnp.flip(w, (2, 3)).transpose(2, 3, 0, 1)),
        {}, (6, 4, 3, 3), "ioww", 54, 36,
    ),
    "window joined with channels": (
        lambda x, w: conv(x, w.reshape(3, 3, 6, 4)), {}, (54, 4), "io", 54, 36
    ),
    "spatially separable": (
        lambda x, w: conv(x, w[:, None]), {}, (3, 6, 4), "wio", 18, 12
    ),
}  # fmt: skip


def check_kernel(layer, kind, shape, letters, fan_in, fan_out):
    assert layer.kind == kind, layer
    assert (roles(layer), layer.fan_in, layer.fan_out) == (letters, fan_in, fan_out)
    assert layer.shape == shape and layer.dtype == jnp.float32 and not layer.reason
    assert kernels([layer]) == [layer]


@pytest.mark.parametrize("name", DENSE)
def test_dense(name):
    apply, shape, inputs, *expected = DENSE[name]
    check_kernel(only(apply, shaped(*shape), *inputs), "dense", shape, *expected)


@pytest.mark.parametrize("name", CONV)
def test_conv(name):
    apply, options, shape, *expected = CONV[name]
    layer = only(lambda w, x: apply(x, w, **options), shaped(*shape), IMAGE)
    check_kernel(layer, "conv", shape, *expected)
    assert layer.stride == options.get("strides", (1, 1))
    assert layer.upsample == options.get("lhs_dilation", (1, 1))
    assert layer.dilation == options.get("rhs_dilation", (1, 1))
    assert layer.groups == options.get("feature_group_count", 1)


@pytest.mark.parametrize("name", CONV)
def test_vmapped_conv_has_a_batch_axis(name):
    apply, options, shape, letters, fan_in, fan_out = CONV[name]
    layer = only(
        lambda w, x: jax.vmap(lambda x, w: apply(x, w, **options))(x, w),
        shaped(5, *shape),
        shaped(5, 2, 8, 8, 6),
    )
    check_kernel(layer, "conv", (5, *shape), "b" + letters, fan_in, fan_out)
    scanned = only(
        lambda w, x: lax.map(lambda w: apply(x, w, **options), w),
        shaped(5, *shape),
        IMAGE,
    )
    check_kernel(scanned, "conv", (5, *shape), "b" + letters, fan_in, fan_out)


def test_ragged_experts():
    layer = only(
        lambda w, x, sizes: lax.ragged_dot(x, w, sizes), shaped(3, 6, 5), X, ids(3)
    )
    check_kernel(layer, "dense", (3, 6, 5), "bio", 6, 5)


EMBEDDINGS = {
    "lookup": (lambda w, i: w[i], (9, 4), [ids(2, 3)], "io", 4),
    "take": (lambda w, i: jnp.take(w, i, axis=1), (4, 9), [ids(2)], "oi", 4),
    "one row": (lambda w, i: w[i] * 2.0, (9, 4), [ids()], "io", 4),
    "one hot": (lambda w, i: jax.nn.one_hot(i, 9) @ w, (9, 4), [ids(2)], "io", 4),
    "positions": (lambda w, x: x + w[jnp.arange(2)], (9, 6), [X], "io", 6),
    "codebooks": (
        lambda w, i: w[jnp.arange(3), i], (3, 9, 4), [ids(2, 3)], "iio", 4
    ),
    "vmapped tables": (
        lambda w, i: jax.vmap(lambda w, i: w[i])(w, i), (5, 9, 4), [ids(5, 2)], "bio", 4
    ),
    "weighed by attention": (
        lambda w, x, i: jnp.einsum("bt,btd->bd", jax.nn.softmax(x), w[i]),
        (9, 4), [X, ids(2, 6)], "io", 4,
    ),
    "padding row": (lambda w, i: w.at[0].set(0.0)[i], (9, 4), [ids(2)], "io", 4),
    "class token": (
        lambda w, x: jnp.concatenate([jnp.broadcast_to(w, (1, 6)), x]),
        (6,), [X], "o", 6,
    ),
    "mask token": (lambda w, x: jnp.where(x > 0, x, w), (6,), [X], "o", 6),
    "first carry": (
        lambda w, x: loop(lambda h, x: jnp.tanh(h + x), w, x), (6,), [X], "o", 6
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(name):
    apply, shape, inputs, letters, fan_out = EMBEDDINGS[name]
    layer = only(apply, shaped(*shape), *inputs)
    assert layer.kind == "embedding" and not kernels([layer]), layer
    assert (roles(layer), layer.fan_in, layer.fan_out) == (letters, 1.0, fan_out)


def centre(x):
    return x - x.mean(-1, keepdims=True)


SCALE_AND_BIAS = {
    "product": ("scale", lambda p, x: x * p),
    "quotient": ("scale", lambda p, x: x / jnp.exp(p)),
    "before relu": ("scale", lambda p, x: jax.nn.relu(x * p) * 2.0),
    "before a mean": ("scale", lambda p, x: centre(x * p)),
    "sum": ("bias", lambda p, x: x + p),
    "difference": ("bias", lambda p, x: p - x),
    "broadcast": (
        "bias", lambda p, x: jnp.tanh(x + jnp.broadcast_to(p[None], x.shape))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALE_AND_BIAS)
def test_scale_and_bias(name):
    kind, apply = SCALE_AND_BIAS[name]
    layer = only(apply, shaped(6), X)
    assert (layer.kind, roles(layer)) == (kind, "o")
    assert (layer.fan_in, layer.fan_out, layer.uses) == (1.0, 1.0, 1)
    scanned = only(lambda p, x: loop(lambda x, p: apply(p, x), x, p), shaped(3, 6), X)
    assert (scanned.kind, roles(scanned)) == (kind, "bo")


def test_a_delay_line_carries_a_layer_to_its_end():
    def net(p, x):
        def step(line, x):
            return (jnp.tanh(x @ p["w"]), *line[:-1]), line[-1]

        return lax.scan(step, (jnp.zeros((2, 4)),) * 12, x)[1] @ p["o"]

    found = by_path(net, {"w": shaped(6, 4), "o": shaped(4, 3)}, shaped(3, 2, 6))
    assert found["w"].feeds == ("o",)
    assert (found["o"].kind, found["o"].activation_before) == ("dense", "tanh")


@pytest.mark.parametrize(("kind", "meet"), [("scale", jnp.multiply), ("bias", jnp.add)])
def test_a_leaf_that_meets_a_carry_of_zeros_is_used_once(kind, meet):
    def step(h, x, p):
        return meet(h, p["a"]) + x @ p["w"]

    found = by_path(
        lambda p, x: loop(lambda h, x: step(h, x, p), jnp.zeros((2, 4)), x),
        {"a": shaped(4), "w": shaped(6, 4)},
        shaped(3, 2, 6),
    )
    assert (found["a"].kind, found["a"].uses) == (kind, 1)
    assert (found["w"].kind, found["w"].fan_in) == ("dense", 6)


def test_scale_and_bias_tell_whose_output_they_meet():
    found = by_path(
        lambda p, x: p["g"] * (x @ p["w"] + p["b"]) + p["shift"],
        {"w": shaped(6, 4), "b": shaped(4), "g": shaped(), "shift": shaped(4)},
        X,
    )
    assert [found[k].acts_on for k in ("b", "g", "shift")] == [("w",)] * 3
    assert [found[k].kind for k in ("b", "g", "shift")] == ["bias", "scale", "bias"]


MIXED = "moved or mixed copy of itself"
UNKNOWN = {
    "symmetrised": (lambda w, x: x @ (w + w.T), MIXED),
    "polynomial": (lambda w, x: x @ (w + w @ w), MIXED),
    "partial sums added": (lambda w, x: x @ (w - jnp.cumsum(w, 0)), MIXED),
    "scanned by pairs": (lambda w, x: x @ lax.associative_scan(jnp.add, w), MIXED),
    "never used": (lambda w, x: x, "never used"),
    "returned": (lambda w, x: (x, w), "returned"),
    "summed": (lambda w, x: x * jnp.sum(w), "reduce_sum"),
    "cumulated": (lambda w, x: x @ jnp.cumsum(w, 0), "cumsum"),
    "sorted": (lambda w, x: x @ jnp.sort(w, 0), "sort"),
    "power": (lambda w, x: jnp.abs(x[:, :, None]) ** w, "pow"),
    "in and out": (
        lambda w, x: x.reshape(4, 3) @ w.reshape(12, 3).T, "in part and kept in part"
    ),
    "square": (lambda w, x: x @ (w @ w.T), "products with itself"),
    "times a constant": (lambda w, x: x @ (jnp.ones((6, 6)) @ w), "constant"),
    "circulant": (
        lambda w, x: x @ w[0][(jnp.arange(6)[:, None] + jnp.arange(6)) % 6],
        "in part and kept in part",
    ),
    "toeplitz": (
        lambda w, x: x @ jnp.stack([jnp.roll(w[0], k) for k in range(6)]),
        "repeated along what is summed over",
    ),
    "diagonal": (lambda w, x: x @ jnp.diag(w[0]), "repeated along what is"),
    "transformed": (
        lambda w, x: jnp.fft.ifft(jnp.fft.fft(x) * jnp.fft.fft(w[0])).real, "fft"
    ),
    "called back": (
        lambda w, x: jax.pure_callback(lambda w, x: x, X, w, x), "pure_callback"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_says_why(name):
    apply, reason = UNKNOWN[name]
    layer = only(apply, shaped(6, 6), X)
    assert layer.kind == "unknown" and reason in layer.reason, layer
    assert layer.reason[0].isupper() and layer.reason.endswith(".")
    assert math.isnan(layer.fan_in) and not kernels([layer])


PRODUCTS = {
    "matrix product": (lambda a, b: a @ b, (6, 2), (2, 5)),
    "entry by entry": (lambda a, b: a * jax.nn.sigmoid(b), (6, 5), (6, 5)),
    "outer product": (lambda a, b: a[:, None] * b, (6,), (5,)),
    "Kronecker product": (jnp.kron, (2, 5), (3, 1)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_product_of_two_parameters_is_not_guessed(name):
    product, a, b = PRODUCTS[name]
    found = by_path(
        lambda p, x: x @ product(p["a"], p["b"]), {"a": shaped(*a), "b": shaped(*b)}, X
    )
    for layer in found.values():
        assert layer.kind == "unknown" and "another parameter" in layer.reason


def test_sum_of_two_kernels_is_two_kernels():
    params = {"a": shaped(6, 5), "b": shaped(6, 5)}
    found = by_path(lambda p, x: x @ (p["a"] + p["b"]), params, X)
    assert all((roles(layer), layer.fan_in) == ("io", 6) for layer in found.values())


def test_parameter_repeated_over_examples_stands_for_activations():
    found = by_path(
        lambda p, x: jnp.broadcast_to(p["latent"], (2, 3, 6)) @ p["q"] @ (x @ p["k"]).T,
        {"latent": shaped(3, 6), "q": shaped(6, 4), "k": shaped(6, 4)},
        X,
    )
    assert found["latent"].kind == "embedding" and found["latent"].feeds == ("q",)
    assert roles(found["q"]) == roles(found["k"]) == "io"


def test_concatenated_leaves_keep_their_fans():
    def lstm(p, x):
        w = jnp.concatenate([p["i"], p["f"], p["g"]], axis=1)
        b = jnp.concatenate([p["bi"], p["bf"], p["bg"]])
        i, f, g = jnp.split(x @ w + b, 3, axis=-1)
        return jax.nn.sigmoid(i) * jnp.tanh(g) + f

    sizes = {"i": 4, "f": 4, "g": 4}
    params = {k: shaped(6, n) for k, n in sizes.items()}
    params |= {"b" + k: shaped(n) for k, n in sizes.items()}
    found = by_path(lstm, params, X)
    for gate, after in (("i", "sigmoid"), ("f", None), ("g", "tanh")):
        assert (roles(found[gate]), found[gate].fan_in, found[gate].fan_out) == (
            "io", 6, 4,
        )  # fmt: skip
        assert found[gate].activation_after == after
        assert found["b" + gate].kind == "bias"
        assert found["b" + gate].acts_on == (gate,)


def test_stacked_leaves():
    found = by_path(
        lambda p, x: jnp.einsum("bd,kdf->kbf", x, jnp.stack([p["k"], p["v"]])),
        {"k": shaped(6, 4), "v": shaped(6, 4)},
        X,
    )
    assert all((roles(v), v.fan_in, v.fan_out) == ("io", 6, 4) for v in found.values())


def test_slices_of_concatenated_leaves_find_their_leaf():
    found = by_path(
        lambda p, x: x @ jnp.concatenate([p["a"], p["b"]], 1)[:, 4:],
        {"a": shaped(6, 4), "b": shaped(6, 3)},
        X,
    )
    assert found["b"].kind == "dense" and found["a"].kind == "unknown"


def test_packed_projections_are_one_use():
    def attention(w, x):
        q, k, v = (x @ part for part in jnp.split(w, 3, axis=1))
        return jax.nn.softmax(q @ k.T) @ v

    layer = only(attention, shaped(6, 12), X)
    assert (roles(layer), layer.fan_in, layer.fan_out) == ("io", 6.0, 4.0)
    assert layer.uses == 1 and [use.fan_out for use in layer.other_uses] == [4.0, 4.0]


def test_tied_embedding():
    layer = only(lambda e, i: jnp.tanh(e[i]) @ e.T, shaped(9, 4), ids(2))
    assert (layer.kind, layer.uses, layer.activation_after) == ("embedding", 2, "tanh")
    (head,) = layer.other_uses
    assert (head.kind, head.in_axes, head.fan_in, head.fan_out) == ("dense", (1,), 4, 9)
    assert head.activation_before == "tanh"


@pytest.mark.parametrize("width", [6, 1])
def test_weight_normalisation_tells_gain_from_direction(width):
    def dense(p, x):
        norm = jnp.linalg.norm(p["v"], axis=0, keepdims=True)
        return x @ (p["g"] * p["v"] / norm) + p["b"]

    params = {"v": shaped(width, 5), "g": shaped(5), "b": shaped(5)}
    found = by_path(dense, params, shaped(2, width))
    assert {k: v.kind for k, v in found.items()} == {
        "g": "scale", "v": "dense", "b": "bias",
    }  # fmt: skip
    assert (roles(found["v"]), found["v"].fan_in) == ("io", width)


# name: the nonlinearity's name, and it.
ACTIVATIONS = {
    name: (name, function)
    for name, function in {
    "relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid, "softmax": jax.nn.softmax, "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu, "selu": jax.nn.selu, "softplus": jax.nn.softplus,
    "relu6": jax.nn.relu6, "mish": jax.nn.mish, "hard_silu": jax.nn.hard_swish,
    "log_softmax": jax.nn.log_softmax, "sin": jnp.sin, "abs": jnp.abs,
    "celu": jax.nn.celu,
    }.items()
}  # fmt: skip
ACTIVATIONS |= {
    "maximum": ("relu", lambda x: jnp.maximum(x, 0)),
    "maximum from the right": ("relu", lambda x: jnp.maximum(0.0, x)),
    "where": ("relu", lambda x: jnp.where(x > 0, x, 0.0)),
    "leaky where": ("leaky_relu", lambda x: jnp.where(x > 0, x, 0.01 * x)),
    "leaky maximum": ("leaky_relu", lambda x: jnp.maximum(x, 0.1 * x)),
    "elu where": ("elu", lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1)),
    "silu": ("silu", lambda x: x * jax.nn.sigmoid(x)),
    "quick gelu": ("silu", lambda x: x * jax.nn.sigmoid(1.702 * x)),
    "tanh gelu": (
        "gelu",
        lambda x: 0.5 * x * (1 + jnp.tanh(0.8 * (x + 0.0447 * x**3))),
    ),
    "erf gelu": ("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
    "clip": ("relu6", lambda x: jnp.clip(x, 0, 6)),
    "softmax by hand": (
        "softmax",
        lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True),
    ),
    "square of relu": ("squared_relu", lambda x: jax.nn.relu(x) ** 2),
    "scaled tanh": (
        "tanh",
        lambda x: 1.7 * jnp.tanh(2 * x / 3).astype(jnp.float16).astype(x.dtype),
    ),
    "affine": (None, lambda x: 2 * x + 1),
    "normalised": (
        None,
        lambda x: (x - x.mean()) / jnp.sqrt(jnp.maximum(x.var(), 0) + 1e-6),
    ),
    "relu normalised": ("relu", lambda x: jax.nn.standardize(jax.nn.relu(x))),
    "divided by its norm": (None, lambda x: x / jnp.maximum(jnp.linalg.norm(x), 1e-6)),
    "square": ("squared_relu", lambda x: jnp.square(jax.nn.relu(x))),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activations(case):
    name, function = ACTIVATIONS[case]

    def net(p, x):
        return function((x @ p["a"] + p["bias"]).reshape(2, 5)) @ p["b"]

    params = {"a": shaped(6, 5), "bias": shaped(5), "b": shaped(5, 4)}
    found = by_path(net, params, X)
    assert found["a"].activation_after == name
    assert found["b"].activation_before == name
    assert found["a"].activation_before is found["b"].activation_after is None
    assert found["a"].feeds == ("b",) and found["b"].feeds == ()


def test_gates_let_the_activation_through():
    def net(p, x):
        h = jax.nn.silu(x @ p["gate"]) * (x @ p["up"])
        return jax.nn.sigmoid(h @ p["z"]) * jnp.tanh(h @ p["down"]) @ p["out"]

    params = {"gate": (6, 5), "up": (6, 5), "z": (5, 4), "down": (5, 4), "out": (4, 4)}
    found = by_path(net, {k: shaped(*v) for k, v in params.items()}, X)
    assert found["gate"].activation_after == "silu"
    assert found["up"].activation_after is None
    assert found["down"].activation_before == "silu"
    assert found["out"].activation_before == "tanh"


def test_residual_branches():
    def block(p, x, skip=None):
        return (x if skip is None else skip) + jax.nn.relu(x @ p["a"]) @ p["b"]

    names = ("a", "b")
    square = {k: shaped(6, 6) for k in names}
    found = by_path(block, square, X)
    assert [found[k].residual for k in names] == [False, True]
    stacked = {k: shaped(3, 6, 6) for k in names}
    found = by_path(lambda p, x: loop(lambda x, p: block(p, x), x, p), stacked, X)
    assert [found[k].residual for k in names] == [False, True]
    params = {**square, "skip": shaped(6, 6)}
    projected = by_path(lambda p, x: block(p, x, x @ p["skip"]), params, X)
    assert [projected[k].residual for k in params] == [False, True, False]


@pytest.mark.parametrize("name", ["elman", "lstm"])
def test_recurrences_are_no_residual_branches(name):
    def elman(p, x):
        step = lambda h, x: jnp.tanh(x @ p["i"] + h @ p["h"])  # noqa: E731
        return loop(step, jnp.zeros((2, 4)), x)

    def lstm(p, x):
        def step(carry, x):
            c, h = carry
            new = jax.nn.sigmoid(c) * c + jnp.tanh(x @ p["i"] + h @ p["h"])
            return new, jax.nn.sigmoid(x @ p["i"]) * jnp.tanh(new)

        return loop(step, (jnp.zeros((2, 4)), jnp.zeros((2, 4))), x)[1]

    apply = {"elman": elman, "lstm": lstm}[name]
    found = by_path(apply, {"i": shaped(6, 4), "h": shaped(4, 4)}, shaped(3, 2, 6))
    assert not found["h"].residual and not found["i"].residual
    assert found["h"].feeds == ("h",) and found["h"].activation_before == "tanh"


def test_every_branch_of_a_cond_is_read():
    def net(p, x):
        branches = [lambda x: x @ p["a"], lambda x: jnp.tanh(x @ p["b"])]
        return lax.switch(x.sum().astype(int), branches, x) @ p["c"]

    params = {"a": shaped(6, 5), "b": shaped(6, 5), "c": shaped(5, 4)}
    found = by_path(net, params, X)
    assert [found[k].feeds for k in params] == [("c",), ("c",), ()]
    assert all(roles(layer) == "io" for layer in found.values())


def test_custom_derivatives():
    @jax.custom_vjp
    def dense(w, x):
        return x @ w

    dense.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (r[1].T @ g, g @ r[0].T))
    assert roles(only(dense, shaped(6, 5), X)) == "io"

    @jax.custom_jvp
    def scaled(w, x):
        return 2 * x @ w

    scaled.defjvp(lambda p, t: (scaled(*p), scaled(p[0], t[1]) + scaled(t[0], p[1])))
    assert roles(only(scaled, shaped(6, 5), X)) == "io"


def rematerialised(w, x):
    @jax.custom_vjp
    def dense(w, x):
        return x @ w

    forward = lambda w, x: (dense(w, x), (w, x))  # noqa: E731
    backward = lambda r, g: (r[1].T @ g, g @ r[0].T)  # noqa: E731
    dense.defvjp(forward, backward, optimize_remat=True)
    return jax.grad(lambda x: dense(w, x).sum())(x)


def batched_by_hand(w, x):
    dense = jax.custom_batching.custom_vmap(jnp.dot)
    dense.def_vmap(lambda size, batched, x, w: (jnp.dot(x, w), True))
    return dense(x, w)


CALLS = {
    "custom_vmap": batched_by_hand,
    "composite": lambda w, x: lax.composite(jnp.dot, "test.dot")(x, w),
    "custom_vjp with remat": rematerialised,
    "switch": lambda w, x: lax.switch(x[0, 0].astype(int), [jnp.dot] * 2, x, w),
    "map in batches": lambda w, x: lax.map(lambda x: x @ w, x, batch_size=2),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    layer = only(CALLS[name], shaped(6, 5), X)
    assert (layer.kind, roles(layer), layer.fan_in) == ("dense", "io", 6), layer


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shard_map_counts_the_whole_axis(kind):
    # One device is enough for a trace: an abstract mesh has no devices at all.
    mesh = jax.sharding.AbstractMesh((4,), ("d",), (kind,))

    def row(w, x):
        return lax.psum(x @ w, "d")

    def gathered(w, x):
        return x @ lax.all_gather(w, "d", axis=0, tiled=True)

    for inner, specs in (
        (row, (P("d"), P(None, "d"))),
        (lambda w, x: x @ w, (P(None, "d"), P())),
        (gathered, (P("d"), P("d"))),
    ):
        columns = specs[0] == P(None, "d")
        spec = P(None, "d") if columns else specs[1] if inner is gathered else P()
        apply = jax.shard_map(
            inner, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False
        )
        # Over Explicit axes an operand must come in the sharding that is asked for.
        operands = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
            for shape, spec in zip([(8, 16), (4, 8)], specs, strict=True)
        ]
        with jax.sharding.use_abstract_mesh(mesh):
            layer = only(apply, *operands)
        assert (roles(layer), layer.fan_in, layer.fan_out) == ("io", 8, 16)


def test_closed_over_arrays_count_as_inputs_when_there_are_none():
    x = np.ones((2, 6), np.float32)
    layer = only(lambda w: jnp.tanh(x @ w), shaped(6, 5))
    assert (layer.kind, roles(layer), layer.activation_after) == ("dense", "io", "tanh")


def test_order_paths_and_static_leaves():
    params = {"late": [shaped(5, 4)], "early": shaped(6, 5), "act": jnp.tanh, "n": 3}
    found = layers(
        lambda p, x, double: p["act"](x @ p["early"]) @ p["late"][0] * (1 + double),
        params,
        X,
        True,
    )
    assert [layer.path for layer in found] == ["early", "late/0"]
    assert len({layer.path for layer in found}) == 2
    with pytest.raises(TypeError, match="holds no arrays"):
        layers(lambda p: p, {"act": jnp.tanh})


def test_nothing_is_allocated_or_computed():
    huge = shaped(10**7, 10**7)
    layer = only(lambda w, x: x @ w, huge, shaped(1, 10**7))
    assert layer.fan_in == 1e7
    concrete = only(lambda w, x: x @ w, jnp.ones((6, 5)), jnp.ones((2, 6)))
    assert roles(concrete) == "io"


def test_layer_is_a_frozen_record():
    layer = only(lambda w, x: x @ w, shaped(6, 5), X)
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.kind = "conv"  # pyright: ignore
    for record in (Layer, *Layer.__bases__):
        for field in dataclasses.fields(record):
            assert f"{field.name}:" in "".join(c.__doc__ or "" for c in record.__mro__)


# --- views against brute force -------------------------------------------------------


def random_layout(rng, shape):
    """A random composition of layout operations on an array of this shape."""
    steps = []
    size = math.prod(shape)
    rank = len(shape)
    for _ in range(4):
        kind = rng.integers(5)
        if kind == 0:
            order = tuple(int(k) for k in rng.permutation(rank))
            steps.append(lambda a, order=order: a.transpose(order))
        elif kind == 1:
            left, new = size, []
            while left > 1 and len(new) < 4:
                divisors = [d for d in range(2, left + 1) if left % d == 0]
                new.append(int(rng.choice(divisors)))
                left //= new[-1]
            new.insert(int(rng.integers(len(new) + 1)), left)
            rank = len(new)
            steps.append(lambda a, new=tuple(new): a.reshape(new))
        elif kind == 2:
            axis = int(rng.integers(rank))
            steps.append(lambda a, axis=axis: jnp.flip(a, axis))
        elif kind == 3:
            rank += 1
            steps.append(lambda a: a[..., None])
        else:
            rank += 1
            size *= 2
            steps.append(lambda a: jnp.broadcast_to(a, (2, *a.shape)))

    def layout(a):
        for step in steps:
            a = step(a)
        return a

    return layout


@pytest.mark.parametrize("seed", range(60))
def test_factors_say_which_leaf_axes_a_dimension_runs_along(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 6], size=3))
    layout = random_layout(rng, shape)
    jaxpr = jax.make_jaxpr(layout)(shaped(*shape)).jaxpr
    (value,) = Trace([shape]).run(jaxpr, [Value((whole_leaf(0, shape),))])
    (view,) = value.views
    coordinates = [np.asarray(layout(c)) for c in np.indices(shape)]
    assert [dim.size for dim in view.dims] == list(coordinates[0].shape)
    for place, dim in enumerate(view.dims):
        assert dim.length == dim.size
        told = {a for factor in dim.factors if factor.size > 1 for a in factor.axes}
        moves = {
            axis
            for axis, c in enumerate(coordinates)
            if (np.diff(c, axis=place) != 0).any()
        }
        # A factor that mixes axes may name one that happens to stand still.
        assert moves <= told
        if all(len(factor.axes) < 2 for factor in dim.factors):
            assert moves == told


def test_outputs_are_those_of_the_kernels():
    from jaxinit.trace import outputs

    @jax.jit
    def inner(w, x):
        return jax.nn.relu(x @ w)  # a custom derivative within a call

    def apply(params, x):
        x = jax.checkpoint(inner)(params["a"], x)
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])[0]
        return x @ params["b"] + params["bias"]

    key = jax.random.key(0)
    params = {
        "a": jax.random.normal(key, (4, 6)),
        "stack": jax.random.normal(key, (3, 6, 6)),
        "b": jax.random.normal(key, (6, 2)),
        "bias": jnp.ones(2),
    }
    x = jax.random.normal(key, (5, 4))
    for evaluate in (outputs, jax.jit(outputs, static_argnums=0)):
        seen = evaluate(apply, params, x)
        assert set(seen) == {"a", "stack", "b"}
        assert seen["stack"].shape == (3, 5, 6)  # a scan is a leading axis
        np.testing.assert_allclose(seen["a"], x @ params["a"], rtol=1e-5)
        np.testing.assert_allclose(
            seen["b"] + params["bias"], apply(params, x), rtol=1e-5
        )
