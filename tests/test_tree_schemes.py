"""Schemes for whole models: what each is for, on lists and scans of layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxinit as ji
from jaxinit import tree
from jaxinit.tree import Structure

TOKENS = jnp.arange(16).reshape(2, 8)
IMAGES = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))
SERIES = jax.random.normal(jax.random.key(3), (2, 5, 8))


def linen(module, x):
    # The models broadcast ranks, as users' do; the schemes must not.
    @jax.jit
    def apply(params, x):
        with jax.numpy_rank_promotion("allow"):
            return module.apply({"params": params}, x)

    with jax.numpy_rank_promotion("allow"):
        params = ji.init(module, jax.random.key(0), x, scheme=())["params"]
    return params, apply, x


def leaves(params):
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}


def drawn(scheme, params, apply, x):
    return leaves(ji.reinit(jax.random.key(1), params, scheme, apply, (x,)))


def structure(params, apply, x):
    return Structure(ji.trace.layers(apply, params, x))


MODELS = {
    "mlp": lambda: linen(nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(8)]), SERIES),
    "resnet": lambda: linen(nets.ResNet(), IMAGES),
    "vit": lambda: linen(nets.ViT(), IMAGES),
    "gpt": lambda: linen(nets.GPT(), TOKENS),
    "scanned gpt": lambda: linen(nets.GPT(scan=True), TOKENS),
    "lstm": lambda: linen(nets.LSTM(), SERIES),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kernel_of_a_model_has_its_fan(name):
    params, apply, x = MODELS[name]()
    after = drawn(ji.lecun_normal(), params, apply, x)
    kernels = ji.trace.kernels(ji.trace.layers(apply, params, x))
    assert kernels and jnp.isfinite(apply(params, x)).all()
    for kernel in kernels:
        values = after[kernel.path]
        expected = kernel.fan_in**-0.5
        assert abs(float(values.std()) / expected - 1) < 6 / values.size**0.5
    assert after.keys() == leaves(params).keys()


@pytest.mark.parametrize("module", [nets.NNXLSTM, nets.NNXTransformer])
def test_every_kernel_of_nnx(module, key):
    made = ji.init(module, key, SERIES, scheme=ji.lecun_normal())
    assert jnp.isfinite(made(SERIES)).all()
    rows = ji.describe(made, ji.lecun_normal(), lambda m, x: m(x), (SERIES,))
    kinds = [row.kind for row in rows]
    assert "unknown" not in kinds and kinds.count("dense") >= 3


def test_structure_of_a_transformer():
    for scan, count in ((False, 6), (True, 2)):
        model = structure(*linen(nets.GPT(scan=scan), TOKENS))
        assert model.depth == 6 and len(model.branches) == count
        attention, mlp = model.branches[:2]
        assert attention.attention and not mlp.attention
        assert [len(b.kernels) for b in (attention, mlp)] == [4, 2]
        assert attention.depth == mlp.depth == 2
        assert {k.path.split("/")[-2] for k in attention.queries_and_keys} == {
            "query",
            "key",
        }
    assert [b.index for b in structure(*linen(nets.GPT(), TOKENS)).branches] == [
        *(0, 0, 1, 1, 2, 2)
    ]


def test_structure_of_a_residual_network():
    model = structure(*linen(nets.ResNet(), IMAGES))
    assert [b.end.path for b in model.branches] == [
        f"last_{k}/kernel" for k in range(3)
    ]
    assert [b.scalars[0].path for b in model.branches] == [
        f"scale_{k}" for k in range(3)
    ]
    assert [h.path for h in model.heads] == ["head/kernel"]
    outside = {k.path for k in model.kernels} - model.inside
    assert outside == {"stem/kernel", "shortcut/kernel", "head/kernel"}


EVERYWHERE = [
    tree.gpt2(),
    tree.mitchell(),
    tree.gpt_neox(),
    tree.t_fixup(),
    tree.t_fixup(stack="decoder"),
    tree.deepnorm(),
    tree.hadamard_identity(),
    tree.idinit(),
    tree.mimetic(),
    tree.spectral(),
    tree.delta_conv("auto"),
    tree.fixup(),
]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("scheme", EVERYWHERE, ids=repr)
def test_on_flax_attention_listed_and_scanned(scheme, scan):
    params, apply, x = linen(nets.GPT(scan=scan), TOKENS)
    after = ji.reinit(jax.random.key(1), params, scheme, apply, (x,))
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert jnp.isfinite(apply(after, x)).all()
    changed = [
        path
        for (path, new), old in zip(
            leaves(after).items(), leaves(params).values(), strict=True
        )
        if new is not old
    ]
    assert any("attention" in path for path in changed)


def deviations(after, *names):
    return [
        np.mean([float(x.std()) for path, x in after.items() if name in path])
        for name in names
    ]


@pytest.mark.parametrize("scan", [False, True])
def test_gpt2(scan):
    after = drawn(tree.gpt2(), *linen(nets.GPT(scan=scan), TOKENS))
    got = deviations(after, "query/kernel", "up/kernel", "embed/", "places/")
    np.testing.assert_allclose(got, 0.02, rtol=0.05)
    got = deviations(after, "out/kernel", "down/kernel")
    np.testing.assert_allclose(got, 0.02 / 6**0.5, rtol=0.05)


@pytest.mark.parametrize("scheme", EVERYWHERE, ids=repr)
def test_on_layers_that_nnx_scans(scheme, key):
    model = ji.init(nets.NNXScanned, key, TOKENS, scheme=scheme)
    assert jnp.isfinite(model(TOKENS)).all()
    if scheme.name == "tree.gpt2":
        for kernel, std in (
            (model.blocks.attention.query, 0.02),
            (model.blocks.attention.out, 0.02 / 6**0.5),
            (model.blocks.down, 0.02 / 6**0.5),
        ):
            assert float(kernel.kernel[...].std()) == pytest.approx(std, rel=0.05)


def test_mitchell_falls_with_the_block():
    listed = drawn(tree.mitchell(), *linen(nets.GPT(), TOKENS))
    stack = drawn(tree.mitchell(), *linen(nets.GPT(scan=True), TOKENS))
    cut = 0.9866  # truncation at three deviations
    for block in range(3):
        for name, fan in (("attention/out", 64), ("down", 256)):
            expected = cut * (2 * fan * (block + 1)) ** -0.5
            one = listed[f"block_{block}/{name}/kernel"]
            of_stack = stack[f"blocks/{name}/kernel"][block]
            assert float(one.std()) == pytest.approx(expected, rel=0.05)
            assert float(of_stack.std()) == pytest.approx(expected, rel=0.05)


def test_gpt_neox():
    after = drawn(tree.gpt_neox(), *linen(nets.GPT(), TOKENS))
    got = deviations(after, "up/kernel", "value/kernel")
    np.testing.assert_allclose(got, (2 / (5 * 64)) ** 0.5, rtol=0.05)
    got = deviations(after, "out/kernel", "down/kernel")
    np.testing.assert_allclose(got, 2 / (3 * 8), rtol=0.05)


def test_t_fixup_and_deepnorm_scale_all_but_queries_and_keys():
    gpt = linen(nets.GPT(layers=4), TOKENS)
    square, mlp = (1 / 64) ** 0.5, (2 / 320) ** 0.5
    for scheme, factor in (
        (tree.t_fixup(), 0.67 * 4**-0.25),
        (tree.t_fixup(stack="decoder"), 36**-0.25),
        (tree.deepnorm(), 32**-0.25),
    ):
        after = drawn(scheme, *gpt)
        got = deviations(after, "query/kernel", "key/kernel")
        np.testing.assert_allclose(got, square, rtol=0.05)
        got = deviations(after, "value/kernel", "out/kernel")
        np.testing.assert_allclose(got, factor * square, rtol=0.05)
        got = deviations(after, "up/kernel", "down/kernel")
        np.testing.assert_allclose(got, factor * mlp, rtol=0.05)
    assert deviations(drawn(tree.t_fixup(), *gpt), "embed/")[0] == pytest.approx(
        square * 36**-0.25, rel=0.05
    )


def test_encoder_and_decoder_by_a_glob():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x, _ = nets.Block(norm="post")(x)
            y = nn.Dense(32, name="bridge")(x)
            for k in range(3):
                y, _ = nets.Block(norm="post", name=f"decoder_{k}")(y)
            return y

    x = jax.random.normal(jax.random.key(0), (2, 5, 32))
    model = linen(Both(), x)
    encoder, decoder = tree.deepnorm_constants(encoder=2, decoder=3)
    after = drawn(tree.deepnorm(decoder="decoder_*"), *model)
    square = (1 / 32) ** 0.5
    got = deviations(
        after, "Block_0/attention/value/kernel", "decoder_1/attention/out/k"
    )
    expected = [square * encoder.beta, square * decoder.beta]
    np.testing.assert_allclose(got, expected, rtol=0.08)
    with pytest.raises(ValueError, match="decoder='nothing' matches no branch"):
        drawn(tree.deepnorm(decoder="nothing"), *model)


def test_one_step_moves_deepnorm_less_than_plain_post_normalisation():
    def change(layers, scheme, alpha):
        block = nets.Block(norm="post", alpha=alpha)
        model = nets.GPT(layers=layers, width=32, tied=False, block=block)
        params, apply, x = linen(model, TOKENS)
        params = ji.reinit(jax.random.key(1), params, scheme, apply, (x,))
        loss = lambda p: optax.losses.softmax_cross_entropy_with_integer_labels(  # noqa: E731
            apply(p, x), x
        ).mean()
        grads = jax.jit(jax.grad(loss))(params)
        step = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return float(jnp.abs(apply(step, x) - apply(params, x)).mean())

    for layers in (2, 4):
        alpha = tree.deepnorm_constants(encoder=layers)[0].alpha
        ours = change(layers, tree.deepnorm(), alpha)
        assert ours < change(layers, ji.glorot_normal(), 1.0) / 2


def residual_mlp(depth, width=64):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(width, use_bias=False, name="stem")(x)
            for k in range(depth):
                y = nn.Dense(width, use_bias=False, name=f"first_{k}")(x)
                y = nn.Dense(width, use_bias=False, name=f"last_{k}")(nn.relu(y))
                x = x + y
            return nn.Dense(10, use_bias=False, name="head")(x)

    return Net()


def test_fixup_trains_any_depth_where_he_explodes(key):
    # Zhang et al. 2019: He's signal grows with the depth, Fixup's loss ignores it.
    x = jax.random.normal(key, (256, 64))
    y = jnp.argmax(x @ jax.random.normal(jax.random.fold_in(key, 1), (64, 10)), axis=1)

    def trained(depth, scheme, steps=250):
        params, apply, _ = linen(residual_mlp(depth), x)
        params = ji.reinit(key, params, scheme, apply, (x,))

        def loss(params):
            logits = apply(params, x)
            return optax.losses.softmax_cross_entropy_with_integer_labels(
                logits, y
            ).mean()

        def step(params, _):
            value, grads = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), value

        return jax.jit(lambda p: jax.lax.scan(step, p, length=steps)[1])(params)

    shallow, deep = (trained(depth, tree.fixup()) for depth in (10, 50))
    assert float(shallow[0]) == pytest.approx(np.log(10), rel=1e-5)
    assert float(deep[-1]) < 0.9 * np.log(10)
    assert float(deep[-1]) == pytest.approx(float(shallow[-1]), rel=0.05)
    he = ji.variance_scaling(2.0, "fan_in", "normal")
    assert not jnp.isfinite(trained(50, he, 20)[-1])
    params, apply, _ = linen(residual_mlp(10, 256), x)
    signal = apply(ji.reinit(key, params, he, apply, (x,)), x)
    # Stem and head have gain 2 each, and a branch adds twice what the trunk has.
    assert 0.5 < float((signal**2).mean() / (4 * 3**10)) < 2


def test_fixup_by_role():
    params, apply, x = linen(nets.ResNet(), IMAGES)
    after = drawn(tree.fixup(), params, apply, x)
    assert not after["head/kernel"].any() and not after["last_1/kernel"].any()
    assert float(after["scale_0"]) == 1 and float(after["bias_0"]) == 0
    expected = (2 / 72) ** 0.5 * 3**-0.5
    assert float(after["first_1/kernel"].std()) == pytest.approx(expected, rel=0.1)
    expected = (2 / 27) ** 0.5
    assert float(after["stem/kernel"].std()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("scheme", "value"),
    [
        (tree.skipinit(), 0.0),
        (tree.skipinit(0.25), 0.25),
        (tree.rezero(), 0.0),
        (tree.layerscale(), 0.1),
        (tree.layerscale(1e-4), 1e-4),
    ],
)
def test_multipliers(scheme, value):
    block = nets.Block(norm="none", multipliers=True)
    params, apply, x = linen(nets.GPT(block=block, tied=False), TOKENS)
    after = drawn(scheme, params, apply, x)
    for path, leaf in after.items():
        if path.endswith("_scale"):
            np.testing.assert_allclose(leaf, value)
        else:
            assert leaf is leaves(params)[path]
    if value == 0:  # then the blocks are the identity
        blocks = leaves(jax.grad(lambda p: apply(p, x).sum())(params))
        assert blocks and jnp.isfinite(apply(params, x)).all()


def test_layerscale_by_depth():
    for layers, value in ((10, 0.1), (20, 1e-5), (30, 1e-6)):
        block = nets.Block(norm="none", multipliers=True)
        model = nets.GPT(layers=layers, width=8, block=block, tied=False)
        after = drawn(tree.layerscale(), *linen(model, TOKENS))
        np.testing.assert_allclose(after["block_3/mlp_scale"], value)


@pytest.mark.parametrize(
    "scheme", [tree.hadamard_identity(), tree.idinit(0.0)], ids=repr
)
def test_identities_leave_the_trunk_alone(scheme):
    params, apply, _ = linen(residual_mlp(20), jnp.ones((4, 64)))
    x = jax.random.normal(jax.random.key(0), (4, 64))
    after = ji.reinit(jax.random.key(1), params, scheme, apply, (x,))
    head = after["head"]["kernel"]
    np.testing.assert_allclose(apply(after, x), x @ head, atol=1e-5)
    assert set(np.unique(head)) == {0, 1}


@pytest.mark.parametrize("model", ["resnet", "gpt", "scanned gpt"])
def test_idinit_ends_branches_in_repeated_identities_of_epsilon(model):
    params, apply, x = MODELS[model]()
    after = drawn(tree.idinit(), params, apply, x)
    found = structure(params, apply, x)
    for kernel in found.kernels:
        axes = (*kernel.batch_axes, *kernel.receptive_axes, *kernel.in_axes)
        w = np.transpose(after[kernel.path], (*axes, *kernel.out_axes))
        stacked = [kernel.shape[axis] for axis in kernel.batch_axes]
        columns = int(np.prod([kernel.shape[axis] for axis in kernel.out_axes]))
        w = w.reshape(int(np.prod(stacked)), -1, columns)
        i, j = np.indices(w.shape[1:])
        same = i % min(w.shape[1:]) == j % min(w.shape[1:])
        one = 1e-6 if kernel.path in found.ends else 1.0
        np.testing.assert_allclose(w, np.tile(one * same, (len(w), 1, 1)))
    assert found.ends


def test_idinit_passes_gradients_through_the_ends_of_branches():
    params, apply, _ = linen(residual_mlp(4), jnp.ones((4, 64)))
    x = jax.random.normal(jax.random.key(0), (4, 64))

    def gradients(scheme):
        after = ji.reinit(jax.random.key(1), params, scheme, apply, (x,))
        by_path = leaves(jax.grad(lambda p: jnp.mean(apply(p, x) ** 2))(after))
        found = structure(params, apply, x)
        inside = found.inside - found.ends
        assert inside
        return [float(jnp.linalg.norm(by_path[path])) for path in inside]

    assert all(size == 0 for size in gradients(tree.idinit(0.0)))
    assert all(0 < size < 1e-4 for size in gradients(tree.idinit()))


def test_delta_conv_carries_a_signal_through_a_deep_plain_network():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 16))

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(30):
                x = nn.Conv(16, (3, 3), padding="CIRCULAR", use_bias=False)(x)
            return x

    params, apply, _ = linen(Linear(), x)
    after = ji.reinit(jax.random.key(1), params, tree.delta_conv(), apply, (x,))
    norm = jnp.linalg.norm(apply(after, x)) / jnp.linalg.norm(x)
    assert float(norm) == pytest.approx(1, abs=1e-4)
    after = drawn(tree.delta_conv(), *linen(nets.CNN(), IMAGES))
    kernel = np.asarray(after["Conv_1/kernel"])
    np.testing.assert_allclose(kernel[1, 1].T @ kernel[1, 1], np.eye(16), atol=1e-4)
    assert not kernel[0].any()


def test_spectral_norms():
    after = drawn(tree.spectral(), *linen(nets.GPT(width=128), TOKENS))
    for name, ratio in (("query", 1), ("up", 4), ("down", 1 / 4)):
        paths = [path for path in after if path.endswith(f"{name}/kernel")]
        norm = np.linalg.norm(
            after[paths[0]].reshape(-1, 128 * 4 if name == "up" else 128), 2
        )
        assert 1.2 < norm / ratio**0.5 < 2.1  # of a Gaussian matrix: 1.5 or 2
    assert float(after["embed/embedding"].std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("scan", [False, True])
def test_mimetic_products(scan):
    after = drawn(tree.mimetic(), *linen(nets.GPT(layers=2, scan=scan), TOKENS))
    name = "blocks" if scan else "block_1"
    q, k, v, o = (
        np.asarray(after[f"{name}/attention/{part}/kernel"])
        for part in ("query", "key", "value", "out")
    )
    if scan:
        q, k, v, o = q[1], k[1], v[1], o[1]
    whole = v.reshape(64, 64) @ o.reshape(64, 64)
    noise = whole + 0.4 * np.eye(64)
    assert noise.std() == pytest.approx(0.4 / 8, rel=0.1)
    for head in range(4):
        product = q[:, head] @ k[:, head].T
        assert np.linalg.matrix_rank(product, tol=1e-4) == 16
        assert np.trace(product) > 0.2 * 0.7 * 64  # the nearest matrix of rank 16


MLP_WIDTHS = (64, 128, 256)


def mlp(width):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Dense(width, name="input")(x))
            x = nn.tanh(nn.Dense(width, name="hidden")(x))
            return nn.Dense(4, name="readout")(x)

    params, apply, _ = linen(Net(), jnp.ones((1, 8)))
    return params, apply


def test_mup_rates_of_adam_and_sgd():
    x = (jnp.ones((1, 8)),)
    params, apply = mlp(256)
    base, _ = mlp(64)
    adam = leaves(tree.mup(base).multipliers(params, apply, x))
    rates = {path: m for path, m in adam.items() if path.endswith("learning_rate")}
    assert rates == {
        "input/kernel/learning_rate": 1,
        "input/bias/learning_rate": 1,
        "hidden/kernel/learning_rate": 1 / 4,
        "hidden/bias/learning_rate": 1,
        "readout/kernel/learning_rate": 1 / 4,
        "readout/bias/learning_rate": 1,
    }
    sgd = leaves(tree.mup(base, optimizer="sgd").multipliers(params, apply, x))
    rates = [m for path, m in sgd.items() if path.endswith("kernel/learning_rate")]
    assert rates == [1, 4, 1 / 4]  # hidden, input, readout
    after = drawn(tree.mup(base, zero_readout=False), params, apply, x[0])
    assert float(after["hidden/kernel"].std()) == pytest.approx(1 / 16, rel=0.05)
    assert float(after["readout/kernel"].std()) == pytest.approx(1 / 32, rel=0.1)
    same = tree.mup(base).multipliers(*mlp(64), x)
    assert set(jax.tree.leaves(same)) == {1.0}


def test_mup_init_and_adamw():
    params, apply = mlp(256)
    base, _ = mlp(64)
    x = (jnp.ones((2, 8)),)
    scheme = tree.mup(base)
    drawn, transform = scheme.init(jax.random.key(0), params, apply, x)
    assert not drawn["readout"]["kernel"].any()
    grads = jax.tree.map(jnp.ones_like, drawn)
    chain = optax.chain(optax.scale(-1.0), transform)
    updates, _ = chain.update(grads, chain.init(drawn), drawn)
    assert float(updates["hidden"]["kernel"][0, 0]) == -1 / 4
    schedule = optax.constant_schedule(0.1)
    for rate in (0.1, schedule):
        adamw = scheme.adamw(rate, drawn, apply, x, weight_decay=0.01)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = adamw.update(grads, adamw.init(drawn), drawn)
        expected = -0.1 / 4 - 0.1 * 0.01 * drawn["hidden"]["kernel"]
        np.testing.assert_allclose(updates["hidden"]["kernel"], expected, rtol=1e-4)


def test_coordinates_hold_under_mup_and_grow_without():
    x = (jax.random.normal(jax.random.key(5), (32, 8)),)
    base, _ = mlp(64)
    with jax.numpy_dtype_promotion("standard"):
        ours = tree.coordinate_check(mlp, MLP_WIDTHS, x, tree.mup(base))
        standard = tree.coordinate_check(mlp, MLP_WIDTHS, x, ji.lecun_normal())
    slopes = ours.slopes()
    assert abs(slopes["input/kernel"]).max() < 0.1
    assert abs(slopes["hidden/kernel"]).max() < 0.1
    assert abs(slopes["readout/kernel"][2:]).max() < 0.1
    assert standard.slopes()["hidden/kernel"][-1] > 0.2
    figure = ours.plot()
    assert len(figure.axes) == 5


def transformer(width, heads=4, layers=2, tied=False):
    model = nets.GPT(
        layers=layers, width=width, tied=tied, block=nets.Block(heads=heads)
    )
    params, apply, _ = linen(model, TOKENS)
    return params, apply


def test_mup_of_attention_and_depth():
    base, _ = transformer(32)
    params, apply = transformer(128)
    x = (TOKENS,)
    rates = leaves(tree.mup(base).multipliers(params, apply, x))
    get = lambda path: rates[f"{path}/learning_rate"]  # noqa: E731
    assert get("block_0/attention/key/kernel") == 1 / 4
    assert get("block_0/attention/query/kernel") == 1 / 8  # and 1/sqrt(d) to 1/d
    assert get("embed/embedding") == 1 and get("readout/kernel") == 1 / 4
    zeroed = drawn(tree.mup(base), params, apply, TOKENS)
    assert not zeroed["block_1/attention/query/kernel"].any()
    deep, deep_apply = transformer(128, layers=8)
    base_deep, _ = transformer(32, layers=8)
    for depth, inside, end in (("sqrt", 1 / 2, 1 / 4), ("complete", 1.0, 1 / 4)):
        scheme = tree.mup(base_deep, depth=depth, base_depth=4)
        rates = leaves(scheme.multipliers(deep, deep_apply, x))
        assert get("block_0/up/kernel") == pytest.approx(inside / 4)
        assert get("block_0/down/kernel") == pytest.approx(end / 4)
        after = drawn(scheme, deep, deep_apply, TOKENS)
        factor = 4 ** -(0.5 if depth == "sqrt" else 1.0)
        std = float(after["block_3/down/kernel"].std())
        assert std == pytest.approx(factor * 512**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="both embedding and readout"):
        tree.mup(transformer(32, tied=True)[0]).multipliers(
            *transformer(64, tied=True), x
        )
    tied = tree.mup(transformer(32, tied=True)[0], tied=True)
    assert tied.multipliers(*transformer(64, tied=True), x)


BAD = [
    (lambda: drawn(tree.gpt2(), *linen(nets.CNN(), IMAGES)), "has no residual branch"),
    (lambda: drawn(tree.rezero(), *linen(nets.GPT(), TOKENS)), "has a multiplier"),
    (lambda: drawn(tree.mimetic(), *linen(nets.ResNet(), IMAGES)), "has no attention"),
    (
        lambda: drawn(tree.delta_conv(), *linen(nets.CNN(window=4), IMAGES)),
        "has a window of even size",
    ),
    (lambda: tree.fixup(mode="fan_up"), "mode='fan_up'"),
    (lambda: tree.gpt2(-1.0), "stddev=-1.0"),
    (lambda: tree.deepnorm_constants(), "give the blocks"),
    (lambda: tree.mup(mlp(8)[0], depth="sqrt"), "needs base_depth="),
    (lambda: tree.mup(mlp(8)[0], depth="deep"), "depth='deep'"),
    (
        lambda: tree.mup({"other": jnp.ones(3)}).multipliers(
            *mlp(8), (jnp.ones((1, 8)),)
        ),
        "at another width as base",
    ),
    (lambda: tree.coordinate_check(mlp, [8], (), ji.zeros), "two or more"),
    (lambda: ji.parse("tree.gpt3()"), "the nearest is 'tree.gpt2'"),
]


@pytest.mark.parametrize(("call", "words"), BAD)
def test_one_sentence(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_parameters_are_named():
    with pytest.raises(TypeError, match="its parameters are stddev, branches"):
        tree.gpt2(width=3)
