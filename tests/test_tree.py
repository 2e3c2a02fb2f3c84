"""Whole trees: drawn by rules, in the sense of their use, in place."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinit as ji
from jaxinit.tree._draw import path_key


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(32, (3, 3), feature_group_count=4)(x))
        x = x.reshape(len(x), -1)
        for _ in range(3):
            x = nn.relu(nn.Dense(64)(x))
        return nn.DenseGeneral((4, 8))(x)


def drawn(init, key, module=None, **options):
    module = module or Net()
    x = jnp.ones((2, 4, 4, 16))
    params = module.init(key, x)["params"]
    apply = lambda params, x: module.apply({"params": params}, x)  # noqa: E731
    return params, ji.reinit(key, params, init, apply, (x,), **options)


def paths(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


def test_fans_come_from_use(key):
    before, after = drawn(ji.lecun_normal(), key)
    fans = {"Conv_0": 9 * 4, "Dense_0": 512, "Dense_1": 64, "DenseGeneral_0": 64}
    for name, fan in fans.items():
        kernel = after[name]["kernel"]
        assert kernel.shape == before[name]["kernel"].shape
        assert abs(float(kernel.std()) * fan**0.5 - 1) < 5 / kernel.size**0.5
        assert after[name]["bias"] is before[name]["bias"]


def test_a_leaf_depends_on_its_path_and_the_key_alone(key):
    class Less(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(64, name="Dense_1")(x.reshape(2, -1)[:, :64])

    _, whole = drawn(ji.he_normal(), key)
    _, part = drawn(ji.he_normal(), key, Less())
    np.testing.assert_array_equal(whole["Dense_1"]["kernel"], part["Dense_1"]["kernel"])
    assert not np.allclose(whole["Dense_1"]["kernel"], whole["Dense_2"]["kernel"])
    keys = [path_key(key, path) for path in ("a/kernel", "b/kernel", "a")]
    assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 3
    keys = jax.random.split(key, 3)
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    apply = lambda p, x: x @ p["w"] + p["b"]  # noqa: E731
    draw = lambda k: ji.reinit(k, params, ji.he_normal(), apply, (params["b"],))  # noqa: E731
    many = jax.jit(jax.vmap(draw))(keys)
    for k, each in zip(keys, many["w"], strict=True):
        np.testing.assert_array_equal(draw(k)["w"], each)


def test_orthogonal_in_the_layers_own_sense(key):
    _, after = drawn(ji.orthogonal(), key)
    w = after["DenseGeneral_0"]["kernel"].reshape(64, 32)
    np.testing.assert_allclose(w.T @ w, np.eye(32), atol=1e-5)
    w = np.asarray(after["Conv_0"]["kernel"]).reshape(36, 4, 8)
    for group in np.moveaxis(w, 1, 0):
        np.testing.assert_allclose(group.T @ group, np.eye(8), atol=1e-5)


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


@pytest.mark.parametrize(
    "init", [ji.orthogonal(), ji.looks_linear(ji.orthogonal())], ids=repr
)
def test_stacked_layers_are_drawn_apart(init, key):
    _, after = drawn(init, key, Scanned())
    (stack,) = [leaf for leaf in jax.tree.leaves(after) if leaf.ndim == 3]
    for layer in stack:
        if init.name == "orthogonal":
            np.testing.assert_allclose(layer.T @ layer, np.eye(16), atol=1e-5)
        else:
            np.testing.assert_array_equal(layer[:8], -layer[8:])
    assert not np.allclose(stack[0], stack[1])


WRONG_TODAY = {
    "linen DenseGeneral with batch_dims": (
        nn.DenseGeneral(64, axis=-1, batch_dims=(0,)),
        (16, 3, 128),
        1 / 128,
    ),
    "linen Einsum hdf": (nn.Einsum((8, 64, 32), "bhd,hdf->bhf"), (3, 8, 64), 1 / 64),
    "ConvTranspose(transpose_kernel=True)": (
        nn.ConvTranspose(8, (4, 4), (2, 2), transpose_kernel=True),
        (1, 6, 6, 512),
        1 / (512 * 4),
    ),
    "depthwise": (nn.Conv(512, (3, 3), feature_group_count=512), (1, 6, 6, 512), 1 / 9),
}


@pytest.mark.parametrize("name", WRONG_TODAY)
def test_the_fan_is_right_where_shapes_mislead(name, key):
    module, shape, variance = WRONG_TODAY[name]
    x = jnp.ones(shape)
    params = module.init(key, x)["params"]
    apply = lambda p, x: module.apply({"params": p}, x)  # noqa: E731
    for init in (ji.lecun_normal(), ji.glorot_normal()):
        kernel = ji.reinit(key, params, init, apply, (x,))["kernel"]
        measured = float((kernel**2).mean())
        if init.name == "lecun_normal":
            assert abs(measured / variance - 1) < 0.05
        elif name == "depthwise":
            assert abs(measured * 9 - 1) < 0.05


def test_rules_in_order(key):
    params = {
        "embed": {"embedding": jnp.ones((20, 8))},
        "body": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)},
        "head": {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)},
    }
    rules = [
        ("head/kernel", ji.zeros),
        ("body/bias", None),
        (re.compile(r"/kernel$"), "normal(stddev=2.0)"),
        (lambda layer: layer.kind == "bias", ji.constant(3)),
    ]
    new = ji.reinit(key, params, rules)
    assert new["embed"]["embedding"] is params["embed"]["embedding"]
    assert new["body"]["bias"] is params["body"]["bias"]
    assert not new["head"]["kernel"].any()
    assert (new["head"]["bias"] == 3).all()
    assert 1 < float(new["body"]["kernel"].std()) < 3


def test_the_head_alone(key):
    before, after = drawn([("DenseGeneral_0/*", ji.normal(1.0))], key)
    for (path, old), (_, new) in zip(
        paths(before).items(), paths(after).items(), strict=True
    ):
        assert (new is old) == (not path.startswith("DenseGeneral_0"))


def test_roles_and_fans_by_name_without_apply(key):
    eqx_like = {"layers": [{"weight": jnp.ones((512, 64)), "bias": jnp.ones(512)}]}
    new = ji.reinit(key, eqx_like, ji.lecun_normal())
    assert abs(float(new["layers"][0]["weight"].std()) * 8 - 1) < 0.05
    conv = {"kernel": jnp.ones((3, 3, 16, 32)), "scale": jnp.ones(32)}
    new = ji.reinit(key, conv, ji.lecun_normal())
    assert abs(float(new["kernel"].std()) * 12 - 1) < 0.05
    with pytest.raises(ValueError, match="Its name says no role"):
        ji.reinit(key, {"mystery": jnp.ones((3, 3))}, [("*", ji.he_normal())])
    described = ji.describe({"table": {"embedding": jnp.ones((9, 4))}})
    assert (described[0].kind, described[0].fan_out) == ("embedding", 4)


def test_a_bias_has_the_fan_of_its_kernel(key):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4096)(x)

    module, x = Layer(), jnp.ones((1, 25))
    params = module.init(key, x)["params"]
    torch = ji.variance_scaling(1 / 3, "fan_in", "uniform")
    new = ji.reinit(
        key, params, [("*", torch)], lambda p, x: module.apply({"params": p}, x), (x,)
    )["Dense_0"]
    for leaf in new.values():
        assert 0.19 < float(abs(leaf).max()) <= 0.2


def test_gain_auto_is_the_gain_of_what_feeds_the_layer(key):
    class Mixed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Dense(256)(x.reshape(2, -1)))
            x = nn.gelu(nn.Dense(256)(x))
            return nn.Dense(256)(x)

    for init in (ji.lecun_normal(), ji.he_normal(), ji.orthogonal()):
        _, after = drawn(init, key, Mixed(), gain="auto")
        for k, name in enumerate(["linear", "tanh", "gelu"]):
            expected = ji.gain(name) / 16
            std = float(after[f"Dense_{k}"]["kernel"].std())
            assert abs(std / expected - 1) < 0.02
    with pytest.raises(ValueError, match="pass apply= and inputs="):
        ji.reinit(key, {"kernel": jnp.ones((2, 2))}, ji.he_normal(), gain="auto")


def abstract(module, x, key):
    return jax.eval_shape(module.init, key, x)["params"]


def test_abstract_leaves_need_rules(key):
    module, x = nn.Dense(8), jnp.ones((1, 4))
    params = abstract(module, x, key)
    apply = lambda p, x: module.apply({"params": p}, x)  # noqa: E731
    with pytest.raises(ValueError, match="1 leaves have shapes but no values.*bias"):
        ji.reinit(key, params, ji.he_normal(), apply, (x,))
    rules = [("kernel", ji.he_normal()), ("bias", ji.zeros)]
    new = ji.reinit(key, params, rules, apply, (x,))
    assert isinstance(new["kernel"], jax.Array) and not new["bias"].any()


def test_metadata_boxes_survive(key):
    module = nn.Dense(
        8,
        kernel_init=nn.with_partitioning(nn.initializers.ones, ("x", None)),
        bias_init=nn.with_logical_partitioning(nn.initializers.ones, ("embed",)),
    )
    x = jnp.ones((1, 4))
    boxed = module.init(key, x)
    new = ji.reinit(key, boxed, ji.he_normal(), module.apply, (x,))
    assert type(new["params"]["kernel"]) is nn.Partitioned
    assert new["params"]["kernel"].names == ("x", None)
    assert new["params"]["bias"] == boxed["params"]["bias"]
    plain = ji.reinit(key, nn.unbox(boxed), ji.he_normal(), module.apply, (x,))
    np.testing.assert_array_equal(
        new["params"]["kernel"].value, plain["params"]["kernel"]
    )


class NNXNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(16, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.last = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.norm(self.first(x))))


def test_nnx_module_and_state(key):
    module, x = NNXNet(nnx.Rngs(0)), jnp.ones((2, 16))
    new = ji.reinit(key, module, ji.he_normal(), lambda m, x: m(x), (x,))
    assert isinstance(new, NNXNet) and new is not module
    assert abs(float(new.first.kernel[...].std()) * 8**0.5 - 1) < 0.1
    np.testing.assert_array_equal(new.norm.scale[...], module.norm.scale[...])
    state = nnx.state(module, nnx.Param)
    by_name = ji.reinit(key, state, ji.he_normal())
    assert type(by_name) is type(state)
    np.testing.assert_array_equal(
        by_name["first"]["kernel"][...], new.first.kernel[...]
    )
    shapes = nnx.eval_shape(lambda: NNXNet(nnx.Rngs(0)))
    assert ji.describe(shapes, ji.he_normal(), lambda m, x: m(x), (x,))[0].fan_in == 16
    unmade = nnx.eval_shape(lambda: nnx.Linear(16, 64, rngs=nnx.Rngs(0)))
    rules = [("kernel", ji.he_normal()), ("bias", ji.zeros)]
    made = ji.reinit(key, unmade, rules, lambda m, x: m(x), (x,))
    assert made(x).shape == (2, 64)


def test_init_of_every_framework(key):
    x = jnp.ones((2, 16))
    he = ji.he_normal()

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x))
            return nn.Dropout(0.5, deterministic=not train)(x)

    module = Normed()
    variables = ji.init(module, key, x, scheme=he, train=False)
    own = module.init(key, x, train=False)
    assert jax.tree.structure(variables) == jax.tree.structure(own)
    kernel = variables["params"]["Dense_0"].pop("kernel")
    own["params"]["Dense_0"].pop("kernel")
    jax.tree.map(np.testing.assert_array_equal, variables, own)
    assert abs(float(kernel.std()) * 8**0.5 - 1) < 0.1

    made = ji.init(NNXNet, key, x, scheme=he)
    assert isinstance(made, NNXNet) and made(x).shape == (2, 4)
    again = ji.init(lambda rngs: NNXNet(rngs), key, x, scheme=he)
    np.testing.assert_array_equal(made.first.kernel[...], again.first.kernel[...])
    redrawn = ji.init(made, jax.random.key(5), x, scheme=he)
    assert not np.allclose(made.first.kernel[...], redrawn.first.kernel[...])

    pair = (
        lambda key, x: {"w": jnp.ones((x.shape[-1], 8)), "b": jnp.full(8, 2.0)},
        lambda params, x: x @ params["w"] + params["b"][None],
    )
    params = ji.init(pair, key, jax.ShapeDtypeStruct((2, 16), x.dtype), scheme=he)
    assert (params["b"] == 2).all() and float(params["w"].std()) > 0.1
    with pytest.raises(TypeError, match="must be a Flax Linen or NNX module"):
        ji.init(3, key, x, scheme=he)
    with pytest.raises(TypeError, match="unexpected keyword argument .train."):
        ji.init(pair, key, x, scheme=he, train=True)


def test_init_of_equinox_and_haiku(key):
    eqx = pytest.importorskip("equinox")
    hk = pytest.importorskip("haiku")
    x = jnp.ones(16)
    net = ji.init(
        lambda key: eqx.nn.MLP(16, 4, 64, 2, key=key), key, x, scheme=ji.he_normal()
    )
    assert net(x).shape == (4,)
    assert abs(float(net.layers[1].weight.std()) * 32**0.5 - 1) < 0.05
    assert ji.init(net, key, x, scheme=ji.he_normal())(x).shape == (4,)
    transformed = hk.transform(lambda x: hk.nets.MLP([64, 4])(x))
    params = ji.init(transformed, key, x[None], scheme=ji.he_normal())
    assert abs(float(params["mlp/~/linear_0"]["w"].std()) * 8**0.5 - 1) < 0.1
    assert not params["mlp/~/linear_0"]["b"].any()


def deep(layers):
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(layers):
                x = nn.relu(nn.Dense(32)(x))
            return x

    return Deep()


def test_one_program_for_each_shape(key):
    # Twelve more layers of a known shape bring nothing to compile.
    x = jnp.ones((1, 32))
    ji.init(deep(4), key, x, scheme=ji.glorot_uniform())
    module = deep(16)
    params = abstract(module, x, key)
    rules = [("*/kernel", ji.glorot_uniform()), ("*/bias", ji.zeros)]
    apply = lambda p, x: module.apply({"params": p}, x)  # noqa: E731
    ji.reinit(key, abstract(deep(4), x, key), rules)
    with jax.log_compiles(False), count_compilations() as compiled:
        ji.reinit(key, params, rules)
    assert not compiled
    assert len(ji.describe(params, rules, apply, (x,))) == 32


class count_compilations:  # noqa: N801
    """Names of the programs that are compiled inside."""

    def __enter__(self):
        self.seen = []
        jax.monitoring.register_event_duration_secs_listener(self.listen)
        return self.seen

    def listen(self, name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            self.seen.append(name)

    def __exit__(self, *error):
        jax.monitoring.unregister_event_duration_listener(self.listen)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    "init",
    [ji.he_normal(), ji.orthogonal(), ji.looks_linear(ji.orthogonal())],
    ids=repr,
)
def test_each_device_makes_its_own_part(init, kind, key):
    mesh = jax.make_mesh((2, 4), ("x", "y"), (kind, kind))
    module, x = nn.Dense(64), jnp.ones((1, 32))
    rules = [("params/kernel", init), ("params/bias", ji.zeros)]
    params = jax.eval_shape(module.init, key, x)
    placing = (mesh, [("*kernel", P("x", "y"))])
    new = ji.reinit(key, params, rules, out_shardings=placing)["params"]
    assert new["kernel"].sharding.is_equivalent_to(NamedSharding(mesh, P("x", "y")), 2)
    plain = ji.reinit(key, params, rules)["params"]
    np.testing.assert_allclose(new["kernel"], plain["kernel"], atol=2e-5)
    shardings = jax.tree.map(lambda _: NamedSharding(mesh, P()), params)
    tree = ji.reinit(key, params, rules, out_shardings=shardings)["params"]
    assert tree["bias"].sharding.is_fully_replicated
    np.testing.assert_allclose(tree["kernel"], plain["kernel"], atol=2e-5)
    placed = jax.device_put(plain["kernel"], NamedSharding(mesh, P(None, "y")))
    kept = ji.reinit(key, {"kernel": placed}, init)
    assert kept["kernel"].sharding.spec == P(None, "y")


def test_shardings_by_the_names_in_boxes(key):
    mesh = jax.make_mesh((2, 4), ("x", "y"), (AxisType.Auto,) * 2)
    logical = nn.Dense(
        64, kernel_init=nn.with_logical_partitioning(nn.zeros, ("embed", "mlp"))
    )
    direct = nn.Dense(64, kernel_init=nn.with_partitioning(nn.zeros, (None, "y")))
    x = jnp.ones((1, 32))
    for module, placing, spec in (
        (logical, (mesh, {"embed": "x", "mlp": "y"}), P("x", "y")),
        (logical, (mesh, {"mlp": "y"}), P(None, "y")),
        (direct, mesh, P(None, "y")),
    ):
        variables = ji.init(
            module, key, x, scheme=ji.he_normal(), out_shardings=placing
        )
        sharding = variables["params"]["kernel"].value.sharding
        assert sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    with pytest.raises(ValueError, match="out_shardings has 1 leaves for 2"):
        ji.reinit(
            key,
            {"kernel": x, "bias": x},
            ji.he_normal(),
            out_shardings={"kernel": None},
        )


def test_no_device_holds_a_whole_parameter(key):
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    sharding = NamedSharding(mesh, P("x"))
    from jaxinit.tree._draw import _compiled, path_words, spot_of

    layer = ji.trace.layers(
        lambda w, x: x @ w,
        jax.ShapeDtypeStruct((2048, 512), jnp.float32),
        jnp.ones(2048),
    )[0]
    size = 4 * math.prod(layer.shape)
    for init, most in ((ji.he_normal(), size / 8), (ji.orthogonal(), size)):
        lowered = _compiled.lower(key, path_words("w"), init, spot_of(layer), sharding)
        memory = lowered.compile().memory_analysis()
        assert memory.output_size_in_bytes == size // 8
        assert memory.temp_size_in_bytes < most


def test_describe_is_a_table(key):
    module = Net()
    x = jnp.ones((2, 4, 4, 16))
    params = abstract(module, x, key)
    apply = lambda p, x: module.apply({"params": p}, x)  # noqa: E731
    described = ji.describe(params, ji.he_normal(), apply, (x,))
    rows = {row.path: row for row in described}
    row = rows["Conv_0/kernel"]
    assert (row.kind, row.fan_in, row.fan_out) == ("conv", 36, 72)
    assert rows["Dense_1/kernel"].activation == "relu"
    assert row.std == pytest.approx((2 / 36) ** 0.5, rel=0.1)
    assert math.isnan(rows["Dense_1/bias"].std) and rows["Dense_1/bias"].init is None
    lines = repr(described).splitlines()
    assert lines[0].split()[:4] == ["path", "shape", "kind", "fan"]
    assert len(lines) == len(described) + 1 and "<pre>" in described._repr_html_()
    kept = ji.describe({"kernel": jnp.full((2, 2), 3.0)})
    assert kept[0].std == 0 and "as it is" in repr(kept)
    unused = ji.describe({"w": x}, (), lambda p, x: x, (x,))
    assert repr(unused).splitlines()[-1] == "w: It is never used."


BAD = [
    (lambda k, p: ji.reinit(k, {}, ji.he_normal()), TypeError, "holds no arrays"),
    (lambda k, p: ji.reinit(k, p, [("nothing/*", ji.zeros)]), ValueError, "no leaf"),
    (lambda k, p: ji.reinit(k, p, [ji.zeros]), TypeError, "must be a pair"),
    (lambda k, p: ji.reinit(k, p, 3), TypeError, "scheme=3 must be an initializer"),
    (lambda k, p: ji.reinit(k, p, [("*", 3)]), TypeError, "must name an initializer"),
    (lambda k, p: ji.reinit(k, p, [(3, ji.zeros)]), TypeError, "must be a glob"),
    (
        lambda k, p: ji.reinit(k, p, [("*", ji.he_normal())]),
        ValueError,
        "needs a fan, which bias has not",
    ),
    (lambda k, p: ji.reinit(k, p, "he_norml"), ValueError, "the nearest is"),
    (lambda k, p: ji.reinit(k, p, ji.zeros, gain=2), ValueError, "use one of 'auto'"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_one_sentence(call, error, words, key):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    with pytest.raises(error, match=re.escape(words)) as caught:
        call(key, params)
    assert "\n" not in str(caught.value)


# --- leaves that a scheme passes over -------------------------------------------------


def circulant(p, x):
    return x @ p["w"] @ jnp.stack([jnp.roll(p["c"], k) for k in range(16)])


def low_rank(p, x):
    return x @ (p["w"] + p["a"] @ p["b"])


def unused(p, x):
    return x @ p["w"]


ROUND = {"w": jnp.ones((16, 16)), "bias": jnp.ones(16), "n": jnp.ones((2, 2), int)}
PASSED = {
    "circulant": (circulant, {"c": jnp.ones(16)}, r"1 of the leaves.* c: It is \w+"),
    "low rank": (
        low_rank,
        {"a": jnp.ones((16, 2)), "b": jnp.ones((2, 16))},
        "2 of the leaves.* a: It is multiplied with another .* b: It is multiplied",
    ),
    "unused": (unused, {"aux": jnp.ones((16, 4))}, "aux: It is never used"),
}
WHOLE = [
    "he_normal",
    "tree.spectral",
    "tree.by_kind(he_normal())",
    "tree.combined(['glorot_normal', 'orthogonal'])",
    (ji.he_normal(), ji.zeros),
]


@pytest.mark.parametrize("scheme", WHOLE, ids=repr)
@pytest.mark.parametrize("name", PASSED)
def test_leaves_that_a_scheme_passes_over_are_named(name, scheme, key):
    apply, more, words = PASSED[name]
    params = ROUND | more
    with pytest.warns(UserWarning, match=words) as caught:
        new = ji.reinit(key, params, scheme, apply, (jnp.ones((2, 16)),))
    (warned,) = caught
    assert not re.search(r"\b(bias|n|w): ", str(warned.message))
    assert all(new[path] is params[path] for path in more)


@pytest.mark.parametrize("name", PASSED)
def test_leaves_that_are_kept_on_purpose_are_not_named(name, key):
    apply, more, _ = PASSED[name]
    x, params = jnp.ones((2, 16)), ROUND | more
    kept = ji.tree.rules([(path, None) for path in more])
    over = ji.tree.combined(["he_normal", kept])
    for scheme in (over, [("w", "he_normal")], "tree.by_kind(bias=zeros())"):
        ji.reinit(key, params, scheme, apply, (x,))
    ji.describe(params, "he_normal", apply, (x,))  # names them in its table


def test_leaves_whose_names_say_nothing_are_named(key):
    params = {"kernel": jnp.ones((4, 4)), "mixing": jnp.ones((4, 4))}
    with pytest.warns(UserWarning, match="mixing: Its name says no role; pass apply="):
        ji.reinit(key, params, "he_normal")
    ji.reinit(key, params | {"mixing": jnp.ones(4)}, "he_normal")


# --- plain arrays of NNX --------------------------------------------------------------


class PartlyPlain(nnx.Module):
    def __init__(self, how, rngs):
        self.how, self.plain = how, jnp.ones((16, 16))
        self.head = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.how(x, self.plain))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda x, w: x @ w, True),
        (lambda x, w: jnp.einsum("oi,bi->bo", w, x), True),
        (lambda x, w: jax.vmap(lambda x: w.T @ jnp.tanh(x))(x), True),
        (lambda x, w: x * jnp.cos(w)[: len(x)], False),
        (lambda x, w: x + w[: len(x)], False),
    ],
)
def test_plain_arrays_of_nnx_that_are_kernels_are_told(how, told, key):
    x, call = jnp.ones((2, 16)), lambda module, x: module(x)
    make = lambda rngs: PartlyPlain(how, rngs)  # noqa: E731
    for draw in (
        lambda: ji.init(make, key, x, scheme="he_normal"),
        lambda: ji.init(make(nnx.Rngs(0)), key, x, scheme="he_normal"),
        lambda: ji.reinit(key, make(nnx.Rngs(0)), "he_normal", call, (x,)),
    ):
        if told:
            with pytest.warns(UserWarning, match="^plain: a plain array .* wrap it in"):
                module = draw()
        else:
            module = draw()
        assert float(module.head.kernel[...].std()) == pytest.approx(8**-0.5, rel=0.3)
        np.testing.assert_array_equal(module.plain, 1.0)


def test_donated_leaves_never_take_more_than_one_leaf_beside_the_tree(monkeypatch):
    from jaxinit.tree import _reinit

    shape = (257, 259)  # of no other test, of which arrays may be left
    params = {f"layer_{k}/kernel": jnp.ones(shape) for k in range(6)}
    params["norm/scale"] = jnp.ones(257)
    draw_leaf, alive = _reinit.draw_leaf, []

    def watched(*given):
        made = jax.block_until_ready(draw_leaf(*given))
        alive.append(sum(each.shape == shape for each in jax.live_arrays()))
        return made

    monkeypatch.setattr(_reinit, "draw_leaf", watched)
    key = jax.random.key(0)
    kept = ji.reinit(key, params, "he_normal")
    assert max(alive) == 12
    del kept
    alive.clear()
    new = ji.reinit(key, params, "he_normal", donate=True)
    assert max(alive) <= 7
    assert params["layer_0/kernel"].is_deleted()
    assert new["norm/scale"] is params["norm/scale"]
    assert float(jnp.std(new["layer_5/kernel"])) == pytest.approx(
        (2 / 257) ** 0.5, rel=0.05
    )


def test_a_leaf_that_is_also_kept_is_not_given_up():
    shared = jnp.ones((8, 8))
    params = {"a/kernel": shared, "b/kernel": shared}
    rules = [("a/*", ji.he_normal()), ("*", None)]
    new = ji.reinit(jax.random.key(0), params, rules, donate=True)
    np.testing.assert_array_equal(new["b/kernel"], np.ones((8, 8)))
    with pytest.raises(
        ValueError, match="donate=True gives up arrays, and a/kernel is"
    ):
        jax.jit(lambda p: ji.reinit(jax.random.key(0), p, "he_normal", donate=True))(
            {"a/kernel": shared}
        )
