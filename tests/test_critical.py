"""Critical gains: deep plain networks whose gradients neither vanish nor explode."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit as ji
from jaxinit import meanfield, tree

WIDTH = 32


def plain(params, x, activation=jnp.tanh):
    """Dense layers, an activation between any two of them."""
    for layer, kernel in enumerate(params):
        x = (activation(x) if layer else x) @ kernel
    return x


def stack(depth, width=WIDTH):
    return [jnp.zeros((width, width)) for _ in range(depth)]


X = jax.random.normal(jax.random.key(5), (4, WIDTH))


@functools.cache
def ends(scheme, depth, gain=None):
    """How much the gradient of the first kernel exceeds that of the last."""
    params = ji.reinit(jax.random.key(0), stack(depth), scheme, plain, (X,), gain=gain)

    def scanned(first, rest):
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x) @ w, None), X @ first, rest)
        return (x * jax.random.normal(jax.random.key(1), x.shape)).sum()

    first, rest = jax.grad(scanned, argnums=(0, 1))(params[0], jnp.stack(params[1:]))
    return float(jnp.linalg.norm(first) / jnp.linalg.norm(rest[-1]))


def test_the_two_gains_of_tanh():
    forward = meanfield.gain("tanh")
    assert forward == pytest.approx(1.5925, abs=1e-4)
    slope = functools.partial(meanfield.slope, "tanh")
    assert slope(1.0, weight_variance=forward**2) == pytest.approx(1.178, abs=1e-3)
    for bias in (0.0, 2.01e-5, 0.05):
        point = meanfield.edge_of_chaos("tanh", bias)
        gain = meanfield.critical_gain("tanh", bias)
        assert slope(point.variance, weight_variance=gain**2) == pytest.approx(1)
    assert meanfield.critical_gain("tanh", 2.01e-5) == pytest.approx(1.0247, abs=1e-4)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "linear"])
def test_the_gains_agree_where_every_variance_is_fixed(name):
    assert meanfield.critical_gain(name) == pytest.approx(ji.gain(name))


def test_gradients_of_200_layers():
    assert 1 / 100 < ends(tree.delta_conv(), 200) < 100
    assert 1 / 100 < ends(tree.delta_conv(bias_variance=2.01e-5), 200) < 100
    assert ends(tree.delta_conv("auto"), 200) > 1e6
    # As keywords of init, reinit and describe, for any initializer.
    assert 1 / 100 < ends(ji.orthogonal(), 200, "critical") < 100
    assert ends(ji.orthogonal(), 200, "auto") > 1e6


class CNN(nn.Module):
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x):
        for width in (8, 16):
            x = meanfield.ACTIVATIONS[self.activation](nn.Conv(width, (3, 3))(x))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


IMAGES = jnp.ones((2, 8, 8, 3))


def drawn(model, scheme, **options):
    made = ji.init(model, jax.random.key(0), IMAGES, scheme=scheme, **options)
    return made["params"]


@pytest.mark.parametrize(
    ("scheme", "gain"),
    [
        (tree.delta_conv(), 1.0),
        (tree.delta_conv(bias_variance=0.05), meanfield.critical_gain("tanh", 0.05)),
        (tree.delta_conv(gain="auto"), ji.gain("tanh")),
    ],
)
def test_delta_conv_has_the_gain_it_says(scheme, gain):
    params = drawn(CNN(), scheme)
    for name, expected in (("Conv_0", 1.0), ("Conv_1", gain)):
        taps = np.asarray(params[name]["kernel"])
        singular = np.linalg.svd(taps[1, 1], compute_uv=False)
        np.testing.assert_allclose(singular, expected, rtol=1e-4)
        assert not taps[0].any() and not taps[2].any()
    biases = np.concatenate([np.ravel(params[f"Conv_{k}"]["bias"]) for k in (0, 1)])
    variance = scheme.arguments["bias_variance"]
    assert (biases**2).mean() == pytest.approx(variance, rel=1)


GAINED = [
    ji.lecun_normal(),
    ji.he_normal(gain=3.0),
    ji.he_normal(activation="relu"),
    ji.orthogonal(2.0),
    ji.variance_scaling(1.0, "fan_in", "normal", activation="relu"),
    ji.normal(1 / 16),
    ji.sum_of(ji.lecun_normal(), 1),
    ji.looks_linear(ji.orthogonal()),
]


@pytest.mark.parametrize("gain", ["auto", "critical"])
@pytest.mark.parametrize("init", GAINED, ids=repr)
def test_a_gain_takes_the_place_of_the_schemes_own(init, gain):
    params = [jnp.zeros((256, 256)), jnp.zeros((256, 256))]
    apply = functools.partial(plain, activation=jax.nn.elu)
    x = jnp.ones((1, 256))
    rows = ji.describe(params, init, apply, (x,), gain=gain)
    of = {"auto": meanfield.gain, "critical": meanfield.critical_gain}[gain]
    assert rows[1].std / rows[0].std == pytest.approx(of("elu"), rel=0.02)
    if "stddev" not in init.arguments and "scheme" not in init.arguments:
        assert rows[0].std == pytest.approx(1 / 16, rel=0.02)
    assert ji.parse(repr(rows[1].init)) == rows[1].init


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "softplus"])
def test_no_critical_gain_in_one_sentence(name):
    with pytest.raises(ValueError, match="Conv_1/kernel has no critical gain"):
        drawn(CNN(name), tree.delta_conv())
    with pytest.raises(ValueError, match="reinit: .*Conv_1/kernel has no critical"):
        drawn(CNN(name), ji.lecun_normal(), gain="critical")
    with pytest.raises(ValueError, match="tree.edge_of_chaos: .*no critical gain"):
        drawn(CNN(name), tree.edge_of_chaos())
    # The other gain has them all.
    drawn(CNN(name), ji.lecun_normal(), gain="auto")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tree.delta_conv("forward"), "use one of 'auto', 'critical'"),
        (lambda: tree.delta_conv("auto", 0.1), "goes with gain='critical'"),
        (lambda: tree.edge_of_chaos(-1.0), "at least 0"),
        (lambda: drawn(CNN(), ji.lecun_normal(), gain="best"), "use one of 'auto'"),
        (
            lambda: ji.reinit(
                jax.random.key(0), stack(1), ji.orthogonal(), gain="critical"
            ),
            "pass apply= and inputs=",
        ),
        (lambda: drawn(CNN("tanh"), tree.looks_linear()), "tanh, which feeds Conv_1"),
        (lambda: drawn(CNN("relu"), tree.siren()), "fed by a sine"),
    ],
)
def test_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("bias_variance", [0.0, 0.05])
def test_edge_of_chaos_on_a_tree_is_the_pair(bias_variance):
    kernel, bias = ji.edge_of_chaos("tanh", bias_variance)
    params = drawn(CNN(), tree.edge_of_chaos(bias_variance))["Conv_1"]
    scale = kernel.arguments["scale"]
    std = float(params["kernel"].std())
    assert std == pytest.approx((scale / (9 * 8)) ** 0.5, rel=0.1)
    assert bool(params["bias"].any()) == bool(bias_variance)
    assert bias == (ji.normal(bias_variance**0.5) if bias_variance else ji.zeros)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu"])
def test_looks_linear_is_linear_and_an_isometry(name):
    activation = meanfield.ACTIVATIONS[name]

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(8):
                x = activation(nn.Dense(2 * WIDTH)(x))
            return nn.Dense(WIDTH)(x)

    made = ji.init(Deep(), jax.random.key(0), X, scheme=tree.looks_linear())
    y = Deep().apply(made, jnp.concatenate([X, 2 * X, X[:1] - X[1:2]]))
    np.testing.assert_allclose(y[4:8], 2 * y[:4], atol=1e-4)
    np.testing.assert_allclose(y[8], y[0] - y[1], atol=1e-4)
    norms = jnp.linalg.norm(y[:4], axis=1) / jnp.linalg.norm(X, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-4)


def test_looks_linear_of_convolutions_and_what_it_refuses():
    params = drawn(CNN("relu"), tree.looks_linear())
    x = jax.random.normal(jax.random.key(1), IMAGES.shape)
    apply = lambda x: CNN("relu").apply({"params": params}, x)  # noqa: E731
    np.testing.assert_allclose(apply(-x), -apply(x), atol=1e-5)
    assert float(jnp.abs(apply(x)).max()) > 1e-3

    class Flat(nn.Module):
        width: int = 4

        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(self.width, (3, 3))(x)).reshape(len(x), -1)
            return nn.Dense(4)(x)

    with pytest.raises(ValueError, match="Dense_0/kernel reads the flattened"):
        drawn(Flat(), tree.looks_linear())
    with pytest.raises(ValueError, match="Conv_0/kernel of shape .* an odd side"):
        drawn(Flat(5), tree.looks_linear())


def test_siren_keeps_its_sines_at_any_depth():
    class Sines(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(6):
                x = jnp.sin(30 * nn.Dense(256)(x))
                self.sow("intermediates", "sine", x)
            return nn.Dense(1)(x)

    x = jax.random.uniform(jax.random.key(2), (64, 2), minval=-1)
    made = ji.init(Sines(), jax.random.key(0), x, scheme=tree.siren())
    params = made["params"]
    for k, bound in ((0, 1 / 2), (1, (6 / 256) ** 0.5 / 30)):
        kernel = params[f"Dense_{k}"]["kernel"]
        assert 0.95 * bound < float(jnp.abs(kernel).max()) <= bound
        fan = kernel.shape[0]
        bias = params[f"Dense_{k}"]["bias"]
        assert 0.9 * fan**-0.5 < float(jnp.abs(bias).max()) <= fan**-0.5
    last = float(jnp.abs(params["Dense_6"]["kernel"]).max())
    assert 0.9 * (6 / 256) ** 0.5 / 30 < last <= (6 / 256) ** 0.5 / 30
    _, state = Sines().apply(made, x, mutable="intermediates")
    sizes = [float(jnp.std(each)) for each in state["intermediates"]["sine"]]
    assert all(0.6 < size < 0.8 for size in sizes)
