"""What a program computes is known by its digest, and nothing else of it is."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback

import jaxinit as ji
from jaxinit.compare import Config, make_task
from jaxinit.compare.store.identity import identity
from jaxinit.compare.sweep.plan import named
from jaxinit.compare.task import check
from jaxinit.compare.task.programs import fingerprint
from jaxinit.compare.task.values import Digests
from jaxinit.compare.train.optimizers import as_optimizer

KEY = jax.random.key(0)
V = jnp.arange(3.0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
Y = RNG.integers(3, size=40)


# --- Programs ------------------------------------------------------------------------


def program(function, *arguments):
    return fingerprint(jax.make_jaxpr(lambda *a: function(*a))(*arguments or (V, KEY)))


def through(host):
    """A call of a function of Python within a program."""
    return lambda x, key: jax.pure_callback(host, x, x, vmap_method="sequential")


def shown(x, key):
    jax.debug.print("x {}", x)
    jax.debug.callback(lambda x: None, x)
    return jnp.sin(x) + jnp.cos(x)


def unused(x, key):
    jnp.tanh(jax.random.normal(key, (5,)))
    return jax.jit(lambda a, b: (jnp.sin(a) + jnp.cos(a), jnp.exp(b)))(x, key_free(x))[
        0
    ]


def key_free(x):
    return x * 7


def in_other_order(x, key):
    b = jnp.cos(x)
    a = jnp.sin(x)
    return a + b


def renamed(first, second):
    # Another comment, other names.
    left, right = jnp.sin(first), jnp.cos(first)
    return left + right


@jax.custom_jvp
def straight(x):
    return jnp.sin(x)


straight.defjvp(lambda x, dx: (jnp.sin(x[0]), dx[0]))


@jax.custom_jvp
def doubled(x):
    return jnp.sin(x)


doubled.defjvp(lambda x, dx: (jnp.sin(x[0]), 2 * dx[0]))


@jax.custom_vjp
def scaled_back(x):
    return jnp.sin(x)


scaled_back.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (3 * x * g,))


def gradient(function):
    return lambda x, key: jax.grad(lambda x: function(x).sum())(x)


def host_sine(x):
    return np.sin(x)


def host_cosine(x):
    return np.cos(x)


def written_twice(first, second):
    def function(x, key):
        io_callback(first, None, x, ordered=True)
        io_callback(second, None, x, ordered=True)
        return x

    return function


def written(values):
    def function(x, key):
        ref = jax.new_ref(x)
        for value in values:
            ref[...] = ref[...] * value
        return ref[...]

    return function


def summed(x, key):
    return jnp.sin(x) + jnp.cos(x)


SAME = {
    "names and comments": (summed, renamed),
    "the order of equal definitions": (summed, in_other_order),
    "results that nothing needs": (
        lambda x, key: jax.jit(lambda a: jnp.sin(a) + jnp.cos(a))(x),
        unused,
    ),
    "what is only shown": (summed, shown),
    "the name of a jitted function": (
        lambda x, key: jax.jit(summed)(x, key),
        lambda x, key: jax.jit(renamed)(x, key),
    ),
    "the name of a checkpoint": (
        lambda x, key: checkpoint_name(x, "a") + 1,
        lambda x, key: checkpoint_name(x, "b") + 1,
    ),
    "a constant of NumPy or of JAX": (
        lambda x, key: x + np.arange(3, dtype=np.float32),
        lambda x, key: x + V,
    ),
    "a rule of derivatives that does not run": (
        lambda x, key: straight(x),
        lambda x, key: doubled(x),
    ),
    "the same function of Python": (through(host_sine), through(lambda z: np.sin(z))),
}

DIFFERENT = {
    "an operation": (lambda x, key: jnp.sin(x), lambda x, key: jnp.cos(x)),
    "the order of operands": (lambda x, key: x - 2, lambda x, key: 2 - x),
    "which argument": (lambda x, key: x + x[0], lambda x, key: x + x[1]),
    "a number": (lambda x, key: x * 2.0, lambda x, key: x * 3.0),
    "a closed-over array of JAX": (lambda x, key: x + V, lambda x, key: x + (V + 1)),
    "a closed-over array of NumPy": (
        lambda x, key: x + np.float32([1, 2, 3]),
        lambda x, key: x + np.float32([1, 2, 4]),
    ),
    "a closed-over key": (
        lambda x, key: x + jax.random.normal(KEY, (3,)),
        lambda x, key: x + jax.random.normal(jax.random.key(1), (3,)),
    ),
    "the sign of zero": (lambda x, key: x * 0.0, lambda x, key: x * -0.0),
    "a parameter": (
        lambda x, key: lax.reduce_sum(x[None], (0,)),
        lambda x, key: lax.cumsum(x[None], 1)[0],
    ),
    "a dtype": (
        lambda x, key: x.astype(jnp.bfloat16),
        lambda x, key: x.astype(jnp.float16),
    ),
    "a precision": (
        lambda x, key: lax.dot(x, x, precision="highest"),
        lambda x, key: lax.dot(x, x, precision="default"),
    ),
    "the body of a loop": (
        lambda x, key: lax.fori_loop(0, 3, lambda i, x: x + 1, x),
        lambda x, key: lax.fori_loop(0, 3, lambda i, x: x + 2, x),
    ),
    "a branch": (
        lambda x, key: lax.cond(x[0] > 0, lambda x: x, lambda x: -x, x),
        lambda x, key: lax.cond(x[0] > 0, lambda x: x, lambda x: x, x),
    ),
    "which result": (
        lambda x, key: lax.top_k(x, 2)[0],
        lambda x, key: lax.top_k(x, 2)[1],
    ),
    "a rule of derivatives that runs": (gradient(straight), gradient(doubled)),
    "a rule backwards": (gradient(straight), gradient(scaled_back)),
    "a function of Python": (through(host_sine), through(host_cosine)),
    "the order of effects": (
        written_twice(host_sine, host_cosine),
        written_twice(host_cosine, host_sine),
    ),
    "how often a reference is written": (written([2.0]), written([2.0, 2.0])),
}


@pytest.mark.parametrize("name", SAME)
def test_programs_that_compute_the_same(name):
    one, other = SAME[name]
    assert program(one).digest == program(other).digest


@pytest.mark.parametrize("name", DIFFERENT)
def test_programs_that_do_not(name):
    one, other = DIFFERENT[name]
    assert program(one).digest == program(one).digest
    assert program(one).digest != program(other).digest


def test_types_of_arguments_and_how_random_bits_are_made():
    double = lambda x: x * 2  # noqa: E731
    whole = program(double, jnp.arange(3))
    assert len({program(double, V), program(double, V[:2]), whole}) == 3
    bits = lambda key: jax.random.bits(key)  # noqa: E731
    made = [program(bits, jax.random.key(0, impl=n)) for n in ("threefry2x32", "rbg")]
    with jax.threefry_partitionable(False):
        made.append(program(bits, KEY))
    assert len(set(made)) == 3


def test_what_is_not_traced_is_named():
    assert program(summed).untraced == ()
    both = lambda x, key: through(host_sine)(through(host_cosine)(x, key), key)  # noqa: E731
    assert program(both).untraced == (
        "the Python function host_cosine",
        "the Python function host_sine",
    )
    assert program(jnp.linalg.cholesky, jnp.eye(3)).untraced == ()


# --- Functions of Python and values ---------------------------------------------------

SOURCE = """
    import numpy as np
    from functools import partial
    FACTOR = 2.0
    TABLE = {"a": 1, "b": [1, 2]}

    def helper(x, power=2):
        return x**power

    class Scale:
        offset = 1.0

        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return self.by * x + self.offset

    def made(shift, array):
        def inner(x):
            try:
                total = sum(y for y in x if y > 0)
            except ValueError:
                total = 0
            return total + shift + array.sum()

        return inner

    def host(x, *, by=1.0):
        local = helper(x) * FACTOR * by
        for name in sorted(TABLE):
            local = local + len(name)
        return np.sin(local) + np.pi

    closed = made(1, np.arange(3))
    pieces = host, closed, partial(host, by=2.0), Scale(3), Scale.__call__
