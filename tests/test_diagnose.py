"""The signal report: against numbers taken by hand, in every kind of loop and call."""

from __future__ import annotations

import io
import json
import math

import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_replay import CASES, PARAMS, X, drop_text

import jaxinit as ji
from jaxinit.diagnosis import Report
from jaxinit.diagnosis._measure import Measurement
from jaxinit.trace import program, replay

pytestmark = pytest.mark.usefixtures("users_broadcast")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def statistics(z, batch=0):
    """The columns of a row that its output tells, in float64 and by pairs."""
    z = np.moveaxis(np.asarray(z, np.float64), batch, 0)
    flat = z.reshape(len(z), -1)
    pairs = [
        flat[a] @ flat[b] for a in range(len(flat)) for b in range(len(flat)) if a != b
    ]
    return {
        "mean": z.mean(),
        "std": z.std(),
        "rms": np.sqrt((z**2).mean()),
        "kurtosis": (z**4).mean() / (z**2).mean() ** 2,
        "cosine": np.mean(pairs) / np.mean((flat**2).sum(1)),
    }


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


def close(row, expected, rtol=1e-4, atol=1e-6):
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(row, name), value, rtol, atol, err_msg=f"{row.name}: {name}"
        )


# --- Numbers by hand ------------------------------------------------------------------

LABELS = RNG.integers(0, 3, 16)
INPUTS = normal(16, 6)
MLP = {"w0": normal(6, 7), "b0": normal(7) / 2, "w1": normal(7, 5), "w2": normal(5, 3)}


def mlp(p, x, taps=(0.0, 0.0, 0.0)):
    """A network that returns the outputs of its kernels."""
    one = x @ p["w0"] + taps[0]
    two = jax.nn.relu(one + p["b0"]) @ p["w1"] + taps[1]
    three = jnp.tanh(two) @ p["w2"] + taps[2]
    return three, (one, two, three)


def cross_entropy(logits, labels):
    logs = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logs, labels[:, None], 1)[:, 0]


