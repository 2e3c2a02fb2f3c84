"""What only the rest of a program tells of a kernel: members, gates, shared blocks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinit as ji
from jaxinit.trace import Layer, layers

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


class Critic(nn.Module):
    """Value of a state and an action."""

    @nn.compact
    def __call__(self, state, action):
        x = jnp.concatenate([state, action], -1)
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(32)(x)))
        return nn.Dense(1)(x)[..., 0]


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
    "twin critics": lambda: linen(members(Critic, 10)(), X, X),
    "critics side by side": lambda: linen(members(Critic, 10, 1)(), X, X),
    "the smaller of two critics": lambda: (
        lambda p, s, a: members(Critic, 10)().apply(p, s, a).min(0),
        jax.eval_shape(members(Critic, 10)().init, KEY, X, X), X, X,
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
}  # fmt: skip


@pytest.mark.parametrize("name", ENSEMBLES)
def test_members_of_an_ensemble_are_separate_kernels(name):
    found = ji.trace.kernels(layers(*ENSEMBLES[name]()))
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