"""

HARMLESS = {
    "nothing": ("", ""),
    "lines before": ("import numpy", "\n\n\n    import numpy"),
    "a comment and a docstring": (
        "total = sum(",
        "# More of it.\n                total = sum(",
    ),
    "a docstring": (
        "        local = helper",
        '        "Say what it does."\n        local = helper',
    ),
    "the name of a local variable": ("local", "renamed"),
    "names of closed-over variables": ("shift", "zzz"),
    "the name of what is closed over, before another": ("array", "zzz"),
    "the order of a dictionary": ('{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1}'),
    "an annotation": ("def host(x,", "def host(x: int,"),
}

HARMFUL = {
    "a global": ("FACTOR = 2.0", "FACTOR = 3.0"),
    "a container": ("[1, 2]", "[1, 3]"),
    "a helper": ("x**power", "x**power + 1"),
    "a default": ("power=2", "power=3"),
    "a keyword's default": ("by=1.0", "by=1.5"),
    "what is closed over": ("made(1,", "made(2,"),
    "an array that is closed over": ("np.arange(3)", "np.arange(3) + 1"),
    "an argument of a partial one": ("by=2.0", "by=2.5"),
    "an attribute": ("Scale(3),", "Scale(4),"),
    "a class": ("self.by * x", "self.by - x"),
    "an attribute of the class": ("offset = 1.0", "offset = 2.0"),
    "a function of a module": ("np.sin", "np.cos"),
    "a value of a module": ("np.pi", "np.e"),
    "an expression inside": ("if y > 0", "if y < 0"),
    "what is caught": ("except ValueError", "except TypeError"),
}


def digest_of(source, space=None):
    space = {"__name__": "somewhere"} if space is None else space
    exec(compile(textwrap.dedent(source), "<somewhere>", "exec"), space)
    return Digests().of(space["pieces"])


def test_code_of_no_module():
    changed = SOURCE.replace("self.by * x", "self.by - x")
    assert digest_of(SOURCE, {}) == digest_of(SOURCE, {}) != digest_of(changed, {})


@pytest.mark.parametrize("name", HARMLESS)
def test_code_that_does_the_same(name):
    old, new = HARMLESS[name]
    assert not old or old in SOURCE
    changed = SOURCE.replace(old, new) if old else SOURCE
    assert digest_of(changed) == digest_of(SOURCE)


@pytest.mark.parametrize("name", HARMFUL)
def test_code_that_does_not(name):
    old, new = HARMFUL[name]
    assert old in SOURCE
    assert digest_of(SOURCE.replace(old, new)) != digest_of(SOURCE)


def test_values_by_their_bits():
    of = lambda value: Digests().of(value)  # noqa: E731
    values = [
        0, 0.0, -0.0, False, "0", b"0", None, (), [], {}, set(), (0,), ((0,), 0),
        (0, (0,)), np.float32(0), np.zeros(1), np.zeros((1, 1)), np.zeros(1, np.int64),
        jnp.zeros(2), KEY, jax.random.key(1), jnp.float32, np.dtype("float32"), np.sin,
        np.cos, len, nn.relu, nn.tanh, functools.partial(nn.softplus),
        np.random.default_rng(0), np.random.default_rng(1),
    ]  # fmt: skip
    assert len({of(value) for value in values}) == len(values)
    assert of({"a": 1, "b": {2, 3}}) == of({"b": {3, 2}, "a": 1})
    assert of(np.arange(6.0).reshape(2, 3).T) == of(
        np.arange(6.0).reshape(2, 3).T.copy()
    )
    loops = [1], [2]
    for loop in loops:
        loop.append(loop)
    assert of(loops[0]) != of(loops[1])


# --- Sweeps ---------------------------------------------------------------------------

CONFIG = Config(steps=10, eval_every=10, batch_size=8)


class Net(nn.Module):
    """Dropout between two layers."""

    act: object = nn.relu
    rate: float = 0.5
    more: object = None

    @nn.compact
    def __call__(self, x, train=False):
        x = self.act(nn.Dense(6)(x))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3)(x if self.more is None else x + self.more)


def nnx_net(act=nnx.relu, rate=0.5):
    def made(rngs):
        layers = (nnx.Linear(4, 6, rngs=rngs), act, nnx.Dropout(rate, rngs=rngs))
        return nnx.Sequential(*layers, nnx.Linear(6, 3, rngs=rngs))

    return made


def eqx_net(act=jax.nn.relu, more=0.0):
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        layer: eqx.nn.Linear
        act: object = eqx.field(static=True)
        more: jax.Array

        def __call__(self, x):
            return self.act(self.layer(x)) + self.more

    return Net(eqx.nn.Linear(4, 3, key=KEY), act, jnp.full(3, more))


def hk_net(act=jax.nn.relu, rate=0.5):
    hk = pytest.importorskip("haiku")

    def net(x):
        x = hk.dropout(hk.next_rng_key(), rate, act(hk.Linear(6)(x)))
        return hk.Linear(3)(x)

    return hk.transform(net)


def pair(factor=1.0, spread=1.0):
    def init(key):
        return {"w": spread * jax.random.normal(key, (4, 3))}

    return init, lambda params, x: factor * x @ params["w"]


def by_batch_size(params, x):
    """In training not what it is in evaluation, and that by the number of examples."""
    return jnp.tanh(x @ params["w"]) if len(x) == CONFIG.batch_size else x @ params["w"]


def squares(outputs, y, weight=1.0):
    return weight * jnp.square(outputs - jax.nn.one_hot(y, 3)).sum(axis=-1)


def weighted(weight=1.0):
    return lambda outputs, y: squares(outputs, y, weight)


class Squares:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, outputs, y):
        return squares(outputs, y, self.weight)


def test_names_have_no_addresses():
    partly = functools.partial(functools.partial(squares), weight=2.0)
    for loss, name in ((partly, "squares"), (Squares(1.0), "Squares")):
        for metric in (None, loss):
            options = {} if metric is None else {"metric": metric, "direction": "min"}
            task = make_task(pair(), (X, Y), (X, Y), target=1, loss=loss, **options)
            assert task.loss_name == name
            assert task.metric_name == ("loss" if metric is None else name)
    scheme = functools.partial(constant_scheme(1.0))
    assert list(named([scheme, Scheme()])) == ["mine", "Scheme"]


class Scheme:
    def __call__(self, key, params, apply, batch):
        return params


def straight_loss(function):
    return lambda outputs, y: function(outputs[:, 0])


def top(count):
    return lambda outputs, y: (lax.top_k(outputs, count)[1] == y[:, None]).any(axis=-1)


def constant_scheme(value):
    def mine(key, params, apply, batch):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), params)

    return mine


def by_data(power):
    def mine(key, params, apply, batch):
        size = jnp.square(apply(params, batch[0])).mean() ** power
        return jax.tree.map(lambda leaf: leaf / size, params)

    return mine


def registered(value):
    @ji.initializer
    def mine(size=1.0, dtype=None):
        draw = jax.random.normal
        return lambda key, shape, dtype: value * size * draw(key, shape, dtype)

    return mine()


def parts_of(model=None, scheme=None, data=(X, Y), config=CONFIG, **options):
    options = {"loss": "cross_entropy", **options}
    if callable(model) and getattr(model, "func", model) in (eqx_net, hk_net):
        model = model()  # made late, for who lacks the package
    model = nn.Dense(3) if model is None else model
    task = make_task(model, data, (X, Y), target=0.9, **options)
    schemes = {"he_normal()": ji.he_normal(), **({"mine": scheme} if scheme else {})}
    how = {"how": as_optimizer(config.optimizer)}
    found = identity(task, config, schemes, how)
    return {**found.parts, **found.own_schemes, **found.own_optimizers}


MODEL = {"model", "gradient"}
LOSS = {"loss", "gradient"}


def accuracy_of(metric):
    return {"metric": metric, "direction": "max"}


CHANGES = {  # two ways to call `parts_of`, and what differs then
    "an activation": ({"model": Net()}, {"model": Net(nn.tanh)}, MODEL),
    "a rate of dropout": ({"model": Net()}, {"model": Net(rate=0.4)}, MODEL),
    "an array in a module": (
        {"model": Net(more=np.ones((1, 6), np.float32))},
        {"model": Net(more=np.zeros((1, 6), np.float32))},
        MODEL,
    ),
    "an activation of NNX": (
        {"model": nnx_net()},
        {"model": nnx_net(nnx.tanh)},
        MODEL,
    ),
    "a rate of NNX": ({"model": nnx_net()}, {"model": nnx_net(rate=0.4)}, MODEL),
    "a field of Equinox": (
        {"model": eqx_net},
        {"model": functools.partial(eqx_net, jax.nn.tanh)},
        MODEL,
    ),
    "an array of Equinox": (
        {"model": eqx_net},
        {"model": functools.partial(eqx_net, more=1.0)},
        {"model"},
    ),
    "an activation of Haiku": (
        {"model": hk_net},
        {"model": functools.partial(hk_net, jnp.tanh)},
        MODEL,
    ),
    "a rate of Haiku": (
        {"model": hk_net},
        {"model": functools.partial(hk_net, rate=0.4)},
        MODEL,
    ),
    "a factor in a pair": ({"model": pair()}, {"model": pair(2.0)}, MODEL),
    "an initial spread": ({"model": pair()}, {"model": pair(spread=2.0)}, {"model"}),
    "what a model does with a batch of another size": (
        {"model": pair()},
        {"model": (pair()[0], by_batch_size)},
        MODEL,
    ),
    "the names of parameters": (
        {"model": nn.Dense(3)},
        {"model": nn.Sequential([nn.Dense(3)])},
        {"model"},
    ),
    "a weight of a loss": ({"loss": weighted()}, {"loss": weighted(2.0)}, LOSS),
    "an argument of a partial loss": (
        {"loss": functools.partial(squares, weight=1.0)},
        {"loss": functools.partial(squares, weight=2.0)},
        LOSS,
    ),
    "a default of a lambda": (
        {"loss": lambda o, y, by=1.0: by * squares(o, y)},
        {"loss": lambda o, y, by=2.0: by * squares(o, y)},
        LOSS,
    ),
    "an object that is called": (
        {"loss": Squares(1.0)},
        {"loss": Squares(2.0)},
        LOSS,
    ),
    "the derivative of a loss": (
        {"loss": straight_loss(straight), **accuracy_of("accuracy")},
        {"loss": straight_loss(doubled), **accuracy_of("accuracy")},
        {"gradient"},
    ),
    "a metric": (accuracy_of(top(1)), accuracy_of(top(2)), {"metric"}),
    "the direction of a metric": (
        {"metric": top(1), "direction": "max"},
        {"metric": top(1), "direction": "min"},
        {"metric"},
    ),
    "an example": ({}, {"data": (np.concatenate([X[:39], X[:1]]), Y)}, {"data"}),
    "a label": ({}, {"data": (X, np.concatenate([Y[:39], 2 - Y[39:]]))}, {"data"}),
    "a scheme": (
        {"scheme": constant_scheme(1.0)},
        {"scheme": constant_scheme(2.0)},
        {"mine"},
    ),
    "a scheme by data": ({"scheme": by_data(1)}, {"scheme": by_data(2)}, {"mine"}),
    "a part of a scheme": (
        {"scheme": functools.partial(constant_scheme(1.0))},
        {"scheme": functools.partial(constant_scheme(3.0))},
        {"mine"},
    ),
    "an optimizer": ({}, {"config": CONFIG._replace(optimizer="adam")}, {"how"}),
    "a dtype": ({}, {"config": CONFIG._replace(dtype="bfloat16")}, MODEL),
    "nothing, by name": (
        {"config": CONFIG._replace(steps=20, matmul_precision="high")}, {}, set(),
    ),
    "nothing": ({"model": Net(), "scheme": by_data(1)},
                {"model": Net(), "scheme": by_data(1)}, set()),
}  # fmt: skip


@pytest.fixture
def promotion_as_by_default():
    with jax.numpy_dtype_promotion("standard"):  # Haiku and Optax need it
        yield


@pytest.mark.usefixtures("promotion_as_by_default")
@pytest.mark.parametrize("made", [Net, nnx_net, eqx_net, hk_net, pair])
def test_a_task_is_traced_once(made, monkeypatch):
    task = make_task(made(), (X, Y), (X, Y), target=0.9)
    first = task.traced(CONFIG.batch_size)
    monkeypatch.delattr(check, "traced")
    assert task.traced(CONFIG.batch_size) is first
    task.traced()  # as it was made


@pytest.mark.usefixtures("promotion_as_by_default")
@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_numbers_by_part(name):
    *both, changed = CHANGES[name]
    found, others = (parts_of(**each) for each in both)
    assert found.keys() == others.keys()
    assert {part for part in found if found[part] != others[part]} == changed


def host_doubled(outputs):
    return 2 * np.asarray(outputs)


def host_through(host):
    init, apply = pair()

    def called(params, x):
        outputs = apply(params, x)
        gone = jax.lax.stop_gradient(outputs)
        shape = jax.ShapeDtypeStruct(outputs.shape, outputs.dtype)
        return outputs + jax.pure_callback(host, shape, gone)

    return init, called


class Loader:
    """Batches of eight, from the example `start` on."""

    def __init__(self, start=0):
        self.start = start

    def __iter__(self):
        for at in range(self.start, 40, 8):
            yield X[at : at + 8], Y[at : at + 8]


def untraced(model, scheme=None, data=(X, Y)):
    task = make_task(model, data, (X, Y), target=0.9)
    schemes = {"s": scheme or ji.he_normal()}
    return identity(task, CONFIG, schemes, {})


def test_what_cannot_be_traced_is_named_and_known_by_what_is_to_hand():
    assert untraced(pair()).untraced == ()
    model = host_through(host_doubled)
    found = untraced(model)
    assert found.untraced == ("the Python function host_doubled in the model",)
    assert found == untraced(host_through(lambda z: 2 * np.asarray(z)))._replace(
        untraced=found.untraced
    )
    other = untraced(host_through(lambda z: 3 * np.asarray(z)))
    assert other.parts["model"] != found.parts["model"]

    stream = untraced(pair(), data=Loader())
    assert stream.untraced == ("the stream of batches, of which the first 3 are known",)
    assert stream == untraced(pair(), data=Loader())
    assert stream.parts["data"] != untraced(pair(), data=Loader(8)).parts["data"]

    @ji.initializer
    def by_numpy(size=1.0, dtype=None):
        return lambda key, shape, dtype: np.full(shape, float(key[0]) * size, dtype)

    found = untraced(pair(), by_numpy(2.0))
    assert found.untraced == ("what is drawn in the scheme s",)
    assert found.own_schemes != untraced(pair(), by_numpy(3.0)).own_schemes


def test_what_a_variable_was_when_the_sweep_is_made():
    """A task is traced anew once what its functions read is something else."""
    global FACTOR
    task = make_task(GLOBAL_MODEL, (X, Y), (X, Y), target=0.9)
    first = identity(task, CONFIG, {}, {})
    FACTOR = 2.0
    assert identity(task, CONFIG, {}, {}).parts["model"] != first.parts["model"]
    FACTOR = 1.0
    assert identity(task, CONFIG, {}, {}) == first
    task.x_valid[0] += 1
    assert identity(task, CONFIG, {}, {}).parts["data"] != first.parts["data"]


FACTOR = 1.0
GLOBAL_MODEL = (pair()[0], lambda params, x: FACTOR * x @ params["w"])


ELSEWHERE = """
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
import jaxinit as ji
from jaxinit.compare import Config, make_task, optimizers
from jaxinit.compare.store.identity import identity

