"""What only the rest of a program tells of a kernel: members, gates, shared blocks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import networks as nets
import numpy as np
import pytest
from flax import nnx

import jaxinit as ji
from jaxinit.trace import Layer, layers

pytestmark = pytest.mark.usefixtures("users_broadcast")

KEY = jax.random.key(0)
X = jnp.ones((6, 8))


def by_path(apply, params, *inputs) -> dict[str, Layer]:
    return {layer.path: layer for layer in layers(apply, params, *inputs)}


def linen(module, *inputs):
    return module.apply, jax.eval_shape(module.init, KEY, *inputs), *inputs


# --- members of an ensemble that see one input ---------------------------------------


def members(module, count, out_axes=0):
    """An ensemble of a Linen module, all on one input."""
    return nn.vmap(
        module,
        in_axes=None,
        out_axes=out_axes,
        axis_size=count,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )


class Small(nnx.Module):
    """A convolution, and a layer on what is left of the image."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).mean((1, 2)))


def nnx_members(x):
    @nnx.split_rngs(splits=10)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs):
        return Small(rngs)

    def apply(module, x):
        return nnx.vmap(lambda m, x: m(x), in_axes=(0, None))(module, x)

    return apply, build(nnx.Rngs(0)), x


def equinox_members(make, inside):
    eqx = pytest.importorskip("equinox")
    module = eqx.filter_vmap(lambda key: make(eqx.nn, key))(jax.random.split(KEY, 10))
    alone = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
    if inside:
        return lambda m, x: jax.vmap(lambda x: alone(m, x))(x).mean(1), module, X
    return lambda m, x: eqx.filter_vmap(lambda m: jax.vmap(m)(x))(m), module, X


