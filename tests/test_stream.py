"""The residual stream: who writes to it, how often, and what schemes make of that."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import pytest
from flax import nnx

import jaxinit as ji
from jaxinit import tree
from jaxinit.trace import layers
from jaxinit.tree import Structure

pytestmark = pytest.mark.usefixtures("users_broadcast")

KEY = jax.random.key(0)
TOKENS = jnp.arange(16).reshape(2, 8)
SERIES = jnp.ones((2, 6, 16))
X = jnp.ones((3, 6))


def linen(module, *inputs):
    return module.apply, jax.eval_shape(module.init, KEY, *inputs), *inputs


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in sizes.items()}


def additions(apply, params, *inputs):
    """For each end of a branch, by the last two words of its path, what it adds."""
    found = layers(apply, params, *inputs)
    assert all(layer.residual == (layer.additions > 0) for layer in found)
    kernels = [layer for layer in found if layer.residual]
    skip = {"params", "kernel", "w", "weight"}
    paths = (k.path.removesuffix("/value") for k in kernels)
    words = [[w for w in path.split("/") if w not in skip] for path in paths]
    return {"/".join(w[-2:]): k.additions for w, k in zip(words, kernels, strict=True)}


# --- cross-attention ------------------------------------------------------------------


def perceiver(p, data):
    """Latents that read the data, and themselves."""
    data = data @ p["stem"]
    x = jnp.broadcast_to(p["latents"], (len(data), *p["latents"].shape))
    for k in range(2):
        weights = jax.nn.softmax(x @ p[f"q{k}"] @ (data @ p[f"k{k}"]).swapaxes(1, 2))
        x = x + weights @ (data @ p[f"v{k}"]) @ p[f"o{k}"]
        x = x + jax.nn.gelu(x @ p[f"up{k}"]) @ p[f"down{k}"]
    return x.mean(1) @ p["head"]


def without_queries(p, x, memory):
    """Attention whose queries are the stream itself."""
    weights = jax.nn.softmax(x @ (memory @ p["k"]).T)
    return (x + weights @ memory @ p["o"]) @ p["head"]


def alone(p, data):
    """Latents of one example, which meet a kernel before any data."""
    data, z = data[0] @ p["stem"], p["latents"]
    for k in range(2):
        weights = jax.nn.softmax((z @ p[f"q{k}"]) @ (data @ p[f"k{k}"]).T)
        z = z + weights @ (data @ p[f"v{k}"]) @ p[f"o{k}"]
    return z @ p["head"]


def without_outputs(p, x, memory):
    """Attention whose averages are added as they are."""
    weights = jax.nn.softmax((x @ p["q"]) @ (memory @ p["k"]).T)
    return (weights @ (memory @ p["v"]) + x) @ p["head"]


def two_memories(p, x, one, two):
    for name, memory in (("a", one), ("b", two)):
        q, k, v = x @ p[name + "q"], memory @ p[name + "k"], memory @ p[name + "v"]
        x = x + jax.nn.softmax(q @ k.T) @ v @ p[name + "o"]
    return x @ p["head"]


class NNXDecoder(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.cross = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)

    def __call__(self, x, memory):
        return x + self.cross(self.norm(x), memory)


class ScannedDecoder(nn.Module):
    @nn.compact
    def __call__(self, target, memory):
        x = nn.Embed(50, 16)(target)
        blocks = nn.scan(
            lambda block, x, memory: (block(x, memory), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=3,
        )
        return nn.Dense(5)(blocks(nets.DecoderBlock(name="block"), x, memory)[0])


def equinox_decoder():
    eqx = pytest.importorskip("equinox")
    cross = [eqx.nn.MultiheadAttention(2, 16, key=KEY) for _ in range(2)]

    def apply(blocks, x, memory):
        for block in blocks:
            x = x + jax.vmap(lambda x, m, block=block: block(x, m, m))(x, memory)
        return x

    return apply, cross, SERIES, SERIES


def haiku_decoder():
    hk = pytest.importorskip("haiku")

    def net(x, memory):
        init = hk.initializers.VarianceScaling()
        return x + hk.MultiHeadAttention(2, 8, w_init=init)(x, memory, memory)

    net = hk.without_apply_rng(hk.transform(net))
    return net.apply, jax.eval_shape(net.init, KEY, SERIES, SERIES), SERIES, SERIES


def blocks(*names, count=3):
    return {name.replace("*", str(k)): 1.0 for k in range(count) for name in names}


CROSS = {
    "Linen": (
        lambda: linen(nets.EncoderDecoder(width=16), TOKENS, TOKENS),
        blocks("attention/out", "encoder_*/down", "self/out", "cross/out",
               "decoder_*/down"),
    ),
    "Linen, scanned": (
        lambda: linen(ScannedDecoder(), TOKENS, SERIES),
        {"self/out": 3.0, "cross/out": 3.0, "block/down": 3.0},
    ),
    "NNX": (
        lambda: (
            lambda m, x, y: m(x, y), NNXDecoder(nnx.Rngs(0)), SERIES, SERIES
        ),
        {"cross/out": 1.0},
    ),
    "Equinox": (equinox_decoder, {"0/output_proj": 1.0, "1/output_proj": 1.0}),
    "Haiku": (haiku_decoder, {"multi_head_attention/linear": 1.0}),
    "Perceiver": (
        lambda: (
            perceiver,
            shapes(stem=(6, 8), latents=(5, 8), head=(8, 3))
            | shapes(**{f"{n}{k}": (8, 8) for k in (0, 1)
                        for n in ("q", "k", "v", "o", "up", "down")}),
            jnp.ones((2, 7, 6)),
        ),
        blocks("o*", "down*", count=2),
    ),
    "Perceiver, one example": (
        lambda: (
            alone,
            shapes(stem=(6, 8), latents=(5, 8), head=(8, 3))
            | shapes(**{f"{n}{k}": (8, 8) for k in (0, 1) for n in "qkvo"}),
            jnp.ones((2, 7, 6)),
        ),
        blocks("o*", count=2),
    ),
    "no queries": (
        lambda: (without_queries, shapes(k=(6, 6), o=(6, 6), head=(6, 2)), X, X),
        {"o": 1.0},
    ),
    "no outputs": (
        lambda: (
            without_outputs, shapes(q=(6, 6), k=(6, 6), v=(6, 6), head=(6, 2)), X, X
        ),
        {"v": 1.0},
    ),
    "two memories": (
        lambda: (
            two_memories,
            shapes(head=(6, 2), **{a + b: (6, 6) for a in "ab" for b in "qkvo"}),
            X, X, X,
        ),
        {"ao": 1.0, "bo": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CROSS)
def test_cross_attention_ends_a_branch(name):
    model, expected = CROSS[name]
    assert additions(*model()) == expected


def drawn(scheme, apply, params, *inputs):
    made = ji.reinit(KEY, jax.tree.map(zeros, params), scheme, apply, inputs)
    flat, _ = jax.tree_util.tree_flatten_with_path(made)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


def zeros(leaf):
    return jnp.zeros(leaf.shape, leaf.dtype)


@pytest.fixture(scope="module")
def translator():
    return linen(nets.EncoderDecoder(3, 5, 64), TOKENS, TOKENS)


CROSS_OUT = [f"params/decoder_{k}/cross/out/kernel" for k in range(5)]
GLOB = "*/decoder_*"


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (tree.deepnorm(GLOB), 0.0449),
        (tree.t_fixup(GLOB), 0.0483),
        (tree.gpt2(), 0.02 / 21**0.5),
        (tree.hadamard_identity(), 0.0),
    ],
)
def test_schemes_draw_cross_attention_as_a_branch(translator, scheme, expected):
    after = drawn(scheme, *translator)
    got = np.mean([float(after[path].std()) for path in CROSS_OUT])
    assert got == pytest.approx(expected, rel=0.02, abs=1e-9)
    kind = "self" if scheme != tree.hadamard_identity() else "cross"
    queries = after[f"params/decoder_1/{kind}/query/kernel"]
    assert float(queries.std()) > 0.01


def test_gpt2_counts_the_additions_of_both_stacks():
    model = linen(nets.EncoderDecoder(3, 3, 64), TOKENS, TOKENS)
    structure = Structure(layers(*model))
    assert structure.depth == 15 and len(structure.branches) == 15
    after = drawn(tree.gpt2(), *model)
    got = [float(after[path].std()) for path in CROSS_OUT[:3]]
    assert np.mean(got) == pytest.approx(0.00516, rel=0.02)


def test_branches_of_an_encoder_and_a_decoder(translator):
    structure = Structure(layers(*translator))
    inside = {b.end.path.removeprefix("params/"): b for b in structure.branches}
    cross = inside["decoder_2/cross/out/kernel"]
    names = [k.path.split("/")[-2] for k in cross.kernels]
    assert names == ["query", "key", "value", "out"] and cross.attention
    assert [k.path.split("/")[-2] for k in cross.queries_and_keys] == ["query", "key"]
    assert cross.depth == 2 and cross.index == 5  # after three of the encoder
    assert inside["decoder_2/self/out/kernel"].index == 5
    assert inside["decoder_2/down/kernel"].index == 5


def test_what_makes_a_memory_is_in_no_branch():
    model, _ = CROSS["Perceiver"]
    structure = Structure(layers(*model()))
    assert "stem" not in structure.inside
    assert {"k0", "v0", "q0", "o0"} <= structure.inside


@pytest.mark.parametrize("depth", ["sqrt", "complete"])
def test_depth_rates_of_mup_reach_cross_attention(translator, depth):
    apply, params, *inputs = translator
    narrow = linen(nets.EncoderDecoder(3, 5, 32), TOKENS, TOKENS)[1]
    scheme = tree.mup(narrow, depth=depth, base_depth=7)
    rates = scheme.multipliers(params, apply, inputs)["params"]["decoder_1"]
    for name in ("query", "key", "value", "out"):
        cross, own = (rates[kind][name]["kernel"] for kind in ("cross", "self"))
        assert cross == own
    after = drawn(scheme, *translator)
    assert not after["params/decoder_1/cross/query/kernel"].any()


# --- blocks that are used several times -----------------------------------------------

BLOCK = {"a": (6, 8), "b": (8, 6), "c": (6, 8), "d": (8, 6), "head": (6, 2)}


def block(p, x):
    x = x + jnp.tanh(x @ p["a"]) @ p["b"]
    return x + jnp.tanh(x @ p["c"]) @ p["d"]


def listed(p, x):
    for _ in range(4):
        x = block(p, x)
    return x @ p["head"]


def scanned(p, x):
    x, _ = jax.lax.scan(lambda x, _: (block(p, x), None), x, None, length=4)
    return x @ p["head"]


def counted(p, x):
    return jax.lax.fori_loop(0, 4, lambda _, x: block(p, x), x) @ p["head"]


def nested(p, x):
    twice = lambda x, _: (block(p, block(p, x)), None)  # noqa: E731
    return jax.lax.scan(twice, x, None, length=2)[0] @ p["head"]


def rematerialised(p, x):
    step = jax.checkpoint(lambda x: block(p, x))
    for _ in range(4):
        x = step(x)
    return x @ p["head"]


def looped(p, x):
    twice = lambda x, _: (block(p, x), None)  # noqa: E731
    turn = lambda _, x: jax.lax.scan(twice, x, None, length=2)[0]  # noqa: E731
    return jax.lax.fori_loop(0, 2, turn, x) @ p["head"]


def counted_up(p, x):
    turn = lambda c: (block(p, c[0]), c[1] + 2)  # noqa: E731
    return jax.lax.while_loop(lambda c: c[1] <= 7, turn, (x, 1))[0] @ p["head"]


def carried_limit(p, x):
    turn = lambda c: (c[0] + 1, c[1], block(p, c[2]))  # noqa: E731
    return jax.lax.while_loop(lambda c: c[0] < c[1], turn, (0, 4, x))[2] @ p["head"]


SHARED = {
    "list": listed,
    "scan": scanned,
    "fori": counted,
    "scan of two": nested,
    "remat": rematerialised,
    "loop in a loop": looped,
    "while": counted_up,
    "while, by a limit that it carries": carried_limit,
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_shared_blocks_count_each_pass(name):
    model = SHARED[name], shapes(**BLOCK), X
    assert additions(*model) == {"b": 4.0, "d": 4.0}
    assert Structure(layers(*model)).depth == 8


UNCOUNTED = {
    "input": lambda p, x, n: jax.lax.fori_loop(0, n, lambda _, x: block(p, x), x),
    "tolerance": lambda p, x, n: jax.lax.while_loop(
        lambda x: abs(x).max() > 1, lambda x: block(p, x), x
    ),
    "also a test": lambda p, x, n: jax.lax.while_loop(
        lambda c: (c[1] < 4) & (c[0].sum() > 0), lambda c: (block(p, c[0]), c[1] + 1),
        (x, 0),
    )[0],
    "scanned": lambda p, x, n: jax.lax.scan(
        lambda x, _: (UNCOUNTED["input"](p, x, n), None), x, None, 1
    )[0],
}  # fmt: skip


@pytest.mark.parametrize("name", UNCOUNTED)
def test_a_loop_of_unknown_length_is_announced(name):
    apply = lambda p, x, n: UNCOUNTED[name](p, x, n) @ p["head"]  # noqa: E731
    model = apply, shapes(**BLOCK), X, jnp.int32(3)
    assert additions(*model) == {"b": 1.0, "d": 1.0}
    assert {x.path for x in layers(*model) if x.uncounted} == {"b", "d"}
    with pytest.warns(UserWarning, match="^b, d: a while loop whose number of turns"):
        drawn(tree.gpt2(), *model)
    drawn(tree.gpt2(branches=6), *model)  # says nothing


@pytest.mark.parametrize("how", ["list", "scan", "fori"])
def test_albert(how):
    model = linen(nets.Albert(how=how), TOKENS)
    assert additions(*model) == {"attention/out": 4.0, "block/down": 4.0}
    after = drawn(tree.gpt2(), *model)
    got = float(after["params/block/down/kernel"].std())
    assert got == pytest.approx(0.02 / 8**0.5, rel=0.05)


def test_time_is_no_depth():
    def over_time(p, x):
        return jax.lax.map(lambda x: block(p, x), x) @ p["head"]

    model = over_time, shapes(**BLOCK), jnp.ones((5, 3, 6))
    assert additions(*model) == {"b": 1.0, "d": 1.0}


# --- routers, gates and experts -------------------------------------------------------

ONE = {"attention/out": 1.0, "down": 1.0}
HOW = {"dispatched": ONE, "gathered": ONE, "switched": ONE, "scanned": ONE}
HOW["listed"] = {"attention/out": 1.0} | {f"down_{e}": 0.25 for e in range(4)}


@pytest.mark.parametrize("how", HOW)
def test_experts_share_one_addition_and_the_router_makes_none(how):
    model = linen(nets.Experts(how), SERIES)
    assert additions(*model) == HOW[how]
    structure = Structure(layers(*model))
    assert structure.depth == 2
    after = drawn(tree.gpt2(), *model)
    for path, leaf in after.items():
        if "down" in path or "out/kernel" in path:
            assert float(leaf.std()) == pytest.approx(0.02 / 2**0.5, rel=0.15)
        if "router" in path or "up" in path:
            assert float(leaf.std()) == pytest.approx(0.02, rel=0.25)


EXPERTS = {"r": (6, 4), "up": (4, 6, 8), "down": (4, 8, 6)}


def expert(p, x, e):
    return jnp.tanh(x @ p["up"][e]) @ p["down"][e]


def masked(p, x):
    chosen = jnp.argmax(x @ p["r"], -1)
    out = jnp.zeros_like(x)
    for e in range(4):
        out = out + (chosen == e)[:, None].astype(x.dtype) * expert(p, x, e)
    return x + out


def selected(p, x):
    chosen = jnp.argmax(x @ p["r"], -1)
    out = jnp.zeros_like(x)
    for e in range(4):
        out = jnp.where((chosen == e)[:, None], expert(p, x, e), out)
    return x + out


def rectified(p, x):
    """ReMoE: the router's weights are those of a relu."""
    gates = jax.nn.relu(x @ p["r"])
    return x + sum(gates[:, e : e + 1] * expert(p, x, e) for e in range(4))


