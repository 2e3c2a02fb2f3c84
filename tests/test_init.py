"""`jaxinit.init` on models as their frameworks write them: inputs, keys, containers."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit as ji

pytestmark = pytest.mark.usefixtures("users_broadcast")
KEY = jax.random.key(0)
X = jnp.ones((6, 8))
PIXELS = jnp.ones((2, 8, 8, 3))
WIDE = ji.normal(3.0)


def equinox():
    return pytest.importorskip("equinox")


def haiku():
    return pytest.importorskip("haiku")


def drawn(tree):
    """For each kernel by its path whether it was drawn, with deviation 3."""
    return {
        path: float(jnp.std(leaf)) > 1.5
        for path, leaf in leaves(tree)
        if leaf.ndim > 1 and min(leaf.shape[-2:]) > 1
    }


def leaves(tree):
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree, nnx.Param)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "ndim") and not isinstance(leaf, type)
    ]


def all_drawn(tree, count=None):
    found = drawn(tree)
    assert found and all(found.values()), found
    assert count is None or len(found) == count
    return tree


# --- Inputs by name, flags, sizes, texts ----------------------------------------------


class Normed(nn.Module):
    """Convolution, normalization with a collection of its own, and a readout."""

    @nn.compact
    def __call__(self, pixels, mask=None, train=False):
        x = nn.Conv(8, (3, 3))(pixels)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = x.mean((1, 2)) if mask is None else (x * mask).mean((1, 2))
        return nn.Dense(5)(x)


class NormedNNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, pixels):
        return self.last(self.norm(self.conv(pixels)).mean((1, 2)))


def normed_haiku():
    hk = haiku()

    def net(pixels, is_training):
        x = hk.Conv2D(8, 3)(pixels)
        x = hk.BatchNorm(True, True, 0.9)(x, is_training)
        return hk.Linear(5)(x.mean((1, 2)))

    return hk.transform_with_state(net)


def pair():
    start = lambda key, pixels: {"w": jnp.ones((3, 5))}  # noqa: E731
    return start, lambda params, pixels: pixels @ params["w"]


@pytest.fixture
def promotion_as_by_default():
    with jax.numpy_dtype_promotion("standard"):  # Haiku's normalisation needs it
        yield


NAMED = {
    "linen": (lambda: Normed(), {}, 2),
    "linen in training": (lambda: Normed(), {"train": True}, 2),
    "linen with a mask": (lambda: Normed(), {"mask": jnp.ones((2, 8, 8, 1))}, 2),
    "nnx": (lambda: NormedNNX, {}, 2),
    "haiku": (normed_haiku, {}, 2),
    "haiku in training": (normed_haiku, {"is_training": True}, 2),
    "pair": (pair, {}, 1),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.usefixtures("promotion_as_by_default")
def test_arrays_by_name_are_inputs(name):
    model, options, count = NAMED[name]
    by_name = ji.init(model(), KEY, scheme=WIDE, pixels=PIXELS, **options)
    by_place = ji.init(model(), KEY, PIXELS, scheme=WIDE, **options)
    all_drawn(by_name[0] if name.startswith("haiku") else by_name, count)
    jax.tree.map(np.testing.assert_array_equal, by_name, by_place)


def test_shapes_by_name_are_inputs():
    shape = jax.ShapeDtypeStruct(PIXELS.shape, PIXELS.dtype)
    abstract = ji.init(Normed(), KEY, scheme=WIDE, pixels=shape)
    concrete = ji.init(Normed(), KEY, scheme=WIDE, pixels=PIXELS)
    jax.tree.map(np.testing.assert_array_equal, abstract, concrete)


@pytest.mark.parametrize("normed", [False, True])
def test_a_model_that_holds_its_inputs(normed):
    class Holds(nn.Module):
        @nn.compact
        def __call__(self):
            x = nn.Dense(8)(jnp.asarray(np.asarray(X)))
            if normed:
                x = nn.BatchNorm(use_running_average=True)(x)
            return nn.Dense(5)(x)

    all_drawn(ji.init(Holds(), KEY, scheme=WIDE), 2)


class Told(nn.Module):
    """Wants to be told by position what to do."""

    @nn.compact
    def __call__(self, x, train, width, activation):
        x = getattr(nn, activation)(nn.Dense(width)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(5)(x)


class ToldNNX(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(3)])

    def __call__(self, x, depth, activation, train):
        for layer in self.layers[:depth]:
            x = getattr(jax.nn, activation)(layer(x))
        return x if train else -x


def told_equinox():
    eqx = equinox()

    class Told(eqx.Module):
        layers: list

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.layers = [eqx.nn.Linear(8, 8, key=k) for k in keys]

        def __call__(self, x, depth, activation, train):
            for layer in self.layers[:depth]:
                x = getattr(jax.nn, activation)(layer(x))
            return x if train else -x

    return Told


def told_pair():
    def apply(params, x, depth, activation, train):
        for k in range(depth):
            x = getattr(jax.nn, activation)(x @ params[f"w{k}"])
        return x if train else -x

    return lambda key, *x: {f"w{k}": jnp.ones((8, 8)) for k in range(3)}, apply


TOLD = {"nnx": lambda: ToldNNX, "equinox": told_equinox, "pair": told_pair}


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("train", [True, False, np.bool_(True)])
def test_flags_sizes_and_texts_by_position(name, train):
    made = ji.init(TOLD[name](), KEY, X, 3, "tanh", train, scheme=WIDE)
    all_drawn(made, 3)
    with pytest.warns(UserWarning, match="2.*: It is never used"):
        less = drawn(ji.init(TOLD[name](), KEY, X, 2, "tanh", train, scheme=WIDE))
    assert sorted(less.values()) == [False, True, True]  # the third layer is not used


def test_flags_of_linen():
    keys = {"params": KEY, "dropout": jax.random.key(1)}
    made = [
        ji.init(Told(), KEY, X, False, 16, "relu", scheme=WIDE),
        ji.init(Told(), keys, X, True, 16, "relu", scheme=WIDE),
        ji.init(Told(), KEY, X, width=16, activation="relu", scheme=WIDE),
        ji.init(Told(), KEY, X, jnp.bool_(False).item(), 16, "relu", scheme=WIDE),
    ]
    for variables in made:
        all_drawn(variables, 2)
        jax.tree.map(np.testing.assert_array_equal, variables, made[0])


def test_a_time_is_an_input():
    class Timed(nn.Module):
        @nn.compact
        def __call__(self, x, time):
            angles = time * jnp.arange(1.0, 5.0)
            return nn.Dense(5)(x + nn.Dense(8)(jnp.sin(angles)))

    all_drawn(ji.init(Timed(), KEY, X, 0.5, scheme=WIDE), 2)
    all_drawn(ji.init(Timed(), KEY, X, time=0.5, scheme=WIDE), 2)


def test_a_word_that_no_one_takes():
    with pytest.raises(TypeError, match="unexpected keyword argument 'train'"):
        ji.init(pair(), KEY, PIXELS, scheme=WIDE, train=True)


# --- Keys -----------------------------------------------------------------------------


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.first(x))))


def test_streams_of_keys():
    other = jax.random.key(1)
    plain = ji.init(nn.Dense(5), KEY, X, scheme=WIDE)
    streams = ji.init(nn.Dense(5), {"params": KEY, "dropout": other}, X, scheme=WIDE)
    jax.tree.map(np.testing.assert_array_equal, plain, streams)
    for key in (
        {"params": KEY, "dropout": other},
        {"default": KEY},
        nnx.Rngs(0),
        nnx.Rngs(params=0, dropout=1),
        jax.random.PRNGKey(0),
    ):
        all_drawn(ji.init(Noisy, key, X, scheme=WIDE), 2)
        all_drawn(ji.init(nn.Dense(5), key, X, scheme=WIDE), 1)


def test_a_stream_that_is_used_twice_gives_two_models():
    rngs = nnx.Rngs(0)
    one, two = (ji.init(Noisy, rngs, X, scheme=WIDE) for _ in range(2))
    assert not np.allclose(one.first.kernel[...], two.first.kernel[...])


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (0, TypeError, "key=0 must be a PRNG key.* pass jax.random.key.0."),
        (np.int32(3), TypeError, "must be a PRNG key.* pass jax.random.key.3."),
        (jnp.int32(3), TypeError, "is no PRNG key; pass one such as jax.random.key"),
        (jax.random.split(KEY), ValueError, "shape .2,., but one key is needed"),
        ({"params": 0}, TypeError, "key=0 is no PRNG key"),
        ("seed", TypeError, "key='seed' must be a PRNG key"),
        (
            {"dropout": KEY},
            ValueError,
            "streams ..dropout..; parameters need one named",
        ),
    ],
)
def test_what_is_no_key(key, error, words):
    with pytest.raises(error, match=words):
        ji.init(nn.Dense(5), key, X, scheme=WIDE)
    with pytest.raises(error, match=words):
        ji.reinit(key, {"kernel": X}, WIDE)


def test_streams_are_for_flax():
    with pytest.raises(TypeError, match="only modules of Flax tell apart; pass one"):
        ji.init(pair(), {"params": KEY}, PIXELS, scheme=WIDE)


# --- Containers -----------------------------------------------------------------------


def typed_equinox():
    eqx = equinox()

    class Typed(eqx.Module):
        """Holds types, functions, numbers, integers, a key and constants of NumPy."""

        linear: eqx.nn.Linear
        dtype: type
        of_numpy: type
        bend: object
        order: jax.Array
        table: np.ndarray
        key: jax.Array

        def __init__(self, key):
            self.linear = eqx.nn.Linear(8, 5, key=key)
            self.dtype, self.of_numpy = jnp.float32, np.float32
            self.order = jnp.arange(8)[::-1]
            self.bend = jnp.tanh
            self.table = np.ones(8, np.float32)
            self.key = key

        def __call__(self, x, *, key=None):
            x = x[self.order].astype(self.dtype) * self.table
            x = x + jax.random.normal(self.key, x.shape)
            return self.bend(self.linear(x)).astype(self.of_numpy)

    return Typed


EQUINOX = {
    "class": typed_equinox,
    "function": lambda: lambda key: typed_equinox()(key),
    "of another name": lambda: lambda k: typed_equinox()(k),
    "finished": lambda: typed_equinox()(KEY),
    "nested": lambda: lambda key: equinox().nn.Sequential([typed_equinox()(key)]),
}


@pytest.mark.parametrize("name", EQUINOX)
@pytest.mark.parametrize("x", [X, X[0]], ids=["batch", "example"])
def test_leaves_of_equinox_that_are_no_parameters(name, x):
    module = all_drawn(ji.init(EQUINOX[name](), KEY, x, scheme=WIDE), 1)
    assert module(X[0]).shape == (5,)
    module = module[0] if name == "nested" else module
    assert module.dtype is jnp.float32 and module.of_numpy is np.float32
    assert module.order.tolist() == list(range(7, -1, -1))
    assert isinstance(module.table, np.ndarray)


def test_one_example_and_a_batch_give_one_model():
    eqx = equinox()
    mlp = functools.partial(eqx.nn.MLP, 8, 5, 16, 2)
    one, all_ = (ji.init(mlp, KEY, x, scheme=WIDE) for x in (X[0], X))
    assert eqx.tree_equal(one, all_)


def test_a_module_of_equinox_that_takes_a_batch_itself():
    eqx = equinox()

    class Batched(eqx.Module):
        inner: eqx.nn.MLP

        def __init__(self, key):
            self.inner = eqx.nn.MLP(8, 5, 16, 2, key=key)

        def __call__(self, x):
            assert x.ndim == 2
            return jax.vmap(self.inner)(x)

    all_drawn(ji.init(Batched, KEY, X, scheme=WIDE), 3)


def with_state():
    eqx = equinox()

    class Net(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        last: eqx.nn.Linear

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.first = eqx.nn.Linear(8, 16, key=one)
            self.norm = eqx.nn.BatchNorm(16, axis_name="examples", mode="batch")
            self.drop = eqx.nn.Dropout(0.5)
            self.last = eqx.nn.Linear(16, 5, key=two)

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.first(x), state)
            return self.last(self.drop(jax.nn.relu(x), key=key)), state

    return Net


STATEFUL = {
    "itself": lambda make: make,
    "function": lambda make: lambda key: make(key),
    "by keyword": lambda make: lambda key: make(key=key),
    "of another name": lambda make: lambda seed: make(seed),
    "finished": lambda make: make(KEY),
}


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("x", [X, X[0]], ids=["batch", "example"])
def test_a_module_of_equinox_with_its_state(name, x):
    eqx = equinox()
    made = STATEFUL[name](eqx.nn.make_with_state(with_state()))
    module, state = ji.init(made, KEY, x, scheme=WIDE)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    all_drawn(module, 2)
    module = eqx.nn.inference_mode(module)
    out, _ = jax.vmap(module, axis_name="examples", in_axes=(0, None))(X, state)
    assert out.shape == (6, 5)


@dataclasses.dataclass
class Plain:
    """A callable pytree of no framework."""

    w: jax.Array

    def __call__(self, x):
        return x @ self.w


jax.tree_util.register_dataclass(Plain, ["w"], [])


def test_a_callable_pytree_of_no_framework():
    made = lambda key: Plain(jax.random.normal(key, (8, 5)))  # noqa: E731
    all_drawn(ji.init(made, KEY, X, scheme=WIDE), 1)
    all_drawn(ji.init(made(KEY), KEY, X, scheme=WIDE), 1)


def test_functions_that_make_a_module_of_nnx():
    for make in (
        Noisy,
        lambda rngs: Noisy(rngs),
        lambda r: Noisy(r),
        lambda key: Noisy(nnx.Rngs(key)),
        lambda k: Noisy(nnx.Rngs(k)),
        functools.partial(Noisy),
    ):
        module = all_drawn(ji.init(make, KEY, X, scheme=WIDE), 2)
        assert isinstance(module, Noisy) and module(X).shape == (6, 5)


class PlainNNX(nnx.Module):
    def __init__(self, rngs):
        self.w = jax.random.normal(rngs.params(), (8, 8))

    def __call__(self, x):
        return x @ self.w


class HalfPlain(nnx.Module):
    def __init__(self, rngs):
        self.fixed = PlainNNX(rngs)
        self.linear = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.fixed(x))


@pytest.mark.parametrize("finished", [False, True])
def test_plain_arrays_of_nnx(finished):
    model = PlainNNX(nnx.Rngs(0)) if finished else PlainNNX
    with pytest.raises(ValueError, match="no parameters of NNX: w; wrap them in nnx"):
        ji.init(model, KEY, X, scheme=WIDE)
    model = HalfPlain(nnx.Rngs(0)) if finished else HalfPlain
    with pytest.warns(UserWarning, match="^fixed/w: a plain array .* wrap it in nnx"):
        module = ji.init(model, KEY, X, scheme=WIDE)
    all_drawn(module, 1)
    assert isinstance(module.fixed.w, jax.Array) and module.fixed.w.std() < 1.5
    assert jax.jit(lambda module, x: module(x))(module, X).shape == (6, 5)


@pytest.mark.usefixtures("promotion_as_by_default")
def test_haiku_with_state():
    params, state = ji.init(normed_haiku(), KEY, PIXELS, scheme=WIDE)
    own = normed_haiku().init(KEY, PIXELS, True)
    assert jax.tree.structure((params, state)) == jax.tree.structure(own)
    out, _ = normed_haiku().apply(params, state, KEY, PIXELS, False)
    assert out.shape == (2, 5)
    hk = haiku()
    rescaled = hk.without_apply_rng(hk.transform_with_state(lambda x: hk.Linear(5)(x)))
    all_drawn(ji.init(rescaled, KEY, X, scheme=WIDE)[0], 1)


def test_a_kernel_of_haiku_is_used_once():
    # Its init computes the outputs too, which is no use of a kernel.
    hk = haiku()
    net = hk.transform(lambda x: hk.Linear(5)(jnp.tanh(hk.Linear(8)(x) + x)))
    seen = []

    @ji.tree.tree_scheme
    def watch():
        def choose(structure):
            seen.extend(structure.layers)
            return {}

        return choose

    ji.init(net, KEY, X, scheme=watch())
    assert {layer.path: layer.uses for layer in seen} == {
        f"{name}/{leaf}": 1 for name in ("linear", "linear_1") for leaf in ("w", "b")
    }


# --- Leaves that no scheme can draw ---------------------------------------------------


class Quantized(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.ones, (8, 8), jnp.int8)
        return nn.Dense(5)(x @ w.astype(x.dtype))


def test_kernels_of_integers():
    words = r"params/w of dtype int8 cannot be drawn by .*begin with .'params/w', None"
    with pytest.raises(ValueError, match=words.replace("params/w", "(params/)?w")):
        ji.init(Quantized(), KEY, X, scheme=WIDE)
    with pytest.raises(ValueError, match="^reinit: w of dtype int8 cannot be drawn"):
        apply = lambda p, x: x @ p["w"].astype(x.dtype)  # noqa: E731
        ji.reinit(KEY, {"w": jnp.ones((8, 5), jnp.int8)}, WIDE, apply, (X,))
    kept = ji.init(Quantized(), KEY, X, scheme=[("w", None), ("*kernel", WIDE)])
    assert kept["params"]["w"].dtype == jnp.int8
    all_drawn(kept["params"]["Dense_0"], 1)


def test_kernels_of_integers_of_equinox():
    eqx = equinox()

    class Int8(eqx.Module):
        w: jax.Array

        def __init__(self, key):
            self.w = jnp.ones((8, 5), jnp.int8)

        def __call__(self, x):
            return x @ self.w.astype(x.dtype)

    with pytest.raises(ValueError, match="^reinit: w of dtype int8 cannot be drawn"):
        ji.init(Int8, KEY, X, scheme=WIDE)


def test_keys_among_the_leaves():
    params = {"w": jnp.ones((8, 5)), "key": KEY, "keys": jax.random.split(KEY, 3)}

    def apply(p, x):
        return x @ p["w"] + jax.random.normal(p["key"], (5,))

    table = ji.describe(params, WIDE, apply, (X,))
    assert {row.path: row.init is not None for row in table} == {
        "w": True,
        "key": False,
        "keys": False,
    }
    assert repr(table).count("as it is") == 2
    assert len(ji.describe(params)) == 3
    new = ji.reinit(KEY, params, WIDE, apply, (X,))
    assert new["key"] is params["key"]
    with pytest.raises(ValueError, match="key of dtype key<fry> cannot be drawn"):
        ji.reinit(KEY, params, [("*", WIDE)], apply, (X,))


@pytest.mark.parametrize("dtype", [jnp.float32, None])
def test_the_call_of_haiku_and_keras(dtype):
    for shape in ((8, 5), [8, 5]):
        with pytest.raises(TypeError, match="is a shape. Haiku and Keras call"):
            ji.he_normal()(shape, dtype)
    hk = haiku()
    with pytest.raises(TypeError, match="hk.next_rng_key"):
        hk.transform(lambda x: hk.Linear(5, w_init=ji.he_normal())(x)).init(KEY, X)

    def by_key(shape, dtype):
        return ji.he_normal()(hk.next_rng_key(), shape, dtype)

    params = hk.transform(lambda x: hk.Linear(5, w_init=by_key)(x)).init(KEY, X)
    assert params["linear"]["w"].shape == (8, 5)
