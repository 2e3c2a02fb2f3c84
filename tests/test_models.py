"""Models of Equinox and Haiku, and what is said where a model is at fault."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit as ji
from jaxinit.compare import (
    Config,
    Hparams,
    Model,
    as_model,
    compare,
    make_task,
    make_train,
)
from jaxinit.compare.train.initial import InitialParams

pytestmark = pytest.mark.usefixtures("users_broadcast")

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
X = RNG.normal(size=(64, 8)).astype(np.float32)
Y = (X @ RNG.normal(size=(8, 3))).argmax(axis=1)
SHORT = {"steps": 20, "eval_every": 10, "batch_size": 32, "quiet": True}
SHORT["tuning_seeds"] = 0


def task_of(model, x=X, y=Y, **options):
    return make_task(model, (x, y), (x, y), **{"target": 0.9, **options})


def starts_of(model, seeds=2, x=X, scheme=None):
    """The parameters of seeds 0, 1, ... with kernels by `scheme`, He's by default."""
    scheme = ji.he_normal() if scheme is None else scheme
    starts = InitialParams(
        task_of(model, x), Config(batch_size=32), {"s": scheme}, seeds
    )
    return starts.of([("s", seed) for seed in range(seeds)])[0]


def started(model, key=KEY):
    return jax.jit(model.init)(key, X)


def applied(model):
    return jax.jit(model.apply, static_argnums=4)


def equinox():
    return pytest.importorskip("equinox")


def haiku():
    return pytest.importorskip("haiku")


def eqx_mlp():
    eqx = equinox()
    return functools.partial(eqx.nn.MLP, 8, 3, 128, 2)


def eqx_norm():
    """A module with batch statistics, dropout, and an array that is no parameter."""
    eqx = equinox()

    class Net(eqx.Module):
        first: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        drop: eqx.nn.Dropout
        last: eqx.nn.Linear
        order: jax.Array

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.first = eqx.nn.Linear(8, 16, key=keys[0])
            self.norm = eqx.nn.BatchNorm(16, axis_name="batch", mode="batch")
            self.drop = eqx.nn.Dropout(0.5)
            self.last = eqx.nn.Linear(16, 3, key=keys[1])
            self.order = jax.random.permutation(keys[2], 8)

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.first(x[self.order]), state)
            return self.last(self.drop(jax.nn.relu(x), key=key)), state

    return lambda key: eqx.nn.make_with_state(Net)(key)


def hk_mlp():
    hk = haiku()
    return hk.transform(lambda x: hk.nets.MLP([128, 128, 3])(x))


def hk_norm():
    hk = haiku()

    def net(x):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(16)(x), is_training=True)
        x = hk.dropout(hk.next_rng_key(), 0.5, jax.nn.relu(x))
        return hk.Linear(3)(x)

    return hk.transform_with_state(net)


MODELS = {
    "equinox": lambda: eqx_mlp()(key=jax.random.key(5)),
    "equinox of a key": eqx_mlp,
    "equinox with state": eqx_norm,
    "haiku": hk_mlp,
    "haiku without rng": lambda: haiku().without_apply_rng(hk_mlp()),
    "haiku with state": hk_norm,
    "haiku with state and no rng": lambda: haiku().without_apply_rng(
        haiku().transform_with_state(lambda x: haiku().Linear(3)(x))
    ),
}


@pytest.fixture(autouse=True)
def promotion_as_by_default():
    with jax.numpy_dtype_promotion("standard"):  # Haiku's normalisation needs it
        yield


@functools.cache
def starts_named(name):
    return starts_of(MODELS[name]())


each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_a_model_is_compared(name):
    if name in ("equinox", "haiku"):
        result = compare(task_of(MODELS[name]()), ["he_normal"], [0.1], 1, **SHORT)
        (row,) = result.runs.to_pylist()
        assert row["status"] == "finished"
        assert row["train_loss"][-1] < row["train_loss"][0]
        return
    model = as_model(MODELS[name]())
    assert task_of(model).fingerprint == task_of(MODELS[name]()).fingerprint
    if not name.endswith("with state"):
        return  # the same functions as another's, but for what stands between them
    params, _ = started(model)
    train = jax.jit(
        make_train(task_of(model), Config(steps=20, eval_every=20, batch_size=32))
    )
    curves = train(params, jax.random.key(1), Hparams(jnp.float32(0.1)))
    assert curves.valid_loss[1] < curves.valid_loss[0]