def one_by_one(p, x):
    """Each expert adds to the stream itself."""
    gates, y = jax.nn.softmax(x @ p["r"]), x
    for e in range(4):
        y = y + gates[:, e, None] * expert(p, x, e)
    return y


def vmapped(p, x):
    def alone(x):
        e = jnp.argmax(x @ p["r"])
        return x + jnp.tanh(x @ p["up"][e]) @ p["down"][e]

    return jax.vmap(alone)(x)


def ragged(p, x):
    """Tokens sorted by expert, and scattered back."""
    weights, index = jax.lax.top_k(jax.nn.softmax(x @ p["r"]), 2)
    flat = index.reshape(-1)
    order, sizes = jnp.argsort(flat), jnp.bincount(flat, length=4)
    token = order // 2
    y = jnp.tanh(jax.lax.ragged_dot(x[token], p["up"], sizes))
    y = jax.lax.ragged_dot(y, p["down"], sizes) * weights.reshape(-1)[order][:, None]
    return x + jnp.zeros_like(x).at[token].add(y)


def unsorted(p, x):
    """The same, gathered back and summed."""
    weights, index = jax.lax.top_k(jax.nn.softmax(x @ p["r"]), 2)
    flat = index.reshape(-1)
    order, sizes = jnp.argsort(flat), jnp.bincount(flat, length=4)
    y = jnp.tanh(jax.lax.ragged_dot(x[order // 2], p["up"], sizes))
    y = jax.lax.ragged_dot(y, p["down"], sizes)[jnp.argsort(order)]
    return x + (y.reshape(*index.shape, -1) * weights[..., None]).sum(1)


def dispatched(p, x):
    """Switch transformers: places within experts of limited size."""
    gates = jax.nn.softmax(x @ p["r"])
    chosen = jax.nn.one_hot(jnp.argmax(gates, -1), 4)
    place = (jnp.cumsum(chosen, 0) * chosen - 1).max(-1).astype(int)
    to = chosen[..., None] * jax.nn.one_hot(place, 3)[:, None, :]
    y = jnp.einsum("tec,td->ecd", to, x)
    y = jnp.tanh(jnp.einsum("ecd,edf->ecf", y, p["up"]))
    y = jnp.einsum("ecf,efd->ecd", y, p["down"])
    back = to * gates.max(-1)[:, None, None]
    return x + jnp.einsum("tec,ecd->td", back, y)


def by_sigmoids(p, x):
    """DeepSeek's: sigmoids that are normalised, in one product."""
    weights, index = jax.lax.top_k(jax.nn.sigmoid(x @ p["r"]), 2)
    weights = 2.5 * weights / weights.sum(-1, keepdims=True)
    y = jnp.tanh(jnp.einsum("td,tkdf->tkf", x, p["up"][index]))
    return x + jnp.einsum("tkf,tkfd,tk->td", y, p["down"][index], weights)


def experts_choose(p, x):
    weights, index = jax.lax.top_k(jax.nn.softmax(x @ p["r"]).T, 2)
    y = jnp.tanh(jnp.einsum("ekd,edf->ekf", x[index], p["up"]))
    y = jnp.einsum("ekf,efd->ekd", y, p["down"]) * weights[..., None]
    return x + jnp.zeros_like(x).at[index.reshape(-1)].add(y.reshape(-1, 6))


def side_by_side(p, x):
    y = jax.vmap(lambda up, down: jnp.tanh(x @ up) @ down)(p["up"], p["down"])
    return x + (jax.nn.softmax(x @ p["r"]).T[:, :, None] * y).sum(0)


def some_tokens(p, x):
    """A mixture of depths: the branch is for the tokens that a router picks."""
    weights, index = jax.lax.top_k((x @ p["r"])[:, 0], 2)
    y = jnp.tanh(x[index] @ p["up"][0]) @ p["down"][0]
    return x.at[index].add(weights[:, None] * y)


MIXTURES = [
    masked, selected, rectified, one_by_one, vmapped, ragged, unsorted, dispatched,
    by_sigmoids, experts_choose, side_by_side, some_tokens,
]  # fmt: skip


@pytest.mark.parametrize("mixture", MIXTURES)
def test_experts_in_other_words(mixture):
    model = mixture, shapes(**EXPERTS), X
    assert additions(*model) == {"down": 1.0}
    (end,) = [layer for layer in layers(*model) if layer.residual]
    assert end.batch_axes == (0,) and end.layer_axes == () and end.fan_in == 8


def test_a_switch_among_blocks_in_a_scan_counts_one_a_turn():
    def apply(p, x, kinds):
        paths = [
            lambda x: x + jnp.tanh(x @ p["a"]) @ p["b"],
            lambda x: x + jnp.tanh(x @ p["c"]) @ p["d"],
        ]
        turn = lambda x, kind: (jax.lax.switch(kind, paths, x), None)  # noqa: E731
        return jax.lax.scan(turn, x, kinds)[0] @ p["head"]

    model = apply, shapes(**BLOCK), X, jnp.arange(6) % 2
    assert additions(*model) == {"b": 3.0, "d": 3.0}
    assert Structure(layers(*model)).depth == 6


class Griffin(nn.Module):
    """A gated linear recurrence, by a scan or by an associative one."""

    associative: bool = False

    @nn.compact
    def __call__(self, x):
        d = x.shape[-1]
        u = nn.Dense(d, name="linear_x")(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(d, name="linear_y")(x))
        gate = nn.sigmoid(nn.Dense(d, name="input_gate")(u))
        decay = nn.sigmoid(nn.Dense(d, name="a_gate")(u))
        rate = self.param("a_param", nn.initializers.ones, (d,))
        decay = jnp.exp(-8.0 * decay * nn.softplus(rate))
        put = jnp.sqrt(1 - decay**2) * gate * u
        if self.associative:
            join = lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1])  # noqa: E731
            _, h = jax.lax.associative_scan(join, (decay, put), axis=1)
        else:

            def turn(h, at):
                h = at[0] * h + at[1]
                return h, h

            times = (jnp.moveaxis(decay, 1, 0), jnp.moveaxis(put, 1, 0))
            _, h = jax.lax.scan(turn, jnp.zeros_like(u[:, 0]), times)
            h = jnp.moveaxis(h, 0, 1)
        return x + nn.Dense(d, name="out")(h * y)


def lru(p, x):
    """A linear recurrent unit: its output and its scaled input are no stream."""
    rate = jnp.exp(jax.lax.complex(-jnp.exp(p["nu"]), jnp.exp(p["theta"])))
    put = jax.lax.complex(p["b_re"], p["b_im"])
    put = put * jnp.exp(p["gamma"])[:, None].astype(put.dtype)
    out = jax.lax.complex(p["c_re"], p["c_im"])
    join = lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1])  # noqa: E731

    def alone(x):
        rates = jnp.tile(rate, (len(x), 1))
        _, h = jax.lax.associative_scan(join, (rates, x.astype(put.dtype) @ put.T))
        return (h @ out.T).real + p["d"] * x

    y = jax.nn.gelu(jax.vmap(alone)(x))
    return (x + (y @ p["value"]) * jax.nn.sigmoid(y @ p["gate"])) @ p["head"]