X, Y = np.eye(8, 4, dtype=np.float32), np.arange(8) % 3


class Net(nn.Module):
    act: object

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, deterministic=not train)(self.act(nn.Dense(6)(x)))
        return nn.Dense(3)(jax.pure_callback(host, x, jax.lax.stop_gradient(x)) + x)


def host(x):
    return np.asarray(x) * len({"some", "names", "in", "a", "set"})


def net(rngs):
    layers = nnx.Linear(4, 6, rngs=rngs), jax.nn.gelu, nnx.Dropout(0.5, rngs=rngs)
    return nnx.Sequential(*layers, nnx.Linear(6, 3, rngs=rngs))


def loss(outputs, y):
    return jnp.square(outputs - jax.nn.one_hot(y, 3)).sum(axis=-1)


def scheme(key, params, apply, batch):
    return jax.tree.map(lambda leaf: leaf / apply(params, batch[0]).std(), params)


@ji.initializer
def mine(size=1.0, dtype=None):
    return lambda key, shape, dtype: size * jax.random.normal(key, shape, dtype)


def batches():
    for at in (0, 4):
        yield X[at : at + 4], Y[at : at + 4]


for model in Net(jnp.tanh), net:
    for train in (X, Y), batches:
        task = make_task(model, train, (X, Y), target=0.9, loss=loss)
        config = Config(batch_size=4)
        schemes = {"scheme": scheme, "mine()": mine(3)}
        print(identity(task, config, schemes, {"adam()": optimizers.adam()}))
"""


def test_the_same_in_another_process_from_another_place(tmp_path):
    running = []
    for seed, lines in (("1", ""), ("2", "# Further down.\n\n")):
        file = tmp_path / f"file{seed}.py"
        file.write_text(lines + ELSEWHERE)
        root = pathlib.Path(ji.__file__).parents[1]
        around = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        given = {"stdout": subprocess.PIPE, "cwd": tmp_path, "text": True}
        running.append(subprocess.Popen([sys.executable, file], env=around, **given))
    one, other = (process.communicate()[0] for process in running)
    assert all(process.returncode == 0 for process in running)
    assert one == other and len(set(one.splitlines())) == 4
