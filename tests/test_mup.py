"""muP against the rules of the mup package and of CompleteP, leaf by leaf."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import optax
import pytest

import jaxinit as ji
from jaxinit import tree
from jaxinit.tree.schemes.mup_rules import _is_called_query, queries_of, within_branches

KEY = jax.random.key(0)
TOKENS = jnp.arange(16).reshape(2, 8)


def normal(seed, *shape, std=1.0):
    return std * jax.random.normal(jax.random.key(seed), shape)


def abstract(tree_of_shapes):
    make = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    return jax.tree.map(make, tree_of_shapes, is_leaf=lambda x: isinstance(x, tuple))


def drawn(scheme, params, apply, *inputs):
    return ji.reinit(jax.random.key(1), params, scheme, apply, inputs)


# ---- the package `mup`, optim.py and layer.py ------------------------------------


def perceptron(first, second):
    """A perceptron of biases as torch and Equinox have them, within 1 / sqrt(in)."""
    sizes = {"input": (8, first), "hidden": (first, second), "readout": (second, 4)}
    params = {}
    for k, (name, (inputs, outputs)) in enumerate(sizes.items()):
        bias = inputs**-0.5 * jax.random.uniform(
            jax.random.key(k), (outputs,), minval=-1.0, maxval=1.0
        )
        params[name] = {"w": jnp.ones((inputs, outputs)), "b": bias}
    return params


def run_perceptron(p, x):
    for name in ("input", "hidden"):
        x = jnp.tanh(x @ p[name]["w"] + p[name]["b"][None])
    return x @ p["readout"]["w"] + p["readout"]["b"][None]


def package(growth, optimizer, readout):
    """Learning rate and weight decay of a leaf whose axes grow by these factors.

    Matrix-like leaves are those with two growing axes, (out, in) in torch, here (in,
    out); vector-like ones have one. A readout's input is divided by the width ratio m
    in the package's model, here its kernel is: then Adam's rate is divided by m, SGD's
    by m squared, and the decay multiplied with the same.
    """
    wide = [m for m in growth if m != 1]
    rate, decay = 1.0, 1.0
    if len(wide) == 2:
        factor = growth[0] if optimizer == "adam" else growth[0] / growth[1]
        rate, decay = rate / factor, decay * factor
    elif wide and optimizer == "sgd":
        rate, decay = rate * wide[0], decay / wide[0]
    if readout:
        factor = wide[0] if optimizer == "adam" else wide[0] ** 2
        rate, decay = rate / factor, decay * factor
    return rate, decay


# Each leaf's growth from widths (64, 64) to (256, 128).
GROWTH = {
    "input/w": (1, 4),
    "input/b": (4,),
    "hidden/w": (4, 2),
    "hidden/b": (2,),
    "readout/w": (2, 1),
    "readout/b": (1,),
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_rates_of_a_perceptron_are_the_packages(optimizer):
    scheme = tree.mup(perceptron(64, 64), optimizer=optimizer)
    x = jnp.ones((1, 8))
    found = scheme.multipliers(perceptron(256, 128), run_perceptron, (x,))
    for path, growth in GROWTH.items():
        layer, leaf = path.split("/")
        ours = found[layer][leaf]
        expected = package(growth, optimizer, path == "readout/w")
        assert (ours.learning_rate, ours.weight_decay) == expected, path
    same = scheme.multipliers(perceptron(64, 64), run_perceptron, (x,))
    assert set(jax.tree.leaves(same)) == {1.0}


# Standard deviation at the base, of kernels (8, 64), (64, 64) and (64, 4).
SCHEMES = {
    ji.lecun_normal(): (8**-0.5, 1 / 8, 1 / 8),
    ji.glorot_uniform(): ((2 / 72) ** 0.5, (2 / 128) ** 0.5, (2 / 68) ** 0.5),
    ji.variance_scaling(2.0, "fan_out", "normal"): (32**-0.5, 32**-0.5, 2**-0.5),
    ji.normal(0.02): (0.02, 0.02, 0.02),
    ji.scaled(ji.truncated_normal(0.1), 0.5): (0.044, 0.044, 0.044),
    ji.he_normal(fan=50): (0.2, 0.2, 0.2),
}


@pytest.mark.parametrize("init", SCHEMES, ids=repr)
def test_deviations_are_the_bases_over_the_growth(init):
    scheme = tree.mup(perceptron(64, 64), scheme=init, zero_readout=False)
    x = jnp.ones((1, 8))
    for widths, factors in (
        ((64, 64), (1, 1, 1)),
        ((2048, 1024), (1, 32**-0.5, 1 / 16)),
        ((128, 4096), (1, 2**-0.5, 1 / 64)),
    ):
        after = drawn(scheme, perceptron(*widths), run_perceptron, x)
        pairs = zip(("input", "hidden", "readout"), SCHEMES[init], factors, strict=True)
        for name, std, factor in pairs:
            w = after[name]["w"]
            error = 5 / (2 * w.size) ** 0.5
            assert float(w.std()) == pytest.approx(std * factor, rel=error), name


def test_isometries_are_drawn_as_they_are():
    scheme = tree.mup(perceptron(64, 64), scheme=ji.orthogonal(), zero_readout=False)
    after = drawn(scheme, perceptron(128, 128), run_perceptron, jnp.ones((1, 8)))
    w = after["hidden"]["w"]
    np.testing.assert_allclose(w.T @ w, np.eye(128), atol=1e-5)
    readout = after["readout"]["w"]
    np.testing.assert_allclose(readout.T @ readout, np.eye(4) / 2, atol=1e-5)


def test_biases_within_the_root_of_the_fan_in_keep_the_bases_size():
    scheme = tree.mup(perceptron(64, 64))
    before, x = perceptron(4096, 1024), jnp.ones((1, 8))
    after = drawn(scheme, before, run_perceptron, x)
    assert after["input"]["b"] is before["input"]["b"]  # its fan-in does not grow
    for name, growth in (("hidden", 64), ("readout", 16)):
        std = float(before[name]["b"].std()) * growth**0.5
        assert float(after[name]["b"].std()) == pytest.approx(std, rel=0.2), name
    again = drawn(scheme, after, run_perceptron, x)
    for name in after:
        np.testing.assert_array_equal(again[name]["b"], after[name]["b"])


@pytest.mark.parametrize(
    "bias",
    [jnp.zeros(1024), jnp.full(1024, 1 / 64), normal(0, 1024), normal(0, 1024) * 1e-6],
    ids=["zero", "constant", "large", "tiny"],
)
def test_other_biases_stay(bias):
    params = perceptron(4096, 1024)
    params["hidden"]["b"] = bias
    after = drawn(
        tree.mup(perceptron(64, 64)), params, run_perceptron, jnp.ones((1, 8))
    )
    np.testing.assert_array_equal(after["hidden"]["b"], bias)


def test_biases_of_recurrent_cells_keep_the_bases_size():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        first: eqx.nn.LSTMCell
        second: eqx.nn.GRUCell
        head: eqx.nn.Linear

        def __init__(self, width, key):
            keys = jax.random.split(key, 3)
            self.first = eqx.nn.LSTMCell(8, width, key=keys[0])
            self.second = eqx.nn.GRUCell(width, width, key=keys[1])
            self.head = eqx.nn.Linear(width, 50, key=keys[2])

        def __call__(self, series):
            def step(carry, x):
                (h, c), g = carry
                h, c = self.first(x, (h, c))
                return ((h, c), self.second(h, g)), None

            zero = jnp.zeros(self.first.hidden_size)
            (_, g), _ = jax.lax.scan(step, ((zero, zero), zero), series)
            return self.head(g)

    scheme = tree.mup(eqx.filter(Net(64, KEY), eqx.is_array))
    for width in (64, 512):
        make = lambda key: Net(width, key)  # noqa: B023, E731
        net = ji.init(make, KEY, jnp.ones((2, 5, 8)), scheme=scheme)
        for bias in (net.first.bias, net.second.bias, net.second.bias_n, net.head.bias):
            assert float(bias.std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.25)


# ---- embeddings ------------------------------------------------------------------


def bag(width, std=None):
    """The mean of looked-up words, two layers and a readout."""
    params = {
        "words": normal(0, 300, width, std=width**-0.5 if std is None else std),
        "hidden": jnp.ones((width, width)),
        "readout": jnp.ones((width, 4)),
    }

    def apply(p, tokens):
        x = jnp.tanh(p["words"][tokens].mean(axis=1) @ p["hidden"])
        return x @ p["readout"]

    return params, apply


@pytest.mark.parametrize(
    ("std", "expected"), [(None, 1 / 8), (0.02, 0.02), (1.0, 1.0), (0.0, 0.0)]
)
def test_embeddings_have_the_bases_deviation(std, expected):
    scheme = tree.mup(bag(64)[0])
    for width in (64, 256, 2048):
        params, apply = bag(width, std)
        after = drawn(scheme, params, apply, TOKENS)
        assert float(after["words"].std()) == pytest.approx(expected, rel=0.02)
        again = drawn(scheme, after, apply, TOKENS)
        np.testing.assert_array_equal(after["words"], again["words"])


def test_a_table_of_integers_stays():
    params, apply = bag(64)
    base, _ = bag(32)
    params["words"] = jnp.ones((300, 64), jnp.int8)
    cast = lambda p, x: apply({**p, "words": p["words"].astype(float)}, x)  # noqa: E731
    after = drawn(tree.mup(base), params, cast, TOKENS)
    assert after["words"] is params["words"]


def test_the_default_of_flax_is_found():
    for width in (64, 1024):
        model = nets.GPT(layers=1, width=width, tied=False)
        scheme = tree.mup(shapes_of(nets.GPT(layers=1, width=64, tied=False)))
        with jax.numpy_rank_promotion("allow"):
            params = ji.init(model, KEY, TOKENS, scheme=scheme)["params"]
        for name in ("embed", "places"):
            std = float(params[name]["embedding"].std())
            assert std == pytest.approx(1 / 8, rel=0.1), (name, width)


def test_a_base_of_variables_or_of_parameters():
    model = nets.GPT(layers=1, width=64, tied=False)
    base = shapes_of(nets.GPT(layers=1, width=32, tied=False))
    with jax.numpy_rank_promotion("allow"):
        made = [
            ji.init(model, KEY, TOKENS, scheme=tree.mup(each))
            for each in (base, {"params": base})
        ]
    jax.tree.map(np.testing.assert_array_equal, *made)


def test_coordinates_hold_behind_an_embedding():
    tokens = jax.random.randint(jax.random.key(3), (32, 4), 0, 300)
    with jax.numpy_dtype_promotion("standard"):
        check = tree.coordinate_check(
            bag, (64, 256, 1024), (tokens,), tree.mup(bag(64)[0]), steps=3
        )
    slopes = check.slopes()
    assert abs(slopes["hidden"]).max() < 0.1  # -.49 where the words shrink
    assert abs(slopes["readout"][2:]).max() < 0.15


# ---- CompleteP -------------------------------------------------------------------


def shapes_of(model):
    with jax.numpy_rank_promotion("allow"):
        return jax.eval_shape(model.init, KEY, TOKENS)["params"]


def run_gpt(model):
    def apply(params, tokens):
        with jax.numpy_rank_promotion("allow"):
            return model.apply({"params": params}, tokens)

    return apply


M, D = 4.0, 3.0  # the growth of width and of depth


def reference(alpha):
    """Rate, epsilon and decay in EleutherAI/nanoGPT-mup, `configure_optimizers`.

    There the model divides branches by D**alpha, scores by the head size in place of
    its root, and logits by M. Here the kernels bear these factors s, so that the rate
    is multiplied with s, epsilon and decay are divided by it. Leaves that the
    reference does not decay have no decay in the table.
    """
    depth = D ** (alpha - 1)
    inner, outer = M**-1 * D**-alpha, M**-1
    groups = {
        "embedding": (1.0, outer, 1.0),
        "norm": (depth, inner, None),
        "weight": (depth / M, inner, M),
        "bias": (depth, inner, None),
        "last norm": (1.0, outer, None),
    }
    end, query, logits = D**-alpha, M**-0.5, 1 / M
    rows = {
        "embed/embedding": ("embedding", 1.0),
        "places/embedding": ("embedding", 1.0),
        "last_norm/scale": ("last norm", 1.0),
        "last_norm/bias": ("last norm", 1.0),
        "readout/kernel": ("embedding", logits),
    }
    for block in ("block_0", "block_5"):
        for norm in ("LayerNorm_0", "LayerNorm_1"):
            rows[f"{block}/{norm}/scale"] = rows[f"{block}/{norm}/bias"] = ("norm", 1.0)
        for layer, factor in (
            ("attention/query", query),
            ("attention/key", 1.0),
            ("attention/value", 1.0),
            ("attention/out", end),
            ("up", 1.0),
            ("down", end),
        ):
            rows[f"{block}/{layer}/kernel"] = ("weight", factor)
            rows[f"{block}/{layer}/bias"] = ("bias", factor)
    table = {}
    for path, (group, factor) in rows.items():
        rate, epsilon, decay = groups[group]
        decay = None if decay is None else decay / factor
        table[path] = (rate * factor, epsilon / factor, decay)
    return table


def multipliers(scheme, model):
    found = scheme.multipliers(shapes_of(model), run_gpt(model), (TOKENS,))
    is_leaf = lambda x: isinstance(x, tree.Multipliers)  # noqa: E731
    flat, _ = jax.tree_util.tree_flatten_with_path(found, is_leaf=is_leaf)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): m for p, m in flat}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("depth", "alpha"), [("complete", 1.0), ("sqrt", 0.5)])
def test_multipliers_of_a_transformer_are_those_of_completep(depth, alpha, scan):
    make = lambda layers, width: nets.GPT(  # noqa: E731
        layers=layers, width=width, scan=scan, tied=False
    )
    scheme = tree.mup(shapes_of(make(2, 32)), depth=depth, base_depth=4)
    found = multipliers(scheme, make(6, 128))
    for path, (rate, epsilon, decay) in reference(alpha).items():
        if scan and "block_5" in path:
            continue  # all blocks are one leaf
        ours = found[path.replace("block_0", "blocks") if scan else path]
        assert ours.learning_rate == pytest.approx(rate), path
        assert ours.epsilon == pytest.approx(epsilon), path
        if decay is not None:
            assert ours.weight_decay == pytest.approx(decay), path


@pytest.mark.parametrize(("depth", "alpha"), [("complete", 1.0), ("sqrt", 0.5)])
def test_deviations_of_a_transformer_are_those_of_completep(depth, alpha):
    model = nets.GPT(layers=6, width=128, tied=False)
    scheme = tree.mup(
        shapes_of(nets.GPT(layers=2, width=32, tied=False)),
        scheme=ji.normal(0.02),
        depth=depth,
        base_depth=4,
        zero_readout=False,
        zero_query=False,
    )
    apply = run_gpt(model)
    chosen = scheme.choose(ji.trace.layers(apply, shapes_of(model), TOKENS))
    hidden, end = 0.02 * M**-0.5, 0.02 * M**-0.5 * D**-alpha
    for path, std in {
        "block_3/attention/query/kernel": hidden * M**-0.5,
        "block_3/attention/key/kernel": hidden,
        "block_3/attention/value/kernel": hidden,
        "block_3/attention/out/kernel": end,
        "block_3/up/kernel": hidden,
        "block_3/down/kernel": end,
        "readout/kernel": 0.02 / M,
    }.items():
        w = chosen[path](jax.random.key(2), (400, 400))
        assert float(w.std()) == pytest.approx(std, rel=0.01), path


def rms_norm(scale, x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def stream(p, x):
    """A stream with a norm of its own and positions before the first branch."""
    x = rms_norm(p["stem_norm"][None, None], x @ p["stem"]) + p["places"][None]
    y = rms_norm(p["norm"][None, None], x)
    x = x + jax.nn.relu(y @ p["up"]) * p["middle"][None, None] @ p["down"]
    x = x + rms_norm(p["after"][None, None], x @ p["single"])
    return rms_norm(p["last"][None, None], x) @ p["head"]


STREAM = {
    **dict.fromkeys(("stem_norm", "norm", "after", "last"), (8,)),
    **dict.fromkeys(("stem", "single"), (8, 8)),
    **{"places": (5, 8), "up": (8, 32), "middle": (32,), "down": (32, 8)},
    "head": (8, 3),
}


def test_which_leaves_are_within_branches():
    layers = ji.trace.layers(stream, abstract(STREAM), jnp.ones((2, 5, 8)))
    assert within_branches(tree.Structure(layers)) == {
        *("norm", "up", "middle", "down", "single", "after")
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scan", [True, False])
def test_norms_of_a_transformer_that_are_within_branches(tied, scan):
    model = nets.GPT(layers=2, width=8, tied=tied, scan=scan)
    found = ji.trace.layers(run_gpt(model), shapes_of(model), TOKENS)
    inside = within_branches(tree.Structure(found))
    names = ["blocks"] if scan else ["block_0", "block_1"]
    assert {path for path in inside if "orm" in path} == {
        f"{name}/LayerNorm_{k}/{leaf}"
        for name in names
        for k in range(2)
        for leaf in ("scale", "bias")
    }


def test_positions_before_a_branch_without_norm_are_outside():
    def apply(p, x):
        x = x @ p["stem"] + p["places"][None]
        return (x + jax.nn.relu(x @ p["up"]) @ p["down"]) @ p["head"]

    names = {"stem": (8, 8), "places": (5, 8), "up": (8, 32), "down": (32, 8)}
    shapes = abstract({**names, "head": (8, 3)})
    layers = ji.trace.layers(apply, shapes, jnp.ones((2, 5, 8)))
    assert within_branches(tree.Structure(layers)) == {"up", "down"}


def test_a_norm_of_the_models_input_opens_its_first_branch():
    def apply(p, x):
        x = x + p["shift"][None]
        y = rms_norm(p["norm"][None], x)
        return (x + jax.nn.relu(y @ p["up"]) @ p["down"]) @ p["head"]

    names = {"shift": (8,), "norm": (8,), "up": (8, 32), "down": (32, 8)}
    shapes = abstract({**names, "head": (8, 3)})
    layers = ji.trace.layers(apply, shapes, jnp.ones((2, 8)))
    assert within_branches(tree.Structure(layers)) == {"norm", "up", "down"}


def test_the_last_norm_of_an_encoder_is_outside():
    names = ("q", "k", "v", "o", "cq", "ck", "cv", "co")
    shapes = {
        **dict.fromkeys((*names, "source", "target"), (8, 8)),
        **dict.fromkeys(("norm", "encoder_norm", "cross_norm", "last"), (8,)),
        "head": (8, 3),
    }

    def attention(p, names, x, memory):
        q, k, v, o = (p[name] for name in names)
        scores = jnp.einsum("bqd,bkd->bqk", x @ q, memory @ k)
        return jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores), memory @ v) @ o

    def apply(p, source, target):
        norm = lambda name, x: rms_norm(p[name][None, None], x)  # noqa: E731
        source, target = source @ p["source"], target @ p["target"]
        y = norm("norm", source)
        memory = norm("encoder_norm", source + attention(p, names[:4], y, y))
        y = norm("cross_norm", target)
        x = target + attention(p, names[4:], y, memory)
        return norm("last", x) @ p["head"]

    x = jnp.ones((2, 5, 8))
    layers = ji.trace.layers(apply, abstract(shapes), x, x)
    inside = within_branches(tree.Structure(layers))
    assert inside >= {"norm", "q", "k", "v", "o"}
    assert not inside & {"encoder_norm", "last", "head"}


# ---- 1/d attention ---------------------------------------------------------------


def attend(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


def heads_of(x, heads):
    return x.reshape(*x.shape[:-1], heads, -1)


def separate(order, flat=False):
    """Attention whose projections are made in this order, flat ones split after."""

    def make(width, heads):
        shape = (width, width) if flat else (width, heads, width // heads)
        params = {name: jnp.ones(shape) for name in order}
        params |= {
            f"{name}_bias": width**-0.5
            * jax.random.uniform(KEY, shape[1:], minval=-1, maxval=1)
            for name in order
        }
        params["out"] = jnp.ones((width, width))

        def apply(p, x):
            made = {}
            for name in order:
                bias = p[f"{name}_bias"]
                y = jnp.tensordot(x, p[name], axes=1) + bias[(None,) * 2]
                made[name] = heads_of(y, heads) if flat else y
            q, k, v = (made[name] for name in sorted(order, key=ROLES.index))
            return x + attend(q, k, v).reshape(x.shape) @ p["out"]

        return params, apply

    return make


ROLES = ["query", "wq", "a", "key", "wk", "b", "value", "wv", "c"]


def packed(width, heads):
    params = {"qkv": jnp.ones((width, 3 * width)), "out": jnp.ones((width, width))}

    def apply(p, x):
        q, k, v = jnp.split(x @ p["qkv"], 3, axis=-1)
        made = attend(*(heads_of(y, heads) for y in (q, k, v)))
        return x + made.reshape(x.shape) @ p["out"]

    return params, apply


def packed_heads(width, heads):
    params = {
        "qkv": jnp.ones((width, 3, heads, width // heads)),
        "out": jnp.ones((width, width)),
    }

    def apply(p, x):
        qkv = jnp.einsum("btd,dnhk->nbthk", x, p["qkv"])
        return x + attend(*qkv).reshape(x.shape) @ p["out"]

    return params, apply


def pair_of_keys_and_values(width, heads):
    params = {
        "kv": jnp.ones((width, 2 * width)),
        "q": jnp.ones((width, width)),
        "out": jnp.ones((width, width)),
    }

    def apply(p, x):
        k, v = jnp.split(x @ p["kv"], 2, axis=-1)
        made = attend(*(heads_of(y, heads) for y in (x @ p["q"], k, v)))
        return x + made.reshape(x.shape) @ p["out"]

    return params, apply


GROW, MORE = (4, 4), (4, 16)  # heads of the base and of the model, 4 times as wide
QUERIES = [
    (separate(("query", "key", "value")), GROW, None, "query", 0.5),
    (separate(("key", "query", "value")), GROW, None, "query", 0.5),
    (separate(("value", "wk", "wq")), GROW, None, "wq", 0.5),
    (separate(("a", "b", "c")), GROW, None, "a", 0.5),
    (separate(("b", "c", "a")), GROW, None, "b", 0.5),
    (separate(("query", "key", "value")), MORE, None, "query", 1.0),
    (separate(("query", "key", "value")), GROW, False, "query", 1.0),
    (separate(("query", "key", "value"), flat=True), GROW, True, "query", 0.5),
    (separate(("wk", "wq", "wv"), flat=True), GROW, True, "wq", 0.5),
    (separate(("wk", "wq", "wv"), flat=True), MORE, False, "wq", 1.0),
    (pair_of_keys_and_values, GROW, True, "q", 0.5),
    (packed, MORE, False, None, 1.0),
    (packed_heads, MORE, None, None, 1.0),
]


@pytest.mark.parametrize(("make", "heads", "attention", "query", "factor"), QUERIES)
def test_queries_bear_the_factor_of_attention(make, heads, attention, query, factor):
    base, _ = make(32, heads[0])
    params, apply = make(128, heads[1])
    x = jnp.ones((2, 3, 128))
    scheme = tree.mup(base, attention=attention, zero_query=False)
    found = scheme.multipliers(params, apply, (x,))
    for name in params.keys() - {"out"}:
        own = factor if name in (query, f"{query}_bias") else 1.0
        rate = own if name.endswith("bias") else own / 4
        assert found[name].learning_rate == rate, name
    after = drawn(scheme, params, apply, x)
    for name in params.keys() - {"out"}:
        own = factor if name in (query, f"{query}_bias") else 1.0
        if name.endswith("bias"):  # within the base's 1 / sqrt(32), times the factor
            assert 0.9 < abs(after[name]).max() * 32**0.5 / own <= 1, name
        else:
            std = float(after[name].std())
            assert std == pytest.approx(own * 128**-0.5, rel=0.05), name
    again = drawn(scheme, after, apply, x)
    jax.tree.map(np.testing.assert_array_equal, again, after)
    zeroed = drawn(tree.mup(base, attention=attention), params, apply, x)
    assert {name for name in params if not zeroed[name].any()} == {query} - {None}


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("block_0/attention/query/kernel", True),
        ("attention/query/kernel/value", True),
        ("layers/0/self_attn/q_proj/weight", True),
        ("query_encoder/attention/key/kernel", False),
        ("query_encoder/attention/query/kernel", True),
        ("keyword_tower/wq", True),
        ("h/query_key_value/w", False),
        ("h/to_qkv/kernel", False),
        ("squeeze/seq/kernel", False),
    ],
)
def test_names_of_queries(path, named):
    assert _is_called_query(path) == named


@pytest.mark.parametrize(
    ("make", "attention", "words"),
    [
        (separate(("query", "key", "value"), flat=True), None, "say attention=True"),
        (separate(("b", "c", "a"), flat=True), None, "say attention=True"),
        (packed, None, "more than queries"),
        (packed, True, "more than queries"),
        (packed_heads, None, "more than queries"),
        (pair_of_keys_and_values, None, "say attention=True"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_sentence(make, attention, words):
    base, _ = make(32, 4)
    params, apply = make(128, 4)
    scheme = tree.mup(base, attention=attention)
    x = jnp.ones((2, 3, 128))
    for call in (
        lambda: scheme.multipliers(params, apply, (x,)),
        lambda: drawn(scheme, params, apply, x),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert scheme.multipliers(base, make(32, 4)[1], (jnp.ones((2, 3, 32)),))


def rms(x):
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def standard(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def unit(x):
    size = jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    return x / size * x.shape[-1] ** 0.5


def normalised(norm, scales=("q_scale", "k_scale", "end_scale")):
    """Attention with normalizations behind queries, keys and the end of the branch."""

    def make(width, heads=4):
        split = width, heads, width // heads
        params = {name: jnp.ones(split) for name in "qkv"}
        params |= {"out": jnp.ones((width, width)), "head": jnp.ones((width, 2))}
        sizes = {"q_scale": width // heads, "k_scale": width // heads}
        params |= {s: jnp.ones(sizes.get(s, width)) for s in scales}
        params["q_bias"] = normal(7, heads, width // heads)

        def scaled(p, x, name):
            scale = p.get(f"{name}_scale")
            return norm(x) if scale is None else norm(x) * scale[(None,) * (x.ndim - 1)]

        def apply(p, x):
            q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[name]) for name in "qkv")
            q = scaled(p, q + p["q_bias"][None, None], "q")
            y = attend(q, scaled(p, k, "k"), v).reshape(x.shape) @ p["out"]
            return (x + scaled(p, y, "end")) @ p["head"]

        return params, apply

    return make


@pytest.mark.parametrize("norm", [rms, standard, unit])
def test_the_scale_of_a_normalization_bears_the_factor(norm):
    make, x = normalised(norm), jnp.ones((2, 3, 128))
    params, apply = make(128)
    scheme = tree.mup(make(32)[0], depth="complete", base_depth=0.25)
    after = drawn(scheme, params, apply, x)
    np.testing.assert_array_equal(after["q_scale"], 0.5)  # heads of 32 for 8
    np.testing.assert_array_equal(after["end_scale"], 0.25)  # 4 times as deep
    np.testing.assert_array_equal(after["k_scale"], 1.0)
    np.testing.assert_array_equal(after["q_bias"], params["q_bias"])
    for name in ("q", "out"):  # of full size: a norm of zeros would have no direction
        assert float(after[name].std()) == pytest.approx(128**-0.5, rel=0.1)
    rates = scheme.multipliers(params, apply, (x,))
    assert (rates["q"], rates["k"]) == (rates["v"], rates["v"])
    assert rates["q_scale"].learning_rate == 0.5 == rates["k_scale"].learning_rate / 2
    again = drawn(scheme, after, apply, x)
    jax.tree.map(np.testing.assert_array_equal, again, after)


@pytest.mark.parametrize("scales", [(), ("k_scale", "end_scale")])
def test_a_normalization_without_a_scale_is_told(scales):
    make, x = normalised(rms, scales), jnp.ones((2, 3, 128))
    with pytest.raises(ValueError, match="right behind q undoes .* say attention="):
        drawn(tree.mup(make(32)[0]), *make(128), x)
    after = drawn(tree.mup(make(32)[0], attention=False), *make(128), x)
    assert float(after["q"].std()) == pytest.approx(128**-0.5, rel=0.1)


TABLES = {
    "looked up": lambda table, x, root: table[x] * root,
    "beforehand": lambda table, x, root: (root * table)[x],
    "divided": lambda table, x, root: jnp.take(table, x, axis=0) / (1 / root),
    "one hot": lambda table, x, root: jax.nn.one_hot(x, len(table)) @ table * root,
    "in the program": lambda table, x, root: (
        table[x] * jnp.sqrt(jnp.float32(table.shape[1]))
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_the_program_scales_is_as_it_is(name):
    def make(width):
        params = {"words": normal(0, 300, width, std=width**-0.5)}
        params |= {"hidden": jnp.ones((width, width)), "head": jnp.ones((width, 4))}

        def apply(p, x):
            x = TABLES[name](p["words"], x, p["words"].shape[1] ** 0.5)
            return jnp.tanh(x @ p["hidden"]) @ p["head"]

        return params, apply

    scheme, (params, apply) = tree.mup(make(64)[0]), make(256)
    after = drawn(scheme, params, jax.jit(apply), TOKENS)
    assert float(after["words"].std()) == pytest.approx(1 / 16, rel=0.05)
    rates = scheme.multipliers(params, jax.jit(apply), (TOKENS,))
    assert rates["words"] == (0.5, 0.5, 2.0)  # of features that are 4 times as many
    spectral = drawn(tree.spectral(), params, apply, TOKENS)["words"]
    assert float(spectral.std()) == pytest.approx(1 / 16, rel=0.05)


def test_biases_take_their_factor_once():
    def make(width):
        params = {"up": jnp.ones((width, width)), "down": jnp.ones((width, width))}
        params["bias"] = width**-0.5 * jax.random.uniform(
            KEY, (width,), minval=-1.0, maxval=1.0
        )

        def apply(p, x):
            return x + jnp.tanh(x @ p["up"]) @ p["down"] + p["bias"][None]

        return params, apply

    params, apply = make(1024)
    scheme = tree.mup(make(64)[0], depth="complete", base_depth=0.125)
    for key in (jax.random.key(k) for k in range(3)):
        params = ji.reinit(key, params, scheme, apply, (jnp.ones((2, 1024)),))
        std = float(params["bias"].std())  # of the base's, at an eighth of the depth
        assert std == pytest.approx(1 / 8 / 8 / 3**0.5, rel=0.1)


def test_a_classifier_that_ends_in_a_softmax_has_no_queries():
    params = {"w": jnp.ones((4, 8)), "head": jnp.ones((8, 3))}
    apply = lambda p, x: jax.nn.softmax(jnp.tanh(x @ p["w"]) @ p["head"])  # noqa: E731
    layers = ji.trace.layers(apply, params, jnp.ones((2, 4)))
    assert queries_of(tree.Structure(layers)) == []


# ---- the optimizers --------------------------------------------------------------


def test_adamw_decays_readouts_as_hidden_kernels():
    scheme = tree.mup(perceptron(64, 64), zero_readout=False)
    x = jnp.ones((1, 8))
    params = drawn(scheme, perceptron(256, 128), run_perceptron, x)
    adamw = scheme.adamw(0.1, params, run_perceptron, (x,), weight_decay=0.5)
    still = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = adamw.update(still, adamw.init(params), params)
    ratios = jax.tree.map(lambda u, p: np.asarray(u / p), updates, params)
    for ratio in jax.tree.leaves(ratios):
        np.testing.assert_allclose(ratio, -0.05, rtol=1e-5)


def test_a_step_of_sgd_adds_as_much_to_a_layer_at_any_width():
    x = normal(5, 16, 8)
    scheme = tree.mup(perceptron(64, 64), optimizer="sgd", zero_readout=False)

    def added(first, second):
        """What a step of the hidden kernel and of the readout adds to their outputs."""
        params = drawn(scheme, perceptron(first, second), run_perceptron, x)
        loss = lambda p: jnp.mean((run_perceptron(p, x) - 1) ** 2)  # noqa: E731
        rates = scheme.transform(params, run_perceptron, (x,))
        step = optax.chain(optax.sgd(0.02), rates)
        updates, _ = step.update(jax.grad(loss)(params), step.init(params), params)
        seen = x
        for name in ("input", "hidden"):
            into, layer = seen, params[name]
            seen = jnp.tanh(into @ layer["w"] + layer["b"][None])
        changes = into @ updates["hidden"]["w"], seen @ updates["readout"]["w"]
        return [float(jnp.sqrt(jnp.mean(change**2))) for change in changes]

    narrow = np.array(added(256, 256))
    for widths in ((256, 4096), (4096, 256), (2048, 2048)):
        ratio = np.array(added(*widths)) / narrow
        assert (abs(np.log2(ratio)) < 0.7).all(), (widths, ratio)


BAD = [
    (
        lambda x: tree.mup(perceptron(64, 64), optimizer="sgd").adamw(
            0.1, perceptron(64, 64), run_perceptron, (x,)
        ),
        "needs the rates of Adam",
    ),
    (
        lambda x: tree.mup(perceptron(64, 64), depth="sqrt", base_depth=2).multipliers(
            perceptron(64, 64), run_perceptron, (x,)
        ),
        "has no residual branch",
    ),
    (lambda x: tree.mup(perceptron(64, 64), attention="1/d"), "attention='1/d'"),
]


@pytest.mark.parametrize(("call", "words"), BAD)
def test_one_sentence(call, words):
    with pytest.raises(ValueError) as caught:
        call(jnp.ones((1, 8)))
    assert words in str(caught.value) and "\n" not in str(caught.value)