@each_model
def test_init_and_compare_read_a_model_alike(name):
    """One answer of both: the same leaves, and the same of them are kernels."""
    model, scheme = MODELS[name](), ji.he_normal()
    made = ji.init(model, KEY, X, scheme=scheme)
    adapted = as_model(MODELS[name]())
    params, state = adapted.init(KEY, jnp.asarray(X))

    def outputs(params, x):
        return adapted.apply(params, state, x, KEY, None)[0]

    new = ji.reinit(KEY, params, scheme, outputs, (jnp.asarray(X),))
    theirs = adapted.join(new, state)
    ours, theirs = (
        {
            jax.tree_util.keystr(at): leaf
            for at, leaf in jax.tree_util.tree_leaves_with_path(tree)
            if hasattr(leaf, "ndim")
        }
        for tree in (made, theirs)
    )
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        # Rounding differs between a model made at once and operation by operation.
        np.testing.assert_allclose(leaf, theirs[path], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "path", "fan"),
    [
        ("equinox", "layers/1/weight", 128),
        ("equinox of a key", "layers/1/weight", 128),
        ("haiku", "mlp/~/linear_1/w", 128),
    ],
)
def test_kernels_get_their_fans(name, path, fan):
    params = starts_named(name)
    leaves = {
        jax.tree_util.keystr(at, simple=True, separator="/"): leaf
        for at, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert leaves[path].shape == (2, 128, fan)  # two seeds, and both sides are wide
    np.testing.assert_allclose(
        leaves[path].std(axis=(1, 2)), (2 / fan) ** 0.5, rtol=0.03
    )
    assert not np.array_equal(*leaves[path])
    assert leaves[path].dtype == np.float32


def test_convolutions_of_equinox_have_theirs_first():
    eqx = equinox()
    images = RNG.normal(size=(64, 4, 8, 8)).astype(np.float32)

    def net(key):
        one, two = jax.random.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(4, 256, 3, key=one),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Lambda(lambda x: x.mean(axis=(1, 2))),
                eqx.nn.Linear(256, 3, key=two),
            ]
        )

    params = starts_of(net, 1, images)
    np.testing.assert_allclose(
        params.layers[0].weight.std(), (2 / 36) ** 0.5, rtol=0.03
    )


def test_biases_come_from_the_seed_where_a_function_makes_the_module():
    made, finished = starts_named("equinox of a key"), starts_named("equinox")
    assert not np.array_equal(*made.layers[0].bias)
    np.testing.assert_array_equal(*finished.layers[0].bias)
    assert made.layers[0].bias.any()


@pytest.mark.parametrize("name", ["equinox with state", "haiku with state"])
def test_dropout_and_statistics(name, key):
    model = as_model(MODELS[name]())
    params, state = started(model, key)
    other = jax.random.key(1)
    trained, after = applied(model)(params, state, X, key, True)
    assert trained.shape == (64, 3)
    assert not np.allclose(trained, applied(model)(params, state, X, other, True)[0])
    moved = [
        not np.array_equal(old, new)
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
    ]
    assert any(moved)
    if name.startswith("haiku"):
        return  # a function of Haiku is not told that it does not train
    evaluated, kept = applied(model)(params, state, X, key, False)
    np.testing.assert_array_equal(
        evaluated, applied(model)(params, state, X, other, False)[0]
    )
    jax.tree.map(np.testing.assert_array_equal, state, kept)


def test_what_is_no_parameter_stays_out_of_training(key):
    model = as_model(eqx_norm())
    params, _ = started(model, key)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    assert dtypes == {jnp.dtype("float32")}
    order = lambda key: started(model, key)[1][0].order  # noqa: E731
    assert not np.array_equal(order(key), order(jax.random.key(1)))


def test_a_function_of_haiku_that_is_told_whether_it_trains(key):
    hk = haiku()

    def net(x, is_training):
        x = hk.Linear(16)(x)
        x = hk.BatchNorm(True, True, 0.9)(x, is_training)
        return hk.Linear(3)(x)

    f = hk.transform_with_state(net)
    model = Model(
        lambda key, x: f.init(key, x, True),
        lambda params, state, x, key, train: f.apply(params, state, key, x, train),
    )
    params, state = started(model, key)
    kept = applied(model)(params, state, X, key, False)[1]
    jax.tree.map(np.testing.assert_array_equal, state, kept)
    moved = applied(model)(params, state, X, key, True)[1]
    assert not np.array_equal(jax.tree.leaves(state)[-1], jax.tree.leaves(moved)[-1])
    assert task_of(model).name == "custom"