def test_every_number_of_a_network_by_hand():
    rate = 0.25
    report = ji.diagnose(
        lambda p, x: mlp(p, x)[0],
        MLP,
        INPUTS,
        labels=jnp.asarray(LABELS),
        learning_rate=rate,
    )
    out, seen = mlp(MLP, INPUTS)
    loss = cross_entropy(out, LABELS).mean()
    np.testing.assert_allclose(report.loss, loss, rtol=1e-5)
    assert report.ignorance == math.log(3) and report.examples == 16
    taps = tuple(map(jnp.zeros_like, seen))
    back = jax.grad(lambda t: cross_entropy(mlp(MLP, INPUTS, t)[0], LABELS).sum())(taps)
    grads = jax.grad(lambda p: cross_entropy(mlp(p, INPUTS)[0], LABELS).mean())(MLP)
    assert [row.name for row in report.rows] == ["w0", "w1", "w2"]
    for row, z, g in zip(report.rows, seen, back, strict=True):
        w, dw = np.asarray(MLP[row.name], float), np.asarray(grads[row.name], float)
        g = np.asarray(g)
        close(row, statistics(z))
        close(
            row,
            {
                "kernel_std": w.std(),
                "gradient": rms(g),
                "dead": (g == 0).all(0).mean(),
                "kernel_gradient": np.linalg.norm(dw),
                "update": rate * rms(dw) / rms(w),
            },
        )
        assert row.reason == "" and row.kind == "dense"
    fans = [(row.fan_in, row.fan_out, row.before, row.after) for row in report.rows]
    assert fans == [(6, 7, None, "relu"), (7, 5, "relu", "tanh"), (5, 3, "tanh", None)]
    assert report.leaves.keys() == MLP.keys()
    np.testing.assert_allclose(
        report.leaves["b0"], np.linalg.norm(grads["b0"]), rtol=1e-5
    )
    (tanh,) = report.point_rows
    few = np.asarray(seen[1], float)[:8]
    saturated = (np.abs(np.tanh(few)) > 0.98).mean()
    assert tanh.kind == "tanh" and tanh.name == "w1"
    np.testing.assert_allclose(tanh.saturated, saturated, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    """In float64, an entry of each output moved at a time."""

    def loss(taps):
        one = np.asarray(INPUTS, float) @ MLP["w0"] + taps[0]
        two = np.maximum(one + MLP["b0"], 0) @ MLP["w1"] + taps[1]
        logits = np.tanh(two) @ MLP["w2"] + taps[2]
        most = logits.max(1, keepdims=True)
        logs = logits - most - np.log(np.exp(logits - most).sum(1, keepdims=True))
        return -logs[np.arange(16), LABELS].sum()

    report = ji.diagnose(
        lambda p, x: mlp(p, x)[0], MLP, INPUTS, labels=jnp.asarray(LABELS)
    )
    for layer, width in enumerate((7, 5, 3)):
        slopes = np.zeros((16, width))
        for place in np.ndindex(16, width):
            sides = []
            for step in (1e-6, -1e-6):
                taps = [np.zeros((16, n)) for n in (7, 5, 3)]
                taps[layer][place] = step
                sides.append(loss(taps))
            slopes[place] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(report.rows[layer].gradient, rms(slopes), rtol=1e-4)


def test_units_that_no_example_reaches_are_dead():
    params = {**MLP, "b0": jnp.asarray([-1e4, 0, -1e4, 1, 0, 0, -1e4])}
    report = ji.diagnose(
        lambda p, x: mlp(p, x)[0], params, INPUTS, labels=jnp.asarray(LABELS)
    )
    assert report.rows[0].dead == pytest.approx(3 / 7) and report.rows[1].dead == 0


def test_without_a_loss_gradients_are_jacobians():
    params = {"w0": normal(6, 64), "w1": normal(64, 128) / 8}
    report = ji.diagnose(lambda p, x: x @ p["w0"] @ p["w1"], params, INPUTS)
    assert math.isnan(report.loss) and report.ignorance is None
    norm = np.linalg.norm(params["w1"])  # the Jacobian of one example
    expected = norm / math.sqrt(64)  # a root mean square over 64 entries
    np.testing.assert_allclose(report.rows[0].gradient, expected, rtol=0.1)
    np.testing.assert_allclose(report.rows[1].gradient, 1, rtol=0.1)
    assert math.isnan(report.rows[0].update)


# --- Every loop, branch and call ------------------------------------------------------


def reference(apply, params, x):
    """Rows of outputs and gradients, from all outputs kept and zeros added to them."""
    made = program(apply, params, x)
    keep = lambda p, o, result, g, f: (result, result)  # noqa: E731
    _, outs = jax.jit(lambda: drop_text_of(replay(made, keep)))()
    seen = {site: out for site, out in outs.items() if not made.products[site].unseen}

    def total(taps):
        add = lambda p, o, result, t, f: (  # noqa: E731
            result if t is None else result + t,
            None,
        )
        return noised(replay(made, add, None, taps)[0])

    back = jax.jit(jax.grad(total))(jax.tree.map(jnp.zeros_like, seen))
    return made, outs, back


def drop_text_of(pair):
    return drop_text(pair[0]), pair[1]


def noised(out):
    arrays = [x for x in drop_text(out) if jnp.issubdtype(x.dtype, jnp.inexact)]
    keys = jax.random.split(KEY, len(arrays))
    return sum(
        (x * jax.random.normal(k, x.shape, x.dtype)).sum()
        for k, x in zip(keys, arrays, strict=True)
    )


@pytest.mark.parametrize("name", [name for name in CASES if name != "until"])
def test_in_every_kind_of_program(name):
    report = ji.diagnose(CASES[name], PARAMS, X)
    made, outs, back = reference(CASES[name], PARAMS, X)
    rows = {row.name: row for row in report.rows}
    assert len(rows) == len(report.rows)
    for site, product in made.products.items():
        (part,) = product.parts
        lengths = [loop.length for loop in product.loops]
        for place in np.ndindex(*lengths):
            layer = [
                k for k, axis in zip(place, part.axes, strict=True) if axis is not None
            ]
            if len(layer) < len(place):
                continue  # pooled; see below
            text = f"[{', '.join(map(str, layer))}]" if layer else ""
            second = f" ({part.number})" if part.number > 1 else ""
            row = rows[f"{part.path}{second}{text}"]
            z = np.asarray(outs[site][place])
            told = statistics(z, batch=z.shape.index(8)) if 8 in z.shape else {}
            close(row, told | {"rms": rms(z), "mean": z.mean()}, rtol=2e-4)
            if product.unseen:
                assert math.isnan(row.gradient) and row.reason == product.unseen
            elif np.isfinite(z).all():
                close(row, {"gradient": rms(back[site][place])})
            else:
                assert math.isnan(row.gradient) and math.isnan(row.dead)


def test_what_all_iterations_share_is_pooled():
    made, outs, back = reference(CASES["recurrent"], PARAMS, X)
    (row,) = ji.diagnose(CASES["recurrent"], PARAMS, X).rows
    (site,) = outs
    close(row, {"rms": rms(outs[site]), "gradient": rms(back[site])})


def test_devices_are_pooled():
    report = ji.diagnose(CASES["sharded"], PARAMS, X)
    plain = ji.diagnose(CASES["scanned"], PARAMS, X)
    assert [row.name for row in report.rows] == [f"stack[{k}]" for k in range(4)]
    for row, other in zip(report.rows, plain.rows, strict=True):
        same = ("mean", "std", "rms", "kurtosis", "kernel_std")
        close(row, {name: getattr(other, name) for name in same})
        assert row.gradient > 0

    mesh = jax.make_mesh((4,), ("d",), (AxisType.Auto,))
    part = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]  # noqa: E731
    split = jax.shard_map(part, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))
    labels = jnp.asarray(normal(8, 6))
    ours = ji.diagnose(lambda p, x: split(p, x), PARAMS, X, labels=labels)
    plain = ji.diagnose(part, PARAMS, X, labels=labels)
    for row, other in zip(ours.rows, plain.rows, strict=True):
        same = ("rms", "gradient", "kernel_gradient", "kurtosis")
        close(row, {name: getattr(other, name) for name in same})


