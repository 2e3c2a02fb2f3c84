"""The replay of a program: what it keeps as it is, and what can be done on the way."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from test_leaves import MODELS

from jaxinit.trace import arrays_of, kernels, layers, outputs, program, replay

pytestmark = pytest.mark.usefixtures("users_broadcast")
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape) / shape[-2] ** 0.5, jnp.float32)


def plain(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


def called(p, x):
    return jax.jit(jax.checkpoint(plain))(p, x)


def scanned(p, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x.sum()), x, p["stack"])


def backwards(p, x):
    step = lambda x, w: (jnp.tanh(x @ w), x)  # noqa: E731
    return jax.lax.scan(step, x, p["stack"], reverse=True)


def nested(p, x):
    outer = lambda x, pair: scanned({"stack": pair}, x)  # noqa: E731
    return jax.lax.scan(outer, x, p["stack"].reshape(2, 2, 6, 6))


def recomputed(p, x):
    policy = jax.checkpoint_policies.dots_saveable
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), policy=policy)
    return jax.lax.scan(layer, x, p["stack"])[0]


def recurrent(p, x):
    step = lambda h, x: (jnp.tanh(x + h @ p["w"]), h)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros(6), x)


def counted(p, x):
    return jax.lax.fori_loop(0, 3, lambda k, x: jnp.tanh(x @ p["stack"][k]), x)


def until(p, x):
    test = lambda state: (state[0] < 2) & (state[1].sum() < 1e9)  # noqa: E731
    step = lambda state: (state[0] + 1, jnp.tanh(state[1] @ p["w"]))  # noqa: E731
    return jax.lax.while_loop(test, step, (0, x))[1]


def branched(p, x):
    one, two = lambda x: x @ p["w"], lambda x: jnp.sin(x) @ p["v"]  # noqa: E731
    return jax.lax.cond(x[0, 0] > 1e3, one, two, x)


def switched(p, x):
    branches = [lambda x, w=w: x @ w for w in p["stack"]]
    return jax.lax.switch(2, branches, x)


def mapped(p, x):
    return jax.vmap(lambda w: jnp.tanh(x @ w), out_axes=1)(p["stack"])


def with_jvp(p, x):
    @jax.custom_jvp
    def product(w, x):
        return x @ w

    product.defjvp(lambda at, by: (product(*at), 2 * at[1] @ by[0] + by[1] @ at[0]))
    return jnp.tanh(product(p["w"], x)) @ p["v"]


def with_vjp(p, x):
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(
        lambda w, x: (product(w, x), (w, x)),
        lambda kept, g: (3 * kept[1].T @ g, g @ kept[0].T),
    )
    return product(p["w"], x) @ p["v"]


def differentiated(p, x):
    energy = lambda x: jnp.tanh(x @ p["w"]).sum()  # noqa: E731
    return x - jax.grad(energy)(x)


def with_state(p, x):
    seen = jax.new_ref(jnp.zeros(()))

    def step(x, w):
        seen[...] += x.sum()
        return jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(step, x, p["stack"])
    return x, seen[...]


def sharded(p, x):
    mesh = jax.make_mesh((4,), ("d",), (AxisType.Auto,))

    def part(p, x):
        y = scanned(p, x)[0]
        return y, jax.lax.psum(y.sum(), "d")

    specs = {"in_specs": (P(), P("d")), "out_specs": (P("d"), P())}
    return jax.shard_map(part, mesh=mesh, **specs)(p, x)


def observed(p, x):
    def layer(x, w):
        jax.debug.callback(lambda mean: None, (x @ w).mean())
        return jnp.tanh(x @ w), None

    return jax.lax.scan(layer, x, p["stack"])[0]


def structured(p, x):
    return {"out": x @ p["w"], "text": "as it is", "pair": (x, None)}


PARAMS = {"w": normal(6, 6), "v": normal(6, 6), "stack": normal(4, 6, 6)}
CASES = {
    f.__name__: f
    for f in (
        plain,
        called,
        scanned,
        backwards,
        nested,
        recomputed,
        recurrent,
        counted,
        until,
        branched,
        switched,
        mapped,
        with_jvp,
        with_vjp,
        differentiated,
        with_state,
        sharded,
        observed,
        structured,
    )
}


def keep(product, operands, result, given, found):
    return result, result


def visited(made, visit, *trees, given=None):
    return jax.jit(lambda arrays, given: arrays_only(made, visit, arrays, given))(
        arrays_of(*trees), given or {}
    )


def arrays_only(made, visit, arrays, given):
    out, found = replay(made, visit, arrays, given)
    return [x for x in jax.tree.leaves(out) if not isinstance(x, str)], found


each = pytest.mark.parametrize("name", CASES)


@each
def test_what_is_only_seen_stays_as_it_is(name):
    apply = CASES[name]
    made = program(apply, PARAMS, X)
    assert made.products and not made.missed
    out, found = visited(made, keep, PARAMS, X)
    plain = jax.tree.leaves(jax.jit(lambda *a: drop_text(apply(*a)))(PARAMS, X))
    for ours, theirs in zip(out, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.keys() == made.products.keys()
    for site, product in made.products.items():
        lengths = tuple(x.length for x in product.loops if x.length is not None)
        assert found[site].shape[: len(lengths)] == lengths


def drop_text(tree):
    return [x for x in jax.tree.leaves(tree) if not isinstance(x, str)]


@each
def test_gradients_stay_as_they_are(name):
    if name == "until":
        pytest.skip("no gradient goes back through a while loop")
    made = program(CASES[name], PARAMS, X)

    def total(out):
        return sum(jnp.sin(x).sum() for x in drop_text(out))

    def ours(params):
        return total(replay(made, keep, arrays_of(params, X))[0])

    grads = jax.jit(jax.grad(ours))(PARAMS)
    plain = jax.jit(jax.grad(lambda params: total(CASES[name](params, X))))(PARAMS)
    for path in PARAMS:
        np.testing.assert_allclose(grads[path], plain[path], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["recomputed", "called"])
def test_a_checkpoint_keeps_no_more_than_before(name):
    made = program(CASES[name], PARAMS, X)
    mean = lambda p, o, result, g, f: (result, jnp.mean(result))  # noqa: E731

    def ours(params):
        out, found = replay(made, mean, arrays_of(params, X))
        return out.sum(), found

    text = str(jax.make_jaxpr(jax.grad(ours, has_aux=True))(PARAMS))
    plain = str(jax.make_jaxpr(jax.grad(lambda p: CASES[name](p, X).sum()))(PARAMS))
    count = lambda text: len(re.findall(r"\bremat2|checkpoint\[", text))  # noqa: E731
    assert count(text) == count(plain) > 0


def rows(made):
    return [
        (part.path, part.axes, [loop.kind for loop in product.loops])
        for product in made.products.values()
        for part in product.parts
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", [("w", (), []), ("v", (), [])]),
        ("scanned", [("stack", (0,), ["scan"])]),
        ("nested", [("stack", (0, 0), ["scan", "scan"])]),
        ("recurrent", [("w", (None,), ["scan"])]),
        ("until", [("w", (None,), ["while"])]),
        ("branched", [("v", (), []), ("w", (), [])]),
        ("sharded", [("stack", (None, 0), ["shard_map", "scan"])]),
        ("mapped", [("stack", (), [])]),
    ],
)
def test_where_products_are(name, expected):
    assert rows(program(CASES[name], PARAMS, X)) == expected


def test_reasons_why_a_gradient_is_not_seen():
    said = {
        name: {p.unseen for p in program(CASES[name], PARAMS, X).products.values()}
        for name in ("plain", "with_jvp", "with_vjp", "until", "scanned")
    }
    assert said["plain"] == said["scanned"] == {""}
    for name in ("with_jvp", "with_vjp"):
        assert any("its own derivative" in text for text in said[name])
        assert "" in said[name]
    assert "while loop" in said["until"].pop()


def test_parts_features_and_numbers():
    def apply(p, x):
        both = x @ jnp.concatenate([p["w"], p["v"]], axis=1)
        heads = jnp.einsum("bd,dhk->bhk", both[:, :6], p["q"])
        back = jnp.einsum("hkd,bhk->bd", p["o"], heads)
        each = jax.vmap(jnp.matmul)(jnp.stack([back] * 4), p["stack"])
        return each.sum(0) @ p["w"].T

    params = {**PARAMS, "q": normal(6, 2, 3), "o": normal(2, 3, 6)}
    first, q, o, stack, tied = program(apply, params, X).products.values()
    assert [(part.path, part.span) for part in first.parts] == [
        ("w", (1, 0, 6)),
        ("v", (1, 6, 12)),
    ]
    assert first.operand == 0 and first.features == (1,)
    assert (q.operand, q.features) == (0, (1, 2))
    assert (o.operand, o.features) == (0, (1,))  # einsum has put the activations first
    assert stack.features == (2,) and stack.parts[0].use.batch_axes == (0,)
    assert [part.number for part in (first.parts[0], tied.parts[0])] == [1, 2]


def test_convolutions_and_products_by_hand():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), feature_group_count=2)(x)
            w = self.param("w", nn.initializers.normal(), (4, 5))
            return (x.mean((1, 2))[:, :, None] * w).sum(1)

    images = jnp.ones((2, 5, 5, 2))
    params = Net().init(jax.random.key(0), images)["params"]
    apply = lambda p, x: Net().apply({"params": p}, x)  # noqa: E731
    conv, by_hand = program(apply, params, images).products.values()
    assert conv.features == (3,) and conv.operand == 0
    assert by_hand.operand is None and by_hand.features == (1,)
    found = outputs(apply, params, images)
    np.testing.assert_allclose(found["w"], apply(params, images), rtol=1e-6)


def norm(w):
    return w / jnp.sqrt(jnp.sum(w**2, axis=0, keepdims=True))


LINEAR = {  # how the kernel is made of w and v, and whether it is linear in each
    "itself": (lambda w, v, x: w, {"w": True}),
    "moved": (lambda w, v, x: w.reshape(2, 3, 6)[::-1].reshape(6, 6).T, {"w": True}),
    "scaled": (lambda w, v, x: 3 * w / 7 - 2 * w, {"w": True}),
    "masked": (lambda w, v, x: jnp.where(jnp.eye(6) > 0, w, 0.0), {"w": True}),
    "by a gain": (lambda w, v, x: w * v[0], {"w": True}),
    "a product": (lambda w, v, x: w @ v, {}),
    "modulated": (lambda w, v, x: w * jnp.exp(x[0])[:, None], {"w": True}),
    "side by side": (lambda w, v, x: jnp.hstack([w, v]), {"w": True, "v": True}),
    "called": (lambda w, v, x: jax.jit(jax.checkpoint(jnp.transpose))(w), {"w": True}),
    "normalized": (lambda w, v, x: norm(w), {"w": False}),
    "with a gain": (lambda w, v, x: norm(w) * v[0], {"w": False}),
    "shifted": (lambda w, v, x: w + 1, {"w": False}),
    "a sum of two": (lambda w, v, x: w + v, {}),
    "low rank": (lambda w, v, x: w + v[:, :2] @ v[:2], {"w": False}),
    "bent": (lambda w, v, x: jnp.tanh(w), {"w": False}),
    "squared": (lambda w, v, x: w * w, {"w": False}),
    "chosen by itself": (lambda w, v, x: jnp.where(w > 1, w, 2 * w), {"w": False}),
    "quantized": (lambda w, v, x: w.astype(jnp.int8).astype(w.dtype), {"w": False}),
    "rounded": (lambda w, v, x: jnp.round(w), {"w": False}),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("loop", [False, True], ids=["", "in a scan"])
def test_whether_a_kernel_is_linear_in_its_leaf(name, loop):
    make, expected = LINEAR[name]

    def apply(p, x):
        if not loop:
            return x @ make(p["w"], p["v"], x)
        p = jax.tree.map(lambda w: jnp.stack([w] * 2), p)
        step = lambda x, p: (x, x @ make(p["w"], p["v"], x))  # noqa: E731
        return jax.lax.scan(step, x, p)[1]

    params = {"w": PARAMS["w"], "v": PARAMS["v"]}
    found = {
        part.path: part.linear
        for product in program(apply, params, X).products.values()
        for part in product.parts
    }
    for path, told in expected.items():
        assert found.get(path, told) is told
        if told and path in found:  # and so it is
            doubled = {**params, path: 2 * params[path]}
            at = lambda p: jnp.hsplit(make(p["w"], p["v"], X), 2)  # noqa: E731
            side = ["w", "v"].index(path) if name == "side by side" else slice(None)
            np.testing.assert_allclose(
                2 * np.array(at(params)[side]), at(doubled)[side], rtol=1e-5
            )


# --- The uses that other rooms make of it ---------------------------------------------


def deep(p, x):
    """Dense, three layers of a scan, a recurrence over four steps, and a readout."""
    x = jnp.tanh(x @ p["first"])
    x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["stack"])[0]
    step = lambda h, _: (jnp.tanh(x + h @ p["hidden"]), None)  # noqa: E731
    h = jax.lax.scan(step, jnp.zeros_like(x), length=4)[0]
    return h @ p["last"]


DEEP = {
    "first": 3 * normal(6, 8),
    "stack": jnp.asarray([[[5.0]], [[0.01]], [[2.0]]]) * normal(3, 8, 8),
    "hidden": normal(8, 8),
    "last": 7 * normal(8, 2),
}


def test_a_visit_that_rescales_on_the_fly():
    made = program(deep, DEEP, X)
    once = {
        site
        for site, product in made.products.items()
        if all(axis is not None for axis in product.parts[0].axes)
    }

    def unit(product, operands, result, given, found):
        if product.site not in once:
            return result, None
        scale = 1 / jnp.std(result)
        return scale * result, scale

    _, scales = visited(made, unit, DEEP, X)
    assert {made.products[s].parts[0].path for s in scales} == {
        "first",
        "stack",
        "last",
    }
    scaled = dict(DEEP)
    for site, scale in scales.items():
        path = made.products[site].parts[0].path
        shape = scale.shape + (1,) * (DEEP[path].ndim - scale.ndim)
        scaled[path] = scale.reshape(shape) * DEEP[path]
    deviation = lambda p, o, result, g, f: (result, jnp.std(result))  # noqa: E731
    _, found = visited(made, deviation, scaled, X)
    for site in scales:
        np.testing.assert_allclose(found[site], 1, rtol=1e-5)
    assert found[next(s for s in scales if scales[s].ndim)].shape == (3,)


def test_a_visit_that_holds_the_scale_of_an_earlier_use():
    def apply(p, x):
        return jnp.tanh(x @ p["w"]) @ p["w"]

    made = program(apply, PARAMS, X)
    first, second = made.products

    def hold(product, operands, result, given, found):
        scale = found.get(first, 1 / jnp.std(result))
        return scale * result, scale

    _, scales = visited(made, hold, PARAMS, X)
    assert scales[first] == scales[second] != 1


def test_statistics_with_an_axis_for_each_loop():
    def statistics(product, operands, result, given, found):
        z = jax.lax.stop_gradient(result)
        return result, {"sum": z.sum(0), "square": (z**2).sum(0)}

    made = program(deep, DEEP, X)
    _, found = visited(made, statistics, DEEP, X)
    by_path = {made.products[s].parts[0].path: f for s, f in found.items()}
    assert by_path["stack"]["sum"].shape == (3, 8)
    assert by_path["hidden"]["square"].shape == (4, 8)
    x = jnp.tanh(X @ DEEP["first"])
    for k, w in enumerate(DEEP["stack"]):
        np.testing.assert_allclose(
            by_path["stack"]["sum"][k], (x @ w).sum(0), rtol=1e-4, atol=1e-5
        )
        x = jnp.tanh(x @ w)


@jax.custom_vjp
def probe(z, dummy):
    """z as it is; the cotangent of the dummy is the mean square of that of z."""
    return z


probe.defvjp(
    lambda z, dummy: (z, None), lambda _, g: (g, jnp.mean(jnp.square(g)).reshape(()))
)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["", "checkpoint"])
def test_backward_statistics_through_a_dummy(wrap):
    made = program(wrap(deep), DEEP, X)

    def visit(product, operands, result, given, found):
        return probe(result, given), jnp.mean(jnp.square(result))

    def loss(params, dummies):
        out, found = replay(made, visit, arrays_of(params, X), dummies)
        return jnp.sum(out**2), found

    shapes = {
        site: jnp.zeros([loop.length for loop in product.loops])
        for site, product in made.products.items()
    }
    (value, _), (grads, back) = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    )(DEEP, shapes)
    plain = lambda params: jnp.sum(deep(params, X) ** 2)  # noqa: E731
    expected, plain_grads = jax.jit(jax.value_and_grad(plain))(DEEP)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for path in DEEP:
        np.testing.assert_allclose(grads[path], plain_grads[path], rtol=1e-5)

    # The same by adding zeros to every output.
    def tapped(taps):
        add = lambda p, o, result, tap, f: (result + tap, None)  # noqa: E731
        return jnp.sum(replay(made, add, arrays_of(DEEP, X), taps)[0] ** 2)

    _, outs = replay(made, keep, arrays_of(DEEP, X))
    by_tap = jax.jit(jax.grad(tapped))(jax.tree.map(jnp.zeros_like, outs))
    for site, g in by_tap.items():
        axes = tuple(range(back[site].ndim, g.ndim))
        np.testing.assert_allclose(back[site], (g**2).mean(axes), rtol=1e-4)


def test_devices_are_a_leading_axis_forward_and_backward():
    made = program(sharded, PARAMS, X)
    ((site, product),) = made.products.items()
    assert [loop.length for loop in product.loops] == [4, 4]

    def visit(product, operands, result, given, found):
        return probe(result, given), jnp.mean(result)

    def loss(dummies):
        (out, _), found = replay(made, visit, None, dummies)
        return jnp.sum(out**2), found

    back, found = jax.jit(jax.grad(loss, has_aux=True))({site: jnp.zeros((4, 4))})
    assert found[site].shape == (4, 4) and (back[site] > 0).all()
    parts = X.reshape(4, 2, 6)
    first = [float((part @ PARAMS["stack"][0]).mean()) for part in parts]
    np.testing.assert_allclose(found[site][:, 0], first, rtol=1e-4, atol=1e-6)


def test_what_a_while_loop_and_a_branch_emit():
    def both(product, operands, result, given, found):
        return result, {"mean": jnp.mean(result), "count": jnp.int32(1)}

    made = program(until, PARAMS, X)
    _, found = visited(made, both, PARAMS, X)
    (of,) = found.values()
    once = X @ PARAMS["w"]
    twice = jnp.tanh(once) @ PARAMS["w"]
    np.testing.assert_allclose(of["mean"], (once.mean() + twice.mean()) / 2, rtol=1e-4)
    assert of["count"] == 1
    made = program(branched, PARAMS, X)
    _, found = visited(made, both, PARAMS, X)
    by_path = {made.products[s].parts[0].path: f for s, f in found.items()}
    assert np.isnan(by_path["w"]["mean"]) and by_path["w"]["count"] == 0
    assert np.isfinite(by_path["v"]["mean"]) and by_path["v"]["count"] == 1


@pytest.mark.parametrize("name", ["with_jvp", "with_vjp"])
def test_a_change_within_a_function_with_its_own_derivative(name):
    made = program(CASES[name], PARAMS, X)

    def half(product, operands, result, given, found):
        return result / 2, None

    out, _ = visited(made, half, PARAMS, X)
    bent = jnp.tanh if name == "with_jvp" else lambda x: x
    expected = bent(X @ PARAMS["w"] / 2) @ PARAMS["v"] / 2
    np.testing.assert_allclose(out[0], expected, rtol=1e-5, atol=1e-6)


def test_the_callers_arrays_are_kept():
    @functools.partial(jax.jit, donate_argnums=0)
    def eats(x):
        return 2 * x

    x = X + 0
    made = program(lambda p, x: eats(x) @ p["w"], PARAMS, x)
    replay(made, keep)
    assert not x.is_deleted() and float(x.sum()) == float(X.sum())


def test_outputs_of_layers_in_loops():
    found = outputs(deep, DEEP, X)
    assert {path: out.shape for path, out in found.items()} == {
        "first": (8, 8),
        "stack": (3, 8, 8),
        "hidden": (4, 8, 8),
        "last": (8, 2),
    }
    np.testing.assert_allclose(found["last"], deep(DEEP, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_of_every_network_is_visited(name):
    apply, params, *inputs = MODELS[name]()
    made = program(apply, params, *inputs)
    seen = {part.path for each in made.products.values() for part in each.parts}
    every = {
        layer.path
        for layer in layers(apply, params, *inputs)
        if kernels([layer, *layer.other_uses])
    }
    assert seen | made.missed.keys() == every

    def run(arrays):
        out, found = replay(made, keep, arrays)
        return jax.tree.leaves(out), found

    outs, found = jax.eval_shape(run, arrays_of(params, *inputs))
    plain = jax.eval_shape(lambda *a: drop_text(apply(*a)), params, *inputs)
    assert [(x.shape, x.dtype) for x in outs] == [(x.shape, x.dtype) for x in plain]
    for site, product in made.products.items():
        rank = found[site].ndim - sum(x.length is not None for x in product.loops)
        assert all(0 <= dim < rank for dim in product.features)
        for part in product.parts:
            assert product.features or part.use.fan_out == 1, part.path
            for axis, loop in zip(part.axes, product.loops, strict=True):
                assert axis is None or axis in part.use.batch_axes, (part.path, loop)