@pytest.mark.parametrize("name", ["equinox", "equinox with state"])
def test_equinox_in_one_batch_is_equinox_one_by_one(name, key):
    eqx = equinox()
    model = as_model(MODELS[name]())
    params, state = started(model, key)
    outputs, _ = applied(model)(params, state, X, key, False)
    if name == "equinox":
        module = MODELS[name]()
        expected = jax.jit(jax.vmap(module))(X)
    else:
        module, carried = eqx.filter_jit(MODELS[name]())(key)
        module = eqx.nn.inference_mode(module)
        one = lambda x: module(x, carried)[0]  # noqa: E731
        expected = jax.jit(jax.vmap(one, axis_name="batch"))(X)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_imported_that_the_model_does_not_bring(monkeypatch):
    import sys

    for name in [n for n in sys.modules if n.split(".")[0] in ("equinox", "haiku")]:
        monkeypatch.delitem(sys.modules, name)
    as_model(nn.Dense(3))
    as_model(lambda rngs: nnx.Linear(8, 3, rngs=rngs))
    pair = (lambda key: {"w": jnp.ones((8, 3))}, lambda params, x: x @ params["w"])
    assert as_model(pair).init(jax.random.key(0), X)[1] == ()
    assert not {"equinox", "haiku"} & sys.modules.keys()


def test_a_pair_with_state_and_key(key):
    pair = (
        lambda key, x: ({"w": jnp.ones((8, 3))}, {"seen": jnp.float32(0)}),
        lambda params, state, rng, x: (
            x @ params["w"] + jax.random.normal(rng, (3,)),
            {"seen": state["seen"] + len(x)},
        ),
    )
    model = as_model(pair)
    params, state = started(model, key)
    out, state = applied(model)(params, state, X, key, True)
    assert state["seen"] == 64
    assert not np.allclose(
        out, applied(model)(params, state, X, jax.random.key(0), True)[0]
    )
    config = Config(steps=2, eval_every=2, batch_size=32)
    train = jax.jit(make_train(task_of(pair), config))
    assert np.isfinite(train(params, key, Hparams(jnp.float32(0.1))).train_loss).all()


# --- Faults --------------------------------------------------------------------------


class Broken(nn.Module):
    """A dense layer, and then what is asked for."""

    then: object
    training_too: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(3)(x)
        return x if self.training_too and not train else self.then(x)


def raising(x):
    raise RuntimeError("no such luck.\nAnd more of it.")


def searched(x):
    return jax.lax.while_loop(lambda x: (x < 1).all(), lambda x: x + 1, x)


def at_least(x):
    return jax.nn.relu(x) if float(x.sum()) > 0 else x


def counted(key):
    return {"w": jnp.ones((8, 3)), "seen": jnp.int32(0)}


def growing(params, state, x):
    return x @ params["w"], {"seen": jnp.append(state["seen"], 1)}


def by_numpy(outputs, y):
    return np.asarray(outputs).argmax(axis=-1) == np.asarray(y)


def mean_first(outputs, y):
    return outputs.mean(axis=0)


def own(metric=None, loss=None, **options):
    chosen = {"metric": metric, "direction": "max"} if metric else {}
    return task_of(nn.Dense(3), loss=loss or "cross_entropy", **chosen, **options)