def test_a_while_loop_is_seen_forward_alone():
    report = ji.diagnose(CASES["until"], PARAMS, X)
    (row,) = report.rows
    once = X @ PARAMS["w"]
    both = np.concatenate([once, jnp.tanh(once) @ PARAMS["w"]])
    close(row, {"rms": rms(both), "std": both.std()})
    assert math.isnan(row.gradient) and math.isnan(row.kernel_gradient)
    assert "while loop" in report.notes[0] and "while loop" in str(report)


def test_a_branch_within_a_loop_counts_where_it_runs():
    def apply(p, x):
        def layer(x, k):
            one, two = lambda x: x @ p["w"], lambda x: x @ p["v"]  # noqa: E731
            return jnp.tanh(jax.lax.cond(k < 3, one, two, x)), None

        return jax.lax.scan(layer, x, jnp.arange(4))[0]

    rows = {row.name: row for row in ji.diagnose(apply, PARAMS, X).rows}
    x, outs = X, []
    for k in range(4):
        outs.append(x @ PARAMS["w" if k < 3 else "v"])
        x = jnp.tanh(outs[-1])
    close(rows["w"], {"rms": rms(outs[:3])})
    close(rows["v"], {"rms": rms(outs[3])} | statistics(outs[3]))
    assert rows["w"].gradient > 0 and rows["v"].gradient > 0