LRU = dict.fromkeys(("nu", "theta", "gamma"), (8,)) | {
    "b_re": (8, 16), "b_im": (8, 16), "c_re": (16, 8), "c_im": (16, 8), "d": (16,),
    "value": (16, 16), "gate": (16, 16), "head": (16, 2),
}  # fmt: skip

GATED = {
    "Mamba": (lambda: linen(nets.Mamba(), SERIES), {"out_proj": 1.0}),
    "Griffin": (lambda: linen(Griffin(), SERIES), {"out": 1.0}),
    "Griffin, associative": (lambda: linen(Griffin(True), SERIES), {"out": 1.0}),
    "LRU": (lambda: (lru, shapes(**LRU), SERIES), {"value": 1.0}),
    "highway": (
        lambda: (
            lambda p, x: x + jax.nn.sigmoid(x @ p["gate"]) * (x @ p["value"]),
            shapes(gate=(6, 6), value=(6, 6)), X,
        ),
        {"value": 1.0},
    ),
    "a recurrent cell over the stream": (
        lambda: (
            lambda p, x: x * (z := jax.nn.sigmoid(
                (y := jnp.tanh(x @ p["a"]) @ p["b"]) @ p["y"] + x @ p["x"]
            )) + (1 - z) * y,
            shapes(a=(6, 8), b=(8, 6), y=(6, 6), x=(6, 6)), X,
        ),
        {},
    ),
    "squeeze and excite": (
        lambda: (
            lambda p, x: x + (y := jnp.tanh(x @ p["a"]) @ p["b"])
            * jax.nn.sigmoid(y.mean(0) @ p["gate"]),
            shapes(a=(6, 6), b=(6, 6), gate=(6, 6)), X,
        ),
        {"b": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GATED)
def test_gates_write_nothing_to_the_stream(name):
    model, expected = GATED[name]
    assert additions(*model()) == expected


TWO = {"a": (6, 8), "b": (8, 6), "c": (6, 8), "d": (8, 6)}


def padded(p, x):
    """Padding is masked on the stream, as in speech."""
    mask = (x[:, :1] > 0).astype(x.dtype)
    x = x * mask
    x = (x + jnp.tanh(x @ p["a"]) @ p["b"]) * mask
    return x + jnp.tanh(x @ p["c"]) @ p["d"]


def drop_path(p, x):
    """Branches are dropped at random, by a fixed key."""
    for number, (a, b) in enumerate(("ab", "cd")):
        key = jax.random.fold_in(jax.random.key(0), number)
        keep = jax.random.bernoulli(key, 0.9, (3, 1))
        x = x + jnp.where(keep, jnp.tanh(x @ p[a]) @ p[b] / 0.9, 0.0)
    return x


def skipped(p, x):
    """A condition skips a branch."""
    for a, b in ("ab", "cd"):
        branch = lambda x, a=a, b=b: x + jnp.tanh(x @ p[a]) @ p[b]  # noqa: E731
        x = jax.lax.cond(x.sum() > 0, branch, lambda x: x, x)
    return x


def positioned(p, x):
    """One example, whose positions are learned; no kernel comes before."""
    x = x + p["positions"]
    return block(p, x)


def scaled(p, x):
    """One example that a leaf scales first."""
    return block(p, x[0] * p["scale"])


def pooled(p, x):
    """Branches from what was pooled."""
    return block(p, x.mean(0))


def beside(p, x):
    """Attention and layers side by side, as GPT-J."""
    return x + jnp.tanh(x @ p["a"]) @ p["b"] + jnp.tanh(x @ p["c"]) @ p["d"]


PLAIN = {
    "padded": (padded, {}),
    "dropped": (drop_path, {}),
    "skipped": (skipped, {}),
    "positions": (positioned, {"positions": (3, 6)}),
    "scaled": (scaled, {"scale": (6,)}),
    "pooled": (pooled, {}),
    "beside": (beside, {}),
    "vmapped": (lambda p, x: jax.vmap(lambda x: block(p, x))(x), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_branches_in_other_words(name):
    apply, more = PLAIN[name]
    found = additions(apply, shapes(**TWO, **more), X)
    assert found == {"b": 1.0, "d": 1.0}


def test_what_conditions_a_branch_is_no_end():
    def conditioned(p, x, c):  # DiT's: scale, shift and gate of each branch
        for a, b in ("ab", "cd"):
            scale, shift, gate = jnp.split(c @ p["condition"], 3, -1)
            y = (x - x.mean(-1, keepdims=True)) * (1 + scale) + shift
            x = x + gate * (jnp.tanh(y @ p[a]) @ p[b])
        return x

    params = shapes(**TWO, condition=(4, 18))
    assert additions(conditioned, params, X, jnp.ones((3, 4))) == {"b": 1.0, "d": 1.0}


def test_a_skip_within_a_branch_is_a_stream_of_its_own():
    def nested(p, x):
        y = x + jnp.tanh(x @ p["a"]) @ p["b"]
        y = y + jnp.tanh(y @ p["c"]) @ p["d"]
        return (x + y @ p["last"]) @ p["head"]

    model = nested, shapes(**BLOCK, last=(6, 6)), X
    assert additions(*model) == {"b": 1.0, "d": 1.0, "last": 1.0}


def test_a_skip_around_scanned_layers():
    def around(p, x):
        y = jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, p["stack"])[0]
        return (x + y @ p["last"]) @ p["head"]

    model = around, shapes(stack=(3, 6, 6), last=(6, 6), head=(6, 2)), X
    assert additions(*model) == {"last": 1.0}