FAULTS = [  # a call, what its one sentence says, and the type of the cause
    (
        lambda: task_of(Broken(raising)),
        "the model Broken, given inputs of shape (64, 8) and dtype float32, raised "
        "RuntimeError: no such luck.",
        RuntimeError,
    ),
    (
        lambda: task_of(Broken(raising, training_too=True)),
        "the model Broken in training, given inputs of shape (64, 8) and dtype "
        "float32 and labels of shape (64,) and dtype int32, raised RuntimeError: no",
        RuntimeError,
    ),
    (lambda: task_of(Broken(at_least)), "raised ConcretizationTypeError", TypeError),
    (lambda: task_of(Broken(searched)), "the model Broken in training", ValueError),
    (
        lambda: task_of(nn.Conv(3, (3, 3)), X.reshape(64, 8)),
        "given inputs of shape (64, 8) and dtype float32, raised",
        Exception,
    ),
    (
        lambda: task_of(lambda rngs: nnx.Linear(7, 3, rngs=rngs)),
        "given inputs of shape (64, 8) and dtype float32, raised TypeError",
        TypeError,
    ),
    (
        lambda: task_of(lambda rngs: raising(rngs)),
        "model: the function that makes it, given an nnx.Rngs, raised RuntimeError",
        RuntimeError,
    ),
    (lambda: task_of(lambda rngs: 3), "returned int, not an nnx.Module", None),
    (lambda: task_of(lambda key: 3), "returned int, not a callable pytree", None),
    (lambda: task_of("mlp"), "model='mlp' must be a Flax Linen", None),
    (
        lambda: task_of((lambda key: {}, lambda params, x: x)),
        "the model has no parameters, so that no scheme can initialize it.",
        None,
    ),
    (
        lambda: task_of((counted, lambda params, x: x @ params["w"])),
        "a parameter seen of dtype int32; only real numbers are trained",
        None,
    ),
    (
        lambda: task_of(
            (lambda key: ({"w": jnp.ones((8, 3))}, {"seen": jnp.zeros(1)}), growing)
        ),
        "returns a state of other structure, shapes or dtypes",
        None,
    ),
    (lambda: task_of(nn.Dense(2)), "labels reach 2, but the model has 2", None),
    (
        lambda: task_of(Broken(jnp.sum)),
        "to shape (); logits of shape (64, classes)",
        None,
    ),
    (
        lambda: task_of(Broken(lambda x: x[:, None])),
        "maps 64 inputs to shape (64, 1, 3); logits of shape (64, classes) are needed.",
        None,
    ),
    (lambda: task_of(Broken(lambda x: (x, x))), "returns a tuple; one array", None),
    (
        lambda: own(metric=by_numpy),
        "the metric by_numpy, given outputs of shape (64, 3) and dtype float32 and "
        "labels of shape (64,) and dtype int32, raised TracerArrayConversionError",
        TypeError,
    ),
    (lambda: own(loss=raising), "the loss raising, given outputs", TypeError),
    (lambda: own(loss=mean_first), "the loss mean_first of 64 examples has", None),
    (lambda: own(metric=lambda o, y: "good"), "raised TypeError", TypeError),
    (lambda: own(metric=lambda o, y: None), "returns a NoneType; one array", None),
    (lambda: own(metric=lambda o, y: (y, y)), "returns a tuple; one array", None),
    (
        lambda: own(metric=lambda o, y: 1j * y),
        "has values of dtype complex64; real numbers are needed.",
        None,
    ),
    (
        lambda: own(loss=lambda o, y: o.argmax(-1) - y),
        "has values of dtype int32; real numbers are needed.",
        None,
    ),
    (
        lambda: make_task(nn.Dense(3), X, (X, Y), target=0.9),
        "train of type ndarray must be a pair (inputs, labels).",
        None,
    ),
    (
        lambda: task_of(nn.Dense(3), {"a": X}),
        "the model Dense, given inputs['a'] of shape (64, 8) and dtype float32, raised "
        "TypeError: Dense.__call__() got an unexpected keyword argument 'a'.",
        TypeError,
    ),
    (
        lambda: task_of(nn.Dense(3), X, [[0], [0, 1]]),
        "train labels of type list are not one array of real numbers.",
        None,
    ),
    (
        lambda: compare(
            task_of(
                (lambda key: {"b": jnp.ones(3)}, lambda p, x: x[:, :3] + p["b"][None])
            ),
            quiet=True,
        ),
        "the model of task custom has no kernel",
        None,
    ),
]


@pytest.mark.parametrize(
    ("call", "words", "cause"), FAULTS, ids=[words for _, words, _ in FAULTS]
)
def test_a_fault_is_one_sentence_and_keeps_its_cause(call, words, cause):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert message.endswith(".") and not message.endswith("..") and len(message) < 400
    if cause is None:
        assert caught.value.__cause__ is None
    else:
        assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_model_that_is_not_finite_from_the_start_has_diverged(value, capsys):
    task = task_of(Broken(lambda x: x * value))
    options = {**SHORT, "quiet": False}
    result = compare(task, ["he_normal", "normal"], [0.1], 2, **options)
    rows = result.runs.to_pylist()
    assert [row["status"] for row in rows] == ["diverged"] * 4
    assert all(row["steps_to_target"] is None for row in rows)
    assert [summary.diverged for summary in result.ranking()] == [2, 2]
    printed = capsys.readouterr().out
    assert "2/2" in printed and "no scheme reaches the target" in printed