def test_kernels_side_by_side_and_a_kernel_used_twice():
    params = {"w": PARAMS["w"], "v": 10 * PARAMS["v"], "o": normal(12, 6)}

    def apply(p, x):
        both = x @ jnp.concatenate([p["w"], p["v"]], axis=1)
        return jnp.tanh(both) @ p["o"] @ p["w"]

    report = ji.diagnose(apply, params, X)
    assert [row.name for row in report.rows] == ["w", "v", "o", "w (2)"]
    w, v, *_ = report.rows
    close(w, statistics(X @ params["w"]))
    close(v, statistics(X @ params["v"]))

    def tapped(taps):
        one, two = X @ params["w"] + taps[0], X @ params["v"] + taps[1]
        both = jnp.concatenate([one, two], axis=1)
        return noised(jnp.tanh(both) @ params["o"] @ params["w"])

    zeros = (jnp.zeros((8, 6)),) * 2
    for row, g in zip((w, v), jax.grad(tapped)(zeros), strict=True):
        close(row, {"gradient": rms(g)})


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_powers_neither_vanish_nor_overflow(scale):
    def report(scale):
        params = {"w": normal_of(6, 6) * scale, "v": normal_of(6, 6) / scale}
        return ji.diagnose(lambda p, x: x @ p["w"] @ p["v"], params, X)

    def normal_of(*shape):
        return np.random.default_rng(3).normal(size=shape).astype(np.float32)

    (first, last), (one, two) = report(np.float32(scale)).rows, report(1).rows
    for name in ("mean", "std", "rms", "kernel_std"):
        np.testing.assert_allclose(
            getattr(first, name) / scale, getattr(one, name), rtol=1e-3
        )
    np.testing.assert_allclose(first.gradient * scale, one.gradient, rtol=1e-3)
    close(first, {"kurtosis": one.kurtosis, "cosine": one.cosine}, rtol=1e-3)
    close(last, {"std": two.std, "kurtosis": two.kurtosis}, rtol=1e-3)
    np.testing.assert_allclose(
        last.kernel_gradient / scale, two.kernel_gradient, rtol=1e-3
    )


def test_low_precision_and_complex_numbers():
    params = {"w": jnp.asarray(PARAMS["w"], jnp.bfloat16)}
    x = jnp.asarray(X, jnp.bfloat16)
    (row,) = ji.diagnose(lambda p, x: x @ p["w"], params, x).rows
    close(row, statistics((x @ params["w"]).astype(jnp.float32)), 1e-2, 1e-3)
    w = jnp.asarray(normal(6, 5) + 1j * normal(6, 5))
    (row,) = ji.diagnose(
        lambda p, x: (x @ p["w"]).real, {"w": w}, X.astype(w.dtype)
    ).rows
    z = np.asarray(X) @ np.asarray(w)
    close(row, {"rms": rms(np.stack([z.real, z.imag]))})


