"""The audit: each check has what triggers it, and healthy models trigger none."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import pytest

import jaxinit as ji
from jaxinit.diagnosis import Audit

pytestmark = pytest.mark.usefixtures("users_broadcast")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(32, 24)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 10, 32))


def draw(*shape, gain=1.0, of=RNG):
    return jnp.asarray(gain * of.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)


def healthy():
    return {
        "w0": draw(24, 64),
        "b0": jnp.zeros(64),
        "w1": draw(64, 64, gain=2**0.5),
        "w2": draw(64, 10, gain=0.1),
    }


def narrow():
    return {
        "w0": draw(24, 16),
        "b0": jnp.zeros(16),
        "w1": draw(16, 16),
        "w2": draw(16, 10),
    }


def mlp(p, x, activation=jax.nn.relu):
    x = activation(x @ p["w0"] + p["b0"])
    return activation(x @ p["w1"]) @ p["w2"]


def rules(audit):
    return {finding.rule for finding in audit.findings}


def audit(params, apply=mlp, x=X, **options):
    options = {"labels": LABELS, **options}
    return ji.audit(apply, params, x, **options)


def test_a_healthy_network_has_nothing_wrong():
    found = audit(healthy(), learning_rate=0.01)
    assert found.findings == () and isinstance(found, Audit)
    assert found.raise_if_serious() is found
    assert "Nothing is wrong" in str(found)


def chain(p, x, activation=jax.nn.relu):
    for w in p.values():
        x = activation(x @ w)
    return x


def squares(scale, depth=30, width=64):
    return {f"layer_{k}": draw(width, width, gain=scale) for k in range(depth)}


def stacked(p, x):
    step = lambda x, w: (x + jax.nn.relu(x @ w[0]) @ w[1], None)  # noqa: E731
    return jax.lax.scan(step, x @ p["w0"], (p["up"], p["down"]))[0] @ p["w2"]


def stack(gain=0.3, depth=6):
    return {
        "w0": draw(24, 32),
        "up": draw(depth, 32, 32),
        "down": draw(depth, 32, 32, gain=gain),
        "w2": draw(32, 10, gain=0.1),
    }


def attention(p, x):
    x = x.reshape(8, 4, 24)
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k))
    return (x + jnp.einsum("bqk,bkd->bqd", weights, v)).reshape(32, 24) @ p["w2"]


def heads(gain):
    return {
        "q": draw(24, 24, gain=gain),
        "k": draw(24, 24, gain=gain),
        "v": draw(24, 24),
        "w2": draw(24, 10, gain=0.1),
    }


def tied(p, x):
    tokens = jnp.argmax(x[:, :10], axis=1)
    return jnp.tanh(p["table"][tokens] @ p["w"]) @ p["table"].T


def gated(p, x):
    x = x @ p["w0"]
    for k in range(8):
        up, gate = x @ p[f"up_{k}"], x @ p[f"gate_{k}"]
        x = x + (up * jax.nn.silu(gate)) @ p[f"down_{k}"]
    return x @ p["w2"]


def gates(scaled):
    params = {"w0": draw(24, 64)}
    for k in range(8):
        for name in ("up", "gate", "down"):
            gain = 0.3 / 8**0.5 if name == scaled else 0.3
            params[f"{name}_{k}"] = draw(64, 64, gain=gain)
    return params | {"w2": draw(64, 10, gain=0.1)}


def experts(p, x):
    gate = jax.nn.softmax(x @ p["router"])
    each = jax.vmap(lambda w: jnp.tanh(x @ w))(p["experts"])
    return jnp.einsum("be,ebd->bd", gate, each) @ p["w2"]


def mixture(scale=1.0, same=False):
    one = draw(4, 24, 64, gain=scale)
    return {
        "router": draw(24, 4),
        "experts": jnp.stack([one[0]] * 4) if same else one,
        "w2": draw(64, 10, gain=0.1),
    }


def packed(p, x):
    q, k, v = jnp.split(x.reshape(8, 4, 24) @ p["qkv"], 3, axis=-1)
    weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k) / 24**0.5)
    y = jnp.einsum("bqk,bkd->bqd", weights, v) @ p["o"]
    return y.reshape(32, 24) @ p["w2"]


def projections(init):
    heads = {"qkv": init(KEY, (24, 72)), "o": draw(24, 24)}
    return heads | {"w2": draw(24, 10, gain=0.1)}


def lstm(p, x):
    def turn(state, x):
        c, h = state
        i, f, g, o = jnp.split(x @ p["input"] + h @ p["hidden"], 4, axis=-1)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), None

    steps = x.reshape(32, 3, 8).transpose(1, 0, 2)
    start = jnp.zeros((32, 32)), jnp.zeros((32, 32))
    (_, h), _ = jax.lax.scan(turn, start, steps)
    return h @ p["w2"]


def recurrent(init):
    of = dict(zip(("input", "hidden"), jax.random.split(KEY), strict=True))
    shapes = {"input": (8, 128), "hidden": (32, 128)}
    params = {name: init(of[name], shape) for name, shape in shapes.items()}
    return params | {"w2": draw(32, 10, gain=0.1)}


def transposed(p, x):
    return jax.nn.relu(x @ p["w0"]) @ p["wide"].T @ p["w2"]


def normed(p, x):
    x = x @ p["w0"]
    x = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5)
    return jax.nn.relu(x * p["scale"] + p["b0"]) @ p["w1"] @ p["w2"]


def scales(value):
    return lambda: {**healthy(), "scale": jnp.asarray(value, jnp.float32)}


def with_one(**changes):
    return lambda: {**healthy(), **changes}


def clipped():
    w = RNG.normal(size=(64, 64)).astype(np.float32)
    return np.clip(w, -2, 2) / 8


SICK = {  # what is wrong: parameters, function, options, whether it is serious
    "not finite": (with_one(w1=jnp.full((64, 64), jnp.nan)), mlp, {}, True),
    "unused": (with_one(w9=draw(4, 4)), mlp, {}, False),
    "equal units": (
        with_one(w1=jnp.full((64, 64), 0.1), w2=jnp.full((64, 10), 0.1)),
        mlp,
        {},
        True,
    ),
    "cut off": (
        with_one(w1=jnp.zeros((64, 64)), w2=jnp.zeros((64, 10))),
        mlp,
        {},
        True,
    ),
    "wrong fan": (lambda: mixture(scale=1 / 2), experts, {}, False),
    "drawn jointly": (lambda: projections(ji.glorot_normal()), packed, {}, False),
    "transposed": (
        lambda: {
            "w0": draw(24, 64),
            "wide": ji.lecun_normal()(KEY, (256, 64)),
            "w2": draw(256, 10, gain=0.1),
        },
        transposed,
        {},
        False,
    ),
    "drawn scale": (scales(RNG.normal(size=64) / 8), normed, {}, False),
    "cuts nothing": (
        healthy,
        mlp,
        {"scheme": ji.truncated_normal(0.02, bounds="absolute")},
        False,
    ),
    "piled up": (with_one(w1=clipped()), mlp, {}, False),
    "low precision": (
        with_one(w1=draw(64, 64).astype(jnp.bfloat16).astype(jnp.float32)),
        mlp,
        {},
        False,
    ),
    "tied head": (
        lambda: {
            "table": jnp.asarray(RNG.normal(size=(10, 64)), jnp.float32),
            "w": draw(64, 64),
        },
        tied,
        {},
        False,
    ),
    "wrong matrix": (lambda: gates("up"), gated, {}, False),
    "large bias": (with_one(b0=jnp.full(64, 50.0)), mlp, {}, False),
    "stream": (lambda: stack(gain=12.0), stacked, {}, True),
    "vanishing outputs": (lambda: squares(0.7), chain, {}, True),
    "vanishing gradients": (lambda: squares(0.7), chain, {}, True),
    "exploding outputs": (lambda: squares(4.0), chain, {}, True),
    "exploding gradients": (
        lambda: squares(3.0),
        functools.partial(chain, activation=jnp.tanh),
        {},
        True,
    ),
    "dead": (with_one(b0=jnp.where(jnp.arange(64) < 60, -99.0, 0)), mlp, {}, True),
    "saturated": (
        lambda: {**healthy(), "w0": 30 * draw(24, 64)},
        functools.partial(mlp, activation=jnp.tanh),
        {},
        True,
    ),
    "collapsed": (
        lambda: squares(0.5, depth=25),
        lambda p, x: functools.reduce(
            lambda x, w: jnp.tanh(x @ w + 0.5), p.values(), x
        ),
        {},
        True,
    ),
    "attention": (lambda: heads(5.0), attention, {}, True),
    "loss": (lambda: {**healthy(), "w2": draw(64, 10, gain=30.0)}, mlp, {}, True),
    "update": (healthy, mlp, {"learning_rate": 300.0}, True),
    "off the scheme": (healthy, mlp, {"scheme": ji.normal(0.02)}, False),
}
SQUARE = {"vanishing outputs", "vanishing gradients", "exploding outputs"}
SQUARE |= {"exploding gradients", "collapsed"}


@pytest.mark.parametrize("rule", SICK)
def test_what_is_wrong_is_found(rule):
    make, apply, options, serious = SICK[rule]
    if rule in SQUARE:
        x = jnp.asarray(RNG.normal(size=(32, 64)), jnp.float32)
        options = {**options, "labels": None}
    else:
        x = X
    found = audit(make(), apply, x, **options)
    mine = [finding for finding in found.findings if finding.rule == rule]
    assert mine, str(found)
    assert any(finding.serious for finding in mine) == serious, str(found)
    for finding in mine:
        assert finding.sentence.endswith(".") and "\n" not in finding.sentence
        assert finding.remedy and rule in str(finding)
    if serious:
        with pytest.raises(ValueError, match=rule):
            found.raise_if_serious()


def test_a_key_that_was_used_twice():
    def of(params, apply=mlp, x=X):
        return [f for f in audit(params, apply, x).findings if f.rule == "same values"]

    draws = {
        name: ji.he_normal()(KEY, shape)
        for name, shape in (("w1", (64, 64)), ("w2", (64, 10)))
    }
    (finding,) = of({**healthy(), **draws, "w2": 0.1 * draws["w2"]})
    assert finding.path == "w2" and "w1" in finding.sentence
    (finding,) = of(mixture(same=True), experts)
    assert finding.path == "experts" and finding.serious
    assert of(mixture(), experts) == []
    identities = {**healthy(), "w1": jnp.eye(64), "w2": jnp.eye(64)[:, :10]}
    assert of(identities) == []  # a pattern, and no draw


def test_zeros_that_move_are_no_fault():
    params = stack()
    params["down"] = jnp.zeros_like(params["down"])
    assert "cut off" not in rules(audit(params, stacked))
    params["w2"] = jnp.zeros_like(params["w2"])  # a branch and the head
    # What is before tells the branch's units apart.
    assert not {"cut off", "equal units"} & rules(audit(params, stacked))
    params["up"] = jnp.zeros_like(params["up"])  # both factors of a branch
    found = [f for f in audit(params, stacked).findings if f.rule == "cut off"]
    assert {f.path for f in found} == {"up", "down"}


def test_what_is_packed_may_be_drawn_apart():
    """Whose fans are counted, of queries, keys and values and of gates."""
    apart = projections(ji.glorot_normal(fused=3))
    assert "drawn jointly" not in rules(audit(apart, packed))
    assert "drawn jointly" not in rules(audit(projections(ji.lecun_normal()), packed))
    for init, found in (
        (ji.glorot_normal(), True),
        (ji.per_gate(ji.orthogonal()), False),
        (ji.orthogonal(), True),
    ):
        findings = audit(recurrent(init), lstm).findings
        mine = [f for f in findings if f.rule == "drawn jointly"]
        assert ("hidden" in {f.path for f in mine}) == found, init
        assert all("4 gates" in f.sentence for f in mine)


def test_biases_and_scales_by_their_role():
    found = audit({**healthy(), "b0": jnp.full(64, 5.0)}).findings
    assert [(f.rule, f.path) for f in found if f.path == "b0"] == [("large bias", "b0")]
    for value in (np.ones(64), np.zeros(64), np.full(64, 1e-4)):
        assert "drawn scale" not in rules(audit(scales(value)(), normed))


def test_leaves_that_do_not_follow_mup():
    scheme = ji.tree.mup(narrow())
    drawn = ji.reinit(KEY, healthy(), scheme, mlp, (X,))
    assert "off the scheme" not in rules(audit(drawn, scheme=scheme))
    found = audit(healthy(), scheme=scheme).findings
    assert "w2" in {f.path for f in found if f.rule == "off the scheme"}


def test_ends_of_branches_may_be_scaled():
    assert "wrong matrix" not in rules(audit(gates("down"), gated))
    assert "wrong matrix" not in rules(audit(gates(""), gated))


def test_few_examples_say_nothing_of_dead_units():
    apply = lambda p, x: mlp(p, x)  # noqa: E731
    found = ji.audit(apply, healthy(), X[:2], labels=LABELS[:2])
    assert "dead" not in rules(found)


def test_traced_parameters():
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda p: audit(p).report.loss)(healthy())


TOKENS = jnp.asarray(RNG.integers(0, 50, (16, 8)))
NEXT = jnp.asarray(RNG.integers(0, 50, (16, 8)))
IMAGES = jnp.asarray(RNG.normal(size=(16, 8, 8, 3)), jnp.float32)
SERIES = jnp.asarray(RNG.normal(size=(16, 6, 16)), jnp.float32)

WELL = {
    "GPT": lambda: (nets.GPT(2), TOKENS, NEXT),
    "GPT, scanned": lambda: (nets.GPT(4, scan=True, tied=False), TOKENS, NEXT),
    "ResNet": lambda: (nets.ResNet(), IMAGES, None),
    "CNN": lambda: (nets.CNN(depth=2), IMAGES, None),
    "LSTM": lambda: (nets.LSTM(), SERIES, None),
    "Mamba": lambda: (nets.Mamba(), SERIES, None),
}


@pytest.mark.parametrize("name", WELL)
def test_models_as_their_authors_draw_them_have_nothing_wrong(name):
    model, x, labels = WELL[name]()
    found = ji.audit(model, None, x, labels=labels)
    assert found.findings == (), str(found)


def test_experts_whose_axis_flax_counts_in():
    """`nn.initializers` take the axis of experts for a receptive field."""
    found = ji.audit(nets.Experts("dispatched"), None, SERIES)
    assert [(f.rule, f.path) for f in found.findings] == [
        ("wrong fan", "up"),
        ("wrong fan", "down"),
    ]
    assert all("fan-in of 64" in f.sentence for f in found.findings)