def haiku_members():
    hk = pytest.importorskip("haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([16, 16, 4])(x)))
    make = jax.vmap(net.init, (0, None))
    params = jax.eval_shape(make, jax.random.split(KEY, 10), X)
    return lambda p, x: jax.vmap(net.apply, (0, None))(p, x), params, X


def soft_mixture():
    """Experts that all see every token, and a router's weights for them."""

    def apply(p, x):
        h = jax.nn.gelu(jnp.einsum("bd,edf->bef", x, p["up"]))
        out = jnp.einsum("bef,efd->bed", h, p["down"])
        return jnp.einsum("be,bed->bd", jax.nn.softmax(x @ p["router"]), out)

    shapes = {"up": (10, 8, 16), "down": (10, 16, 8), "router": (8, 10)}
    return apply, {name: jnp.ones(shape) for name, shape in shapes.items()}, X


ENSEMBLES = {
    "one Linen layer": lambda: linen(members(nn.Dense, 10)(16), X),
    "Linen layers by DenseGeneral": lambda: linen(
        members(nn.DenseGeneral, 10)((4, 4)), X
    ),
    "twin critics": lambda: linen(members(nets.Critic, 10)(), X, X),
    "critics side by side": lambda: linen(members(nets.Critic, 10, 1)(), X, X),
    "the smaller of two critics": lambda: (
        lambda p, s, a: members(nets.Critic, 10)().apply(p, s, a).min(0),
        jax.eval_shape(members(nets.Critic, 10)().init, KEY, X, X), X, X,
    ),
    "NNX": lambda: nnx_members(jnp.ones((2, 8, 8, 3))),
    "one Equinox layer": lambda: equinox_members(
        lambda nn, key: nn.Linear(8, 16, key=key), False
    ),
    "one Equinox layer, an example at a time": lambda: equinox_members(
        lambda nn, key: nn.Linear(8, 16, key=key), True
    ),
    "an Equinox network": lambda: equinox_members(
        lambda nn, key: nn.MLP(8, 1, 16, 2, key=key), True
    ),
    "Haiku": haiku_members,
    "vmap": lambda: (
        lambda w, x: jax.vmap(lambda w: jnp.tanh(x @ w))(w), jnp.ones((10, 8, 16)), X
    ),
    "vmap of a convolution": lambda: (
        lambda w, x: jax.vmap(lambda w: jax.lax.conv(x, w, (1, 1), "SAME"))(w),
        jnp.ones((10, 4, 3, 3, 3)), jnp.ones((2, 3, 8, 8)),
    ),
    "einsum": lambda: (
        lambda w, x: jnp.einsum("bd,mdf->mbf", x, w), jnp.ones((10, 8, 16)), X
    ),
    "experts that see every token": soft_mixture,
    "kernels with members last": lambda: (
        lambda w, x: jax.vmap(lambda w: jnp.tanh(x @ w.T))(w), jnp.ones((10, 16, 8)), X
    ),
    "tables looked up by one index": lambda: (
        lambda p, x: jax.vmap(lambda e, w: e[x] @ w)(p["e"], p["w"]),
        {"e": jnp.ones((10, 50, 8)), "w": jnp.ones((10, 8, 4))}, jnp.arange(6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENSEMBLES)
def test_members_of_an_ensemble_are_separate_kernels(name):
    found = layers(*ENSEMBLES[name]())
    found = [layer for layer in found if layer.kind not in ("bias", "scale")]
    assert found
    for kernel in found:
        if kernel.path == "router":
            continue
        assert kernel.shape[0] == 10 and kernel.batch_axes == (0,), kernel
        assert 0 not in (*kernel.in_axes, *kernel.out_axes)
        size = np.prod([kernel.shape[a] for a in kernel.out_axes])
        window = np.prod([kernel.shape[a] for a in kernel.receptive_axes])
        assert kernel.fan_out == size * window


def heads_of_an_attention(p, x):
    """Heads put first, and summed over in the end."""
    q, k, v = (jnp.einsum("td,dhk->htk", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("htk,hsk->hts", q, k))
    return jnp.einsum("htk,hkd->td", weights @ v, p["o"])


def blocks_of_a_gate(p, x):
    """Griffin's: a layer in blocks between two that are whole."""
    h = jnp.einsum("bd,dhk->bhk", x, p["i"])
    h = jax.nn.sigmoid(jnp.einsum("bhi,hij->bhj", h, p["g"])) * h
    return jnp.einsum("bhk,hkd->bd", h, p["o"])


HEADS = {
    "attention": (heads_of_an_attention, "qkv", {"o": (4, 5, 8)}),
    "blocks": (blocks_of_a_gate, "i", {"g": (4, 5, 5), "o": (4, 5, 8)}),
    "heads alone": (lambda p, x: jnp.einsum("bd,dhk->bhk", x, p["i"]), "i", {}),
    "one example": (lambda p, x: jnp.einsum("d,dhk->hk", x[0], p["i"]), "i", {}),
    "an example at a time": (
        lambda p, x: jax.vmap(lambda x: jnp.einsum("d,dhk->hk", x, p["i"]))(x), "i", {}
    ),
    "features first": (lambda p, x: jnp.einsum("dhk,bd->hkb", p["i"], x), "i", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_outputs(name):
    apply, heads, others = HEADS[name]
    params = {k: jnp.ones((8, 4, 5)) for k in heads}
    params |= {k: jnp.ones(shape) for k, shape in others.items()}
    found = by_path(apply, params, X)
    for k in heads:
        assert (found[k].out_axes, found[k].fan_out) == ((1, 2), 20), found[k]


def test_members_are_drawn_as_each_would_be_alone():
    ensemble = members(nn.Dense, 10)(16)
    for scheme in (ji.orthogonal(), ji.glorot_normal()):
        alone = ji.init(nn.Dense(16), KEY, X, scheme=scheme)["params"]["kernel"]
        drawn = ji.init(ensemble, KEY, X, scheme=scheme)["params"]["kernel"]
        expected = {"orthogonal": 1 / 16, "glorot_normal": 2 / 24}[scheme.name]
        rtol = 1e-5 if scheme.name == "orthogonal" else 0.2
        assert float((drawn**2).mean()) == pytest.approx(expected, rel=rtol)
        assert float((alone**2).mean()) == pytest.approx(expected, rel=rtol)
        params = {"kernel": drawn, "bias": jnp.zeros((10, 16))}
        again = ji.reinit(KEY, {"params": params}, scheme, ensemble.apply, (X,))
        square = float((again["params"]["kernel"] ** 2).mean())
        assert square == pytest.approx(expected, rel=rtol)


# --- kernels that something changes on the way to their product ----------------------

W = jnp.ones((8, 5))
STEP = jnp.float32(0.1)


def rounded(w, step):
    return jnp.round(w / step) * step


def straight_through(w, x, step):
    return x @ (w + jax.lax.stop_gradient(rounded(w, step) - w))


def integers(w, x, step):
    left, right = (jnp.round(a / step).astype(jnp.int8) for a in (x, w))
    numbers = (((1,), (0,)), ((), ()))
    out = jax.lax.dot_general(left, right, numbers, preferred_element_type=jnp.int32)
    return out.astype(jnp.float32) * step**2


def ternary(w, x, step):
    return x @ (jnp.where(jnp.abs(w) > step, jnp.sign(w), 0.0) * step)


CHANGED = {
    "rounded": lambda w, x, s: x @ rounded(w, s),
    "rounded by columns": lambda w, x, s: x @ rounded(w, jnp.broadcast_to(s, 5)),
    "floored and clipped": lambda w, x, s: x @ (
        jnp.clip(jnp.floor(w / s + 0.5), -8, 7) * s
    ),
    "cast": lambda w, x, s: x @ ((w / s).astype(jnp.int8).astype(jnp.float32) * s),
    "to float8": lambda w, x, s: x @ (
        (w / s).astype(jnp.float8_e4m3fn).astype(jnp.float32) * s
    ),
    "straight through": straight_through,
    "integers": integers,
    "ternary": ternary,
    "clipped by state": lambda w, x, s: x @ jnp.clip(w, -s, s),
    "bent": lambda w, x, s: x @ jnp.tanh(w * s),
    "standardised by state": lambda w, x, s: x @ ((w - w.mean(0)) / s),
    "product by hand": lambda w, x, s: (x[:, :, None] * rounded(w, s)).sum(1),
    "vmapped": lambda w, x, s: jax.vmap(lambda x: x @ rounded(w, s))(x),
    "scanned": lambda w, x, s: jax.lax.map(lambda x: x @ rounded(w, s), x),
    "masked by state": lambda w, x, s: x @ (w * (jnp.ones((8, 5)) * s)),
    "rounded if a flag says so": lambda w, x, s: x @ jnp.where(s > 0, rounded(w, s), w),
    "rounded on a condition": lambda w, x, s: x @ jax.lax.cond(
        s > 0, lambda w: rounded(w, s), lambda w: w, w
    ),
    "one of two roundings": lambda w, x, s: x @ jax.lax.switch(
        s.astype(int), [lambda w: rounded(w, s), lambda w: rounded(w, 2 * s)], w
    ),
    "rounded before a loop": lambda w, x, s: (
        lambda w: jax.lax.map(lambda x: x @ w, x)
    )(rounded(w, s)),
    "rounded before a branch": lambda w, x, s: (
        lambda w: jax.lax.cond(s > 0, lambda: x @ w, lambda: -x @ w)
    )(rounded(w, s)),
    "rounded before an unbounded loop": lambda w, x, s: (
        lambda w: jax.lax.while_loop(
            lambda c: c[0] < s, lambda c: (c[0] + 1, x @ w), (0.0, jnp.zeros((6, 5)))
        )[1]
    )(rounded(w, s)),
    "the primal of a derivative": lambda w, x, s: jax.vjp(
        lambda w: jax.lax.map(lambda x: x @ rounded(w, s), x), w
    )[0],
    "bent for each example": lambda w, x, s: jax.vmap(
        lambda x, s: x @ jnp.tanh(w * s)
    )(x, jnp.broadcast_to(s, 6)),
    "rounded and clipped for each example": lambda w, x, s: jax.vmap(
        lambda x, s: x @ (jnp.clip(jnp.round(w / s), -8, 7) * s)
    )(x, jnp.broadcast_to(s, 6)),
    "noise of a fixed key": lambda w, x, s: x @ (
        w + s * jax.random.normal(jax.random.key(7), w.shape)
    ),
    "dropped by a fixed key": lambda w, x, s: x @ jnp.where(
        jax.random.bernoulli(jax.random.key(7), 0.5, w.shape), w, 0.0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_kernel_that_state_changes_is_a_kernel(name):
    (layer,) = layers(CHANGED[name], W, X, STEP)
    assert (layer.kind, layer.in_axes, layer.out_axes) == ("dense", (0,), (1,)), layer
    assert (layer.fan_in, layer.fan_out, layer.uses) == (8, 5, 1)


def test_a_convolution_that_state_changes():
    def apply(w, x, step):
        return jax.lax.conv(x, rounded(w, step), (1, 1), "SAME")

    (layer,) = layers(apply, jnp.ones((4, 3, 3, 3)), jnp.ones((2, 3, 8, 8)), STEP)
    assert (layer.kind, layer.fan_in) == ("conv", 27)


@pytest.mark.filterwarnings("ignore:The Fp8DotGeneralOp is deprecated")
@pytest.mark.parametrize(
    "name", ["Fp8DotGeneralOp", "Fp8DirectDotGeneralOp", "NANOOFp8DotGeneralOp"]
)
def test_float8_of_flax(name):
    module = nn.Dense(16, dot_general_cls=getattr(nn, name))
    variables = dict(jax.eval_shape(module.init, KEY, X))
    params = variables.pop("params")

    def apply(params, x, rest):
        return module.apply({"params": params, **rest}, x)

    found = by_path(apply, params, X, variables)
    assert (found["kernel"].kind, found["kernel"].fan_in) == ("dense", 8)


@pytest.mark.parametrize("changed", [rounded, lambda w, s: w * jnp.sign(s)])
def test_a_table_that_state_changes(changed):
    def apply(p, tokens, step):
        return changed(p["table"], step)[tokens] @ changed(p["w"], step)

    params = {"table": jnp.ones((20, 8)), "w": W}
    found = by_path(apply, params, jnp.arange(6), STEP)
    assert (found["table"].kind, found["table"].in_axes) == ("embedding", (0,))
    assert (found["w"].kind, found["w"].fan_in) == ("dense", 8)


def test_a_learned_step_is_a_scale():
    found = by_path(lambda p, x: x @ rounded(p["w"], p["s"]), {"w": W, "s": STEP}, X)
    assert {name: layer.kind for name, layer in found.items()} == {
        "w": "dense", "s": "scale",
    }  # fmt: skip


def modulated(p, x, latent):
    """A style for each example, and the norm put right."""
    w = p["w"][None] * (latent @ p["style"])[:, :, None]
    w = w * jax.lax.rsqrt((w**2).sum(1, keepdims=True) + 1e-8)
    return jnp.einsum("bi,bio->bo", x, w)


def modulated_alone(p, x, latent):
    def one(x, latent):
        w = p["w"] * (latent @ p["style"])[:, None]
        return x @ (w / jnp.linalg.norm(w, axis=0))

    return jax.vmap(one)(x, latent)


def modulated_one(p, x, latent):
    w = p["w"] * (latent[0] @ p["style"])[:, None]
    return x[0] @ (w / jnp.linalg.norm(w, axis=0))


@pytest.mark.parametrize("apply", [modulated, modulated_alone, modulated_one])
def test_a_kernel_that_a_style_modulates(apply):
    found = by_path(apply, {"w": W, "style": jnp.ones((4, 8))}, X, jnp.ones((6, 4)))
    assert (found["w"].kind, found["w"].fan_in, found["w"].fan_out) == ("dense", 8, 5)
    assert found["style"].fan_in == 4


def fused(p, x, latent):
    """StyleGAN2's own way: examples as groups of one convolution."""
    n = len(x)
    w = p["w"][None] * (latent @ p["style"])[:, None, None, :, None]
    w = w * jax.lax.rsqrt((w**2).sum((1, 2, 3)) + 1e-8)[:, None, None, None, :]
    x = x.transpose(1, 2, 0, 3).reshape(1, 8, 8, n * 3)
    return jax.lax.conv_general_dilated(
        x, w.transpose(1, 2, 3, 0, 4).reshape(3, 3, 3, n * 4), (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=n,
    )  # fmt: skip


def test_styles_of_a_convolution():
    params = {"w": jnp.ones((3, 3, 3, 4)), "style": jnp.ones((4, 3))}
    found = by_path(fused, params, jnp.ones((2, 8, 8, 3)), jnp.ones((2, 4)))
    assert (found["w"].kind, found["w"].fan_in, found["w"].fan_out) == ("conv", 27, 36)


def decomposed(p, x):
    w = p["w"] + p["a"] @ p["b"]
    return (x @ w / jnp.linalg.norm(w, axis=0)) * p["m"]


def decomposed_first(p, x):
    w = p["w"] + p["a"] @ p["b"]
    return x @ (w / jnp.linalg.norm(w, axis=0) * p["m"])


def standardised(p, x):
    w = (p["w"] - p["w"].mean(0)) / (p["w"].std(0) + 1e-5)
    return x @ (w * p["m"])


def centred_output(p, x):
    mean = jnp.broadcast_to(p["w"].mean(1, keepdims=True), (8, 5))
    return (x @ p["w"] - x @ mean) / p["w"].std() * p["m"]


def decayed(p, x):
    return x.sum() * (p["w"] ** 2).sum(), x @ p["w"] * p["m"]


@pytest.mark.parametrize(
    "apply", [decomposed, decomposed_first, standardised, centred_output, decayed]
)
def test_a_kernel_whose_norm_is_taken_first(apply):
    params = {"w": W, "m": jnp.ones(5), "a": jnp.ones((8, 2)), "b": jnp.ones((2, 5))}
    found = by_path(apply, params, X)
    assert (found["w"].kind, found["w"].fan_in) == ("dense", 8)
    assert found["m"].kind == "scale"
    for low in "ab":
        assert found[low].kind == "unknown" and found[low].reason


# --- sums of leaves, noise, and products that sum nothing ----------------------------

NOISY = {
    "fixed key": lambda: jax.random.normal(jax.random.key(7), (8, 5)),
    "old key": lambda: jax.random.normal(jax.random.PRNGKey(7), (8, 5)),
    "uniform": lambda: jax.random.uniform(jax.random.key(7), (8, 5)),
    "factorised": lambda: jnp.outer(
        jnp.sign(jax.random.normal(jax.random.key(7), (8,))),
        jax.random.normal(jax.random.key(8), (5,)),
    ),
    "split": lambda: jax.random.normal(jax.random.split(jax.random.key(7))[0], (8, 5)),
}


@pytest.mark.parametrize("name", NOISY)
def test_a_scale_of_noise_is_no_kernel(name):
    def apply(p, x):
        noise = NOISY[name]()
        w = p["mean"] + jax.nn.softplus(p["spread"]) * noise
        return x @ w + p["b"] + p["b_spread"] * noise[0]

    params = {"mean": W, "spread": W, "b": jnp.ones(5), "b_spread": jnp.ones(5)}
    found = by_path(apply, params, X)
    kinds = {name: layer.kind for name, layer in found.items()}
    assert kinds["mean"] == "dense" and kinds["spread"] == "scale"
    assert kinds["b"] == "bias" and "dense" not in (kinds["b_spread"],)


@pytest.mark.parametrize("name", [each for each in NOISY if each != "uniform"])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_scale_of_noise_in_a_product_of_its_own_is_no_kernel(name, wrap):
    def apply(p, x):
        return x @ p["mean"] + x @ (jax.nn.softplus(p["spread"]) * NOISY[name]())

    found = by_path(wrap(apply), {"mean": W, "spread": W}, X)
    kinds = {name: layer.kind for name, layer in found.items()}
    assert kinds == {"mean": "dense", "spread": "scale"}


MASKED = {
    "mask": lambda key: jax.random.bernoulli(key, 0.5, W.shape).astype(float),
    "rescaled mask": lambda key: (
        jax.random.bernoulli(key, 0.5, W.shape).astype(float) / 0.5
    ),
    "rows": lambda key: jax.random.bernoulli(key, 0.5, (8, 1)).astype(float),
    "signs": lambda key: jax.random.rademacher(key, W.shape, jnp.float32),
    "around one": lambda key: 1 + 0.1 * jax.random.normal(key, W.shape),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_kernel_that_noise_masks_is_a_kernel(name):
    def apply(w, x, key):
        return x @ (w * jnp.broadcast_to(MASKED[name](key), w.shape))

    for key in (jax.random.key(3), jax.random.PRNGKey(3)):
        (layer,) = layers(apply, W, X, key)
        assert (layer.kind, layer.fan_in) == ("dense", 8), layer
        (layer,) = layers(lambda w, x, key=key: apply(w, x, key), W, X)
        assert (layer.kind, layer.fan_in) == ("dense", 8), layer


def test_noisy_net_keeps_its_spread():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            shape = (x.shape[-1], 256)
            mean = self.param("mean", nn.initializers.zeros, shape)
            spread = self.param("spread", nn.initializers.constant(0.025), shape)
            return x @ (mean + spread * jax.random.normal(self.make_rng(), shape))

    drawn = ji.init(Noisy(), KEY, X, scheme=ji.lecun_normal())["params"]
    assert float(drawn["spread"].mean()) == pytest.approx(0.025, rel=1e-5)
    assert float(drawn["mean"].std()) == pytest.approx(8**-0.5, rel=0.1)


SUMS_NOTHING = {
    "diagonal": (lambda w, x: jnp.einsum("bd,d->bd", x, w), (8,)),
    "rates": (
        lambda w, x: jnp.exp(jnp.einsum("ld,dn->ldn", x, -jnp.exp(w))), (8, 4)
    ),
    "one input": (lambda w, x: jnp.einsum("b,d->bd", x[:, 0], w), (5,)),
    "a head each": (
        lambda w, x: jnp.einsum("bhd,h->bhd", x.reshape(6, 2, 4), w), (2,)
    ),
    "outer": (lambda w, x: jnp.outer(x[:, 0], w), (5,)),
    "vmapped": (lambda w, x: jax.vmap(lambda w, x: w * x, (0, 1), 1)(w, x), (8,)),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS_NOTHING)
def test_a_product_that_sums_nothing_is_a_scale(name):
    apply, shape = SUMS_NOTHING[name]
    (layer,) = layers(apply, jnp.ones(shape), X)
    assert (layer.kind, layer.fan_in, layer.fan_out) == ("scale", 1, 1), layer


def test_rates_of_a_state_space_model_stay():
    x = jnp.ones((2, 6, 16))
    own = ji.init(nets.Mamba(), KEY, x, scheme=())["params"]["A_log"]
    drawn = ji.init(nets.Mamba(), KEY, x, scheme=ji.normal(1.0))["params"]["A_log"]
    np.testing.assert_array_equal(drawn, own)


def complex_sum(p, x):
    w = jax.lax.complex(p["a"], p["b"]) * jnp.exp(p["g"]).astype(jnp.complex64)
    return (x.astype(jnp.complex64) @ w).real


SUMMED = {
    "complex": complex_sum,
    "times the imaginary unit": lambda p, x: x.astype(jnp.complex64) @ (
        (p["a"].astype(jnp.complex64) + 1j * p["b"].astype(jnp.complex64))
        * jnp.exp(p["g"]).astype(jnp.complex64)
    ),
    "real": lambda p, x: x @ ((p["a"] + p["b"]) * p["g"]),
    "divided": lambda p, x: x @ ((p["a"] - p["b"]) / p["g"]),
    "transposed": lambda p, x: x @ ((p["a"] + p["b"]).T * p["g"][:, None]).T,
}  # fmt: skip


@pytest.mark.parametrize("name", SUMMED)
def test_two_kernels_in_one_operand_that_a_leaf_scales(name):
    params = {"a": W, "b": W, "g": jnp.ones(5)}
    found = by_path(SUMMED[name], params, X)
    assert found["g"].kind == "scale"
    for kernel in (found["a"], found["b"]):
        assert (kernel.kind, kernel.in_axes, kernel.fan_in) == ("dense", (0,), 8)


# --- steps of training within the program --------------------------------------------

MAML = {"w": jnp.ones((8, 16)), "b": jnp.ones(16), "v": jnp.ones((16, 3))}


def momentum(params, x, y):
    """Descent with a velocity, in an unbounded loop."""

    def loss(params):
        return jnp.mean(
            (jnp.tanh(x @ params["w"] + params["b"]) @ params["v"] - y) ** 2
        )

    def turn(carry):
        k, params, speed = carry
        grads = jax.grad(loss)(params)
        speed = jax.tree.map(lambda s, g: 0.9 * s + g, speed, grads)
        params = jax.tree.map(lambda p, s: p * 0.99 - 0.1 * s, params, speed)
        return k + 1, params, speed

    start = (0, params, jax.tree.map(jnp.zeros_like, params))
    _, params, _ = jax.lax.while_loop(lambda c: c[0] < 3, turn, start)
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def per_task(params, x, y):
    one = lambda x, y: nets.maml(params, x, y)  # noqa: E731
    return jax.vmap(one)(jnp.stack([x, x]), jnp.stack([y, y]))


def learned_optimizer(params, x, y):
    """A network that turns gradients into updates of another, which is an input."""

    def loss(w):
        return jnp.mean((x @ w - y) ** 2)

    def turn(w, _):
        grad = jax.grad(loss)(w)
        step = jnp.tanh(grad[..., None] @ params["w"] + params["b"]) @ params["v"]
        return w - step[..., 0], None

    return x @ jax.lax.scan(turn, jnp.zeros((8, 3)), None, length=3)[0]


@pytest.mark.parametrize("how", ["scan", "fori", "list"])
def test_parameters_that_a_loop_trains_are_layers(how):
    def apply(params, x, y):
        return nets.maml(params, x, y, how=how)

    check_trained(apply, MAML)


def check_trained(apply, params):
    found = by_path(apply, params, X, jnp.ones((6, 3)))
    assert {name: layer.kind for name, layer in found.items()} == {
        "w": "dense", "b": "bias", "v": "dense",
    }  # fmt: skip
    sizes = params["w"].shape[0], params["v"].shape[0]
    assert (found["w"].fan_in, found["v"].fan_in) == sizes
    assert not any(layer.residual for layer in found.values())


@pytest.mark.parametrize("apply", [momentum, per_task])
def test_other_loops_that_train(apply):
    check_trained(apply, MAML)


def test_a_learned_optimizer():
    sizes = {"w": (1, 16), "b": (16,), "v": (16, 1)}
    params = {name: jnp.ones(shape) for name, shape in sizes.items()}
    found = by_path(learned_optimizer, params, X, jnp.ones((6, 3)))
    assert [found[k].kind for k in "wbv"] == ["dense", "bias", "dense"]
    assert (found["w"].fan_in, found["v"].fan_in) == (1, 16)


def test_a_state_that_starts_from_a_leaf_is_an_embedding():
    def apply(p, x):
        def turn(h, x):
            return jnp.tanh(h @ p["w"] + x), None

        return jax.lax.scan(turn, p["h"], x)[0]

    found = by_path(apply, {"h": jnp.ones(8), "w": jnp.ones((8, 8))}, X)
    assert (found["h"].kind, found["w"].kind) == ("embedding", "dense")


# --- kernels that are shared, mixed, shifted or solved for ---------------------------

SERIES = jnp.ones((2, 9, 8))
DIFFERENCES = (np.arange(4)[None] - np.arange(4)[:, None]) % 4


def mixed_convolution(p, x):
    """CondConv: each example's kernel is a weighted sum of experts."""
    weights = jax.nn.sigmoid(x.mean((1, 2)) @ p["r"])
    kernels = jnp.einsum("be,ehwio->bhwio", weights, p["w"])

    def conv(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=numbers
        )[0]

    return jax.vmap(conv)(x, kernels)


IMAGE_EXPERTS = {"r": (3, 4), "w": (4, 3, 3, 3, 5)}
EXPERTS = {"r": (8, 4), "w": (4, 8, 5)}

# name: function, shapes of its parameters, input, and of "w": kind, axes, fans.
TAKEN = {
    "CondConv": (
        mixed_convolution, IMAGE_EXPERTS, jnp.ones((2, 8, 8, 3)),
        ("conv", "bwwio", 27, 45),
    ),
    "mixed layers": (
        lambda p, x: jnp.einsum(
            "bi,bio->bo", x, jnp.tensordot(jax.nn.softmax(x @ p["r"]), p["w"], 1)
        ),
        EXPERTS, X, ("dense", "bio", 8, 5),
    ),
    "mixed in one product": (
        lambda p, x: jnp.einsum("bi,be,eio->bo", x, jax.nn.softmax(x @ p["r"]), p["w"]),
        EXPERTS, X, ("dense", "bio", 8, 5),
    ),
    "mixed by sigmoids in one product": (
        lambda p, x: jnp.einsum("bi,be,eio->bo", x, jax.nn.sigmoid(x @ p["r"]), p["w"]),
        EXPERTS, X, ("dense", "bio", 8, 5),
    ),
    "mixed for one example": (
        lambda p, x: x[0] @ jnp.tensordot(jax.nn.softmax(x[0] @ p["r"]), p["w"], 1),
        EXPERTS, X, ("dense", "bio", 8, 5),
    ),
    "a group's places": (
        lambda p, x: jnp.einsum("bgi,ghio->bho", x, p["w"][DIFFERENCES]),
        {"w": (4, 3, 5)}, jnp.ones((2, 4, 3)), ("conv", "wio", 12, 20),
    ),
    "a group's places, taken": (
        lambda p, x: jnp.einsum("bgi,ghio->bho", x, jnp.take(p["w"], DIFFERENCES, 0)),
        {"w": (4, 3, 5)}, jnp.ones((2, 4, 3)), ("conv", "wio", 12, 20),
    ),
    "itself and the others": (
        lambda p, x: jnp.einsum(
            "bni,nmio->bmo", x,
            jnp.where(jnp.eye(4, dtype=bool)[:, :, None, None], p["w"], p["b"]),
        ),
        {"w": (3, 5), "b": (3, 5)}, jnp.ones((2, 4, 3)), ("dense", "io", 12, 20),
    ),
    "shifted slices": (
        lambda p, x: sum(x[:, k : k + 7] @ p["w"][k] for k in range(3)),
        {"w": (3, 8, 5)}, SERIES, ("conv", "wio", 24, 15),
    ),
    "rolled": (
        lambda p, x: sum(jnp.roll(x, k, 1) @ p["w"][k] for k in range(3)),
        {"w": (3, 8, 5)}, SERIES, ("conv", "wio", 24, 15),
    ),
    "summed turn by turn": (
        lambda p, x: jax.lax.scan(
            lambda total, at: (total + at[0] @ at[1], None),
            jnp.zeros((2, 5)), (x[:, :3].swapaxes(0, 1), p["w"]),
        )[0],
        {"w": (3, 8, 5)}, SERIES, ("conv", "wio", 24, 15),
    ),
    "summed by the number of a turn": (
        lambda p, x: jax.lax.fori_loop(
            0, 3, lambda k, total: total + x[:, k] @ p["w"][k], jnp.zeros((2, 5))
        ),
        {"w": (3, 8, 5)}, SERIES, ("conv", "wio", 24, 15),
    ),
    "in blocks": (
        lambda p, x: jax.lax.fori_loop(
            0, 4, lambda k, total: total + jax.lax.dynamic_slice_in_dim(x, 2 * k, 2, 2)
            @ jax.lax.dynamic_slice_in_dim(p["w"], 2 * k, 2, 0), jnp.zeros((2, 9, 5)),
        ),
        {"w": (8, 5)}, SERIES, ("dense", "io", 8, 5),
    ),
    "members summed": (
        lambda p, x: jax.lax.scan(
            lambda total, w: (total + x @ w, None), jnp.zeros((2, 9, 5)), p["w"]
        )[0],
        {"w": (3, 8, 5)}, SERIES, ("dense", "bio", 8, 5),
    ),
    "in parts": (
        lambda p, x: x[..., :4] @ p["w"][:4] + x[..., 4:] @ p["w"][4:],
        {"w": (8, 5)}, SERIES, ("dense", "io", 8, 5),
    ),
    "in parts, of two inputs": (
        lambda p, x: x[..., :3] @ p["w"][:3] + jnp.tanh(x)[..., 3:] @ p["w"][3:],
        {"w": (8, 5)}, SERIES, ("dense", "io", 8, 5),
    ),
    "by index": (
        lambda p, x: jnp.tanh(x @ p["w"][0]) @ p["w"][-1],
        {"w": (2, 8, 8)}, SERIES, ("dense", "bio", 8, 8),
    ),
    "by an index of the last axis": (
        lambda p, x: jnp.tanh(x @ p["w"][..., 0]) @ p["w"][..., 1],
        {"w": (8, 8, 2)}, SERIES, ("dense", "iob", 8, 8),
    ),
    "by the number of a turn": (
        lambda p, x: jax.lax.fori_loop(0, 3, lambda k, x: jnp.tanh(x @ p["w"][k]), x),
        {"w": (3, 8, 8)}, SERIES, ("dense", "bio", 8, 8),
    ),
    "shifts stacked": (
        lambda p, x: jnp.einsum(
            "btki,kio->bto", jnp.stack([x[:, k : k + 7] for k in range(3)], 2), p["w"]
        ),
        {"w": (3, 8, 5)}, SERIES, ("dense", "iio", 24, 5),
    ),
    "solved for": (
        lambda p, x: jnp.linalg.solve(p["w"], x.T), {"w": (8, 8)}, X,
        ("dense", "oi", 8, 8),
    ),
    "conjugate gradients": (
        lambda p, x: jax.scipy.sparse.linalg.cg(lambda v: v @ p["w"], x)[0],
        {"w": (8, 8)}, X, ("dense", "io", 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_kernels_that_are_taken_in_other_ways(name):
    apply, shapes, x, (kind, letters, fan_in, fan_out) = TAKEN[name]
    params = {k: jnp.ones(shape) for k, shape in shapes.items()}
    layer = by_path(apply, params, x)["w"]
    found = [""] * len(layer.shape)
    groups = (layer.in_axes, layer.out_axes, layer.batch_axes, layer.receptive_axes)
    for letter, axes in zip("iobw", groups, strict=True):
        for axis in axes:
            found[axis] += letter
    assert (layer.kind, "".join(found)) == (kind, letters), layer
    assert (layer.fan_in, layer.fan_out) == (fan_in, fan_out)


REFUSED = {
    "Toeplitz": (
        lambda w, x: x @ w[jnp.arange(8)[:, None] - jnp.arange(8) + 7], (15,)
    ),
    "circulant": (lambda w, x: x @ jnp.stack([jnp.roll(w, k) for k in range(8)]), (8,)),
    "circulant by vmap": (
        lambda w, x: x @ jax.vmap(lambda k: jnp.roll(w, k))(jnp.arange(8)), (8,)
    ),
    "by Fourier transforms": (
        lambda w, x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), 8), (8,)
    ),
    "rotated": (
        lambda w, x: jax.lax.conv_general_dilated(
            x.reshape(1, 6, 2, 4),
            jnp.stack([jnp.rot90(w, k) for k in range(4)], -1).reshape(3, 3, 4, 20),
            (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        (3, 3, 4, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_told_says_why(name):
    apply, shape = REFUSED[name]
    (layer,) = layers(apply, jnp.ones(shape), X)
    assert layer.kind == "unknown" and np.isnan(layer.fan_in)
    assert layer.reason[0].isupper() and layer.reason.endswith("."), layer.reason


def positions(shape, how):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(16, name="first")(x)
            places = self.param("places", nn.initializers.zeros, shape)
            x = x + (
                jnp.broadcast_to(places, x.shape) if how == "broadcast" else places
            )
            x = x + nn.Dense(16, name="last")(nn.gelu(nn.Dense(16, name="mid")(x)))
            return nn.Dense(3, name="head")(x)

    return Net()


@pytest.mark.parametrize("shape", [(9, 16), (1, 9, 16), (9, 1)])
@pytest.mark.parametrize("how", ["plain", "broadcast"])
def test_learned_positions_are_told_from_biases(shape, how):
    found = by_path(*linen(positions(shape, how), SERIES))
    assert found["params/first/bias"].place_axes == ()
    expected = () if shape == (9, 1) else (len(shape) - 2,)
    assert found["params/places"].place_axes == expected


def test_gpt2_draws_learned_positions():
    images = jnp.ones((2, 8, 8, 3))
    drawn = ji.init(nets.ViT(), KEY, images, scheme=ji.tree.gpt2())["params"]
    for name in ("token", "places"):
        assert float(drawn[name].std()) == pytest.approx(0.02, rel=0.5)
    assert not drawn["head"]["bias"].any()


EQUALISED = {
    "kernel": lambda w, x, c: x @ (w * c),
    "divided": lambda w, x, c: x @ (w / (1 / c)),
    "output": lambda w, x, c: (x @ w) * c,
    "input": lambda w, x, c: (c * x) @ w,
    "output, and shifted": lambda w, x, c: jax.nn.relu(c * (x @ w) + 1.0),
    "in two steps": lambda w, x, c: (x @ (w * (c * 8**0.5))) / 8**0.5,
    "in the program": lambda w, x, c: (x @ w) * (jnp.float32(c) * jnp.sqrt(1.0)),
    "vmapped": lambda w, x, c: jax.vmap(lambda x: x @ w * c)(x),
    "scanned": lambda w, x, c: jax.lax.map(lambda x: x @ (c * w), x),
}


@pytest.mark.parametrize("gain", [2**0.5, 1.0, 5 / 3])
@pytest.mark.parametrize("name", EQUALISED)
def test_an_equalised_learning_rate_is_announced(name, gain):
    factor = gain / 8**0.5
    apply = jax.jit(lambda p, x: EQUALISED[name](p["w"], x, factor))
    (layer,) = layers(apply, {"w": W}, X)
    assert (layer.kind, layer.fan_in) == ("dense", 8)
    assert layer.multiplier == pytest.approx(factor)
    with pytest.warns(UserWarning, match="^w: the program multiplies it by"):
        ji.reinit(KEY, {"w": W}, ji.he_normal(), apply, (X,))
    ji.reinit(KEY, {"w": W}, ji.normal(1.0), apply, (X,))  # says nothing


def test_other_factors_are_no_equalised_learning_rate():
    x = jnp.ones((2, 6, 8))

    def attend(p, x):  # heads of 4, by queries that are divided by its root
        q, k = x @ p["q"] / 4**0.5, x @ p["k"]
        weights = jax.nn.softmax(q @ k.swapaxes(1, 2) * 2**-0.5)
        return (weights @ x).mean(1) / 8**0.5 @ p["head"] * 30.0

    params = {"q": jnp.ones((8, 4)), "k": jnp.ones((8, 4)), "head": jnp.ones((8, 2))}
    ji.reinit(KEY, params, ji.he_normal(), attend, (x,))  # says nothing