def test_a_convolution_and_features_that_come_first():
    images = normal(5, 8, 8, 2)
    params = {"k": normal(3, 3, 2, 4)}

    def conv(p, x):
        return jax.lax.conv_general_dilated(
            x, p["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    (row,) = ji.diagnose(conv, params, images).rows
    close(row, statistics(conv(params, images)))
    assert row.kind == "conv" and row.fan_in == 18

    dead = jnp.where(jnp.arange(5) < 2, -1e4, 0.0)
    apply = lambda p, x: jax.vmap(  # noqa: E731
        lambda x: jax.nn.relu(p["w"] @ x + dead) @ p["v"]
    )(x)
    params = {"w": normal(5, 6), "v": normal(5, 3)}
    row, _ = ji.diagnose(apply, params, X).rows
    close(row, statistics(X @ params["w"].T) | {"dead": 0.4})


# --- Streams, attention, transformers -------------------------------------------------


def attend(softmax):
    def apply(p, x):
        q, k, v = (x @ p[name] for name in "qkv")
        logits = jnp.einsum("bqd,bkd->bqk", q, k) / 6**0.5
        seen = jnp.tril(jnp.ones((4, 4), bool))
        weights = softmax(jnp.where(seen, logits, -1e9))
        return x + jnp.einsum("bqk,bkd->bqd", weights, v) @ p["o"]

    return apply


def by_hand(logits):
    e = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


SOFTMAX = {
    "jax": jax.nn.softmax,
    "by hand": by_hand,
    "in a call": jax.jit(jax.checkpoint(by_hand)),
    "where": lambda x: jax.nn.softmax(x, where=x > -1e8),
}


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("mapped", [False, True])
def test_entropy_and_logits_of_an_attention(name, mapped):
    params = {name: normal(6, 6) / 2 for name in "qkvo"}
    x = normal(3, 4, 6)
    apply = attend(SOFTMAX[name])
    if mapped:
        apply = lambda p, x, f=apply: jax.vmap(  # noqa: E731
            lambda x: f(p, x[None])[0]
        )(x)
    report = ji.diagnose(apply, params, x)
    attention, stream = report.point_rows
    assert (attention.kind, stream.kind) == ("attention", "stream")
    assert stream.name == "o"
    np.testing.assert_allclose(
        stream.rms, rms(attend(jax.nn.softmax)(params, x)), rtol=1e-5
    )
    logits = np.einsum("bqd,bkd->bqk", x @ params["q"], x @ params["k"]) / 6**0.5
    entropies, variances = [], []
    for rows in logits.astype(float):
        for q in range(1, 4):  # the first sees itself alone
            row = rows[q, : q + 1]
            w = np.exp(row - row.max())
            w /= w.sum()
            entropies.append(-(w * np.log(w)).sum() / np.log(q + 1))
            variances.append(row.var())
    np.testing.assert_allclose(attention.entropy, np.mean(entropies), rtol=1e-4)
    np.testing.assert_allclose(
        attention.logit_std, np.sqrt(np.mean(variances)), rtol=1e-4
    )


def test_what_is_no_attention():
    routed = lambda p, x: jax.nn.softmax(x @ p["w"]) * (x @ p["v"])  # noqa: E731
    assert ji.diagnose(routed, PARAMS, X).points == ()
    gelu = lambda p, x: jax.nn.gelu(x @ p["w"]) @ p["v"]  # noqa: E731
    assert ji.diagnose(gelu, PARAMS, X).points == ()
    gate = lambda p, x: jax.nn.sigmoid(x @ p["w"]) * x  # noqa: E731
    assert [kind for _, kind in ji.diagnose(gate, PARAMS, X).points] == ["sigmoid"]


TOKENS = RNG.integers(0, 50, (4, 8))


def unstacked(params, layers):
    """The parameters of a scanned GPT as those of one that lists its blocks."""
    listed = {k: v for k, v in params.items() if k != "blocks"}
    for k in range(layers):
        listed[f"block_{k}"] = jax.tree.map(lambda x, k=k: x[k], params["blocks"])
    return listed


def test_a_scanned_transformer_has_the_rows_of_a_listed_one():
    scanned, listed = nets.GPT(2, scan=True), nets.GPT(2)
    variables = jax.jit(scanned.init)(KEY, TOKENS)
    loss = lambda out: out.mean(axis=(1, 2)) ** 2  # noqa: E731
    ours = ji.diagnose(scanned, variables, TOKENS, loss=loss)
    others = {"params": unstacked(variables["params"], 2)}
    theirs = ji.diagnose(listed, others, TOKENS, loss=loss)
    assert len(ours.rows) == len(theirs.rows) == 2 * 6 + 1
    for row, other in zip(ours.rows, theirs.rows, strict=True):
        path, _, place = row.name.removesuffix("]").partition("[")
        assert other.name == path.replace("blocks", f"block_{place}")
        for name in ("mean", "std", "kurtosis", "cosine", "gradient", "kernel_std"):
            close(row, {name: getattr(other, name)}, rtol=1e-3, atol=1e-5)
    marks = [(row.kind, row.rms, row.entropy) for row in ours.point_rows]
    expected = [(row.kind, row.rms, row.entropy) for row in theirs.point_rows]
    assert [kind for kind, *_ in marks] == ["attention", "stream", "stream"] * 2
    for mark, other in zip(marks, expected, strict=True):
        assert mark[0] == other[0]
        np.testing.assert_allclose(mark[1:], other[1:], rtol=1e-4)
    assert ours.stream.layers == 4 and ours.stream.factor > 1


# --- What it costs --------------------------------------------------------------------


def temporary(function, *args):
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("name", ["MLP", "scanned", "listed", "recomputed"])
def test_nothing_of_the_size_of_an_activation_is_kept(name):
    if name == "MLP":
        params = {f"w{k}": normal(64, 64) for k in range(32)}

        def apply(p, x):
            for k in range(32):
                x = jnp.tanh(x @ p[f"w{k}"])
            return x

        x = normal(512, 64)
    else:
        model = nets.GPT(scan=name == "scanned", layers=2)
        x = RNG.integers(0, 50, (64, 16))
        params = jax.jit(model.init)(KEY, x)["params"]
        apply = lambda p, x: model.apply({"params": p}, x)  # noqa: E731
        if name == "recomputed":
            apply = jax.checkpoint(apply)
    measurement = Measurement(apply, params, (x,), len(x))
    loss = lambda out: jnp.mean(out**2)  # noqa: E731
    ours = temporary(lambda p, x: measurement(p, (x,), loss, KEY), params, x)
    plain = temporary(jax.value_and_grad(lambda p, x: loss(apply(p, x))), params, x)
    grads = sum(leaf.nbytes for leaf in jax.tree.leaves(params))  # results there
    assert ours <= 1.1 * (plain + grads)


def test_it_works_within_a_compiled_function_and_for_many_parameters():
    apply = lambda p, x: mlp(p, x)[0]  # noqa: E731

    @jax.jit
    def sizes(p, x):
        report = ji.diagnose(apply, p, x, labels=jnp.asarray(LABELS))
        with pytest.raises(TypeError, match="traced"):
            _ = report.rows
        return report

    inside, outside = (
        sizes(MLP, INPUTS),
        ji.diagnose(apply, MLP, INPUTS, labels=jnp.asarray(LABELS)),
    )
    assert isinstance(inside, Report)
    for row, other in zip(inside.rows, outside.rows, strict=True):
        close(row, {"rms": other.rms, "gradient": other.gradient})
    two = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x), 2 * x]), MLP)
    rms_of = lambda p: ji.diagnose(apply, p, INPUTS).columns["rms"]  # noqa: E731
    found = jax.vmap(rms_of)(two)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[0], [row.rms for row in outside.rows], rtol=1e-5)
    np.testing.assert_allclose(found[1, 0], 2 * found[0, 0], rtol=1e-5)


# --- Models ---------------------------------------------------------------------------


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(use_running_average=not train)(100 * x)
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def test_a_model_of_linen_is_in_training():
    report = ji.diagnose(Normed(), None, INPUTS, labels=jnp.asarray(LABELS))
    assert [row.name for row in report.rows] == ["Dense_0/kernel", "Dense_1/kernel"]
    assert report.rows[1].rms < 20  # normalized by the batch
    variables = Normed().init(KEY, INPUTS)
    again = ji.diagnose(Normed(), variables, INPUTS, labels=jnp.asarray(LABELS))
    alone = ji.diagnose(
        Normed(), variables["params"], INPUTS, labels=jnp.asarray(LABELS)
    )
    assert again.rows[0].rms == alone.rows[0].rms == report.rows[0].rms
    with pytest.raises(TypeError, match="no tree such as the model's init"):
        ji.diagnose(Normed(), {"params": {"w": INPUTS}}, INPUTS)


def test_models_of_nnx_equinox_haiku_and_pairs():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one = nnx.Linear(6, 8, rngs=rngs)
            self.two = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.two(nnx.relu(self.one(x)))

    net = Net(nnx.Rngs(0))
    report = ji.diagnose(net, None, INPUTS)
    assert [row.name for row in report.rows] == ["one/kernel", "two/kernel"]
    close(report.rows[0], {"rms": rms(INPUTS @ net.one.kernel[...])})

    pair = (lambda key: MLP, lambda p, x: mlp(p, x)[0])
    for params in (None, MLP):
        report = ji.diagnose(pair, params, INPUTS)
        assert [row.name for row in report.rows] == ["w0", "w1", "w2"]


def test_a_module_of_equinox():
    eqx = pytest.importorskip("equinox")
    module = eqx.nn.MLP(6, 3, 8, 2, key=KEY)
    report = ji.diagnose(module, None, INPUTS)
    assert [row.name for row in report.rows] == [f"layers/{k}/weight" for k in range(3)]
    weight = np.asarray(module.layers[0].weight)
    close(report.rows[0], statistics(INPUTS @ weight.T))
    assert report.rows[0].kernel_gradient > 0
    call = lambda module, x: jax.vmap(module)(x)  # noqa: E731
    again = ji.diagnose(call, module, INPUTS, optimizer=None)
    close(again.rows[2], {"rms": report.rows[2].rms})


def test_a_function_of_haiku():
    hk = pytest.importorskip("haiku")
    net = hk.transform(lambda x: hk.nets.MLP([8, 3])(x))
    report = ji.diagnose(net, None, INPUTS)
    assert [row.kind for row in report.rows] == ["dense", "dense"]


def test_an_optimizers_first_update():
    optax = pytest.importorskip("optax")
    with jax.numpy_dtype_promotion("standard"):  # optax's own
        report = ji.diagnose(
            lambda p, x: mlp(p, x)[0],
            MLP,
            INPUTS,
            labels=jnp.asarray(LABELS),
            optimizer=optax.adam(1e-3),
        )
    for row in report.rows:
        assert row.update == pytest.approx(1e-3 / rms(MLP[row.name]), rel=0.2)


# --- Words ----------------------------------------------------------------------------


def chain(scheme, activation=jax.nn.relu, depth=24, width=128, gain=None):
    params = {f"layer_{k}": jnp.zeros((width, width)) for k in range(depth)}

    def apply(p, x):
        for k in range(depth):
            x = activation(x @ p[f"layer_{k}"])
        return x

    x = jnp.asarray(normal(64, width))
    params = ji.reinit(KEY, params, scheme, apply, (x,), gain=gain)
    return ji.diagnose(apply, params, x)


def test_growth_and_verdict():
    report = chain(ji.glorot_normal())
    assert report.forward.factor == pytest.approx(0.5**0.5, rel=0.03)
    assert report.backward.factor == pytest.approx(0.5**0.5, rel=0.03)
    assert 0 < report.forward.error < 0.02 and report.forward.layers == 24
    assert "shrink by 0.7" in report.verdict
    assert "jaxinit.he_normal()" in report.verdict and "sqrt 2" in report.verdict
    report = chain(ji.normal(0.3))
    assert "grow by" in report.verdict
    report = chain(ji.he_normal())
    assert report.verdict.startswith("Nothing stands out. ")
    np.testing.assert_allclose(report.theory(), report.theory()[0], rtol=0.2)
    assert chain(ji.lecun_normal(), jnp.tanh, gain="critical").verdict.startswith(
        "Nothing"
    )
    assert "gain='critical'" in chain(ji.normal(0.02), jnp.tanh).verdict


def test_theory_beside_a_tanh_chain():
    report = chain(ji.lecun_normal(), jnp.tanh, depth=6, width=512)
    measured = [row.rms for row in report.rows]
    np.testing.assert_allclose(report.theory(), measured, rtol=0.05)
    assert chain(ji.lecun_normal(), jnp.arctan).theory() is None


def test_tables_json_pandas_and_figures(tmp_path):
    report = ji.diagnose(
        lambda p, x: mlp(p, x)[0], MLP, INPUTS, labels=jnp.asarray(LABELS)
    )
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["layer", "fan", "in"] and lines[1].startswith("w0")
    content = json.loads(report.to_json())
    assert [row["name"] for row in content["layers"]] == ["w0", "w1", "w2"]
    assert content["layers"][0]["update"] is None and content["examples"] == 16
    assert content["points"][0]["kind"] == "tanh"
    frame = report.to_pandas()
    assert list(frame.index) == ["w0", "w1", "w2"]
    assert frame.loc["w1", "rms"] == report.rows[1].rms
    forward, backward = report.plot()
    forward.figure.savefig(tmp_path / "signal.svg")
    np.testing.assert_allclose(
        forward.lines[0].get_ydata(), [row.rms for row in report.rows]
    )
    assert backward.get_yscale() == "log"
    rich = pytest.importorskip("rich.console")
    shown = io.StringIO()
    rich.Console(width=200, file=shown).print(report)
    assert "w1" in shown.getvalue()


def test_bad_input_is_told_in_one_sentence():
    apply = lambda p, x: x @ p["w"]  # noqa: E731
    shape = jax.ShapeDtypeStruct((6, 6), jnp.float32)
    for raised, says, call in (
        (
            TypeError,
            "int32 and no floating",
            lambda: ji.diagnose(apply, {"w": jnp.ones((6, 6), int)}, X),
        ),
        (TypeError, "no arrays", lambda: ji.diagnose(apply, {}, X)),
        (TypeError, "ShapeDtypeStructs", lambda: ji.diagnose(apply, {"w": shape}, X)),
        (TypeError, "ShapeDtypeStruct", lambda: ji.diagnose(apply, PARAMS, shape)),
        (ValueError, "no inputs", lambda: ji.diagnose(apply, PARAMS)),
        (TypeError, "params=None", lambda: ji.diagnose(apply, None, X)),
        (
            ValueError,
            "no parameter is a kernel",
            lambda: ji.diagnose(lambda p, x: x + p["w"][0], PARAMS, X),
        ),
        (
            ValueError,
            "pass labels",
            lambda: ji.diagnose(apply, PARAMS, X, learning_rate=0.1),
        ),
        (
            ValueError,
            "no logits",
            lambda: ji.diagnose(apply, PARAMS, X, labels=jnp.ones((8, 2), int)),
        ),
        (
            ValueError,
            "must be the same",
            lambda: ji.diagnose(apply, PARAMS, X, labels=jnp.ones((8, 2))),
        ),
    ):
        with pytest.raises(raised, match=says) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_command(capsys, tmp_path):
    cli = pytest.importorskip("jaxinit.compare.cli")
    small = ["diagnose", "--task", "digits-mlp(depth=4, width=32)"]
    figure = tmp_path / "signal.png"
    assert cli.run([*small, "--scheme", "normal(0.001)", "--plot", str(figure)]) == 0
    said = capsys.readouterr().out
    assert "Dense_4/kernel" in said and "vanishing outputs" in said
    assert "jaxinit.he_normal()" in said and figure.stat().st_size > 1000
    assert cli.run([*small, "--learning-rate", "0.01", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["layers"]) == 5 and content["ignorance"] == math.log(10)
    assert content["layers"][0]["update"] > 0
    assert cli.run(["diagnose", "--scheme", "he_norml"]) == 2


def test_a_task_brings_all_that_is_measured():
    tasks = pytest.importorskip("jaxinit.compare")
    task = tasks.digits_mlp(depth=2, width=16)
    report = ji.diagnose(task)
    assert len(report.rows) == 3 and report.ignorance == math.log(10)
    with pytest.raises(ValueError, match="pass none of them"):
        ji.diagnose(task, None, X)
