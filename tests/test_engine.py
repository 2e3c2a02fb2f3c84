"""The engine: any strategy, stopped and resumed, repacked, in chunks, from a stream."""

from __future__ import annotations

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from sweeps import Net, X, Y

from jaxinit.compare import Config, Hparams, make_task
from jaxinit.compare.train import engine as engines
from jaxinit.compare.train import strategy as choice
from jaxinit.compare.train.engine import Engine
from jaxinit.compare.train.runners import STRATEGIES
from jaxinit.compare.train.trainer import diverged, make_trainer, source_of

CONFIG = Config(steps=20, eval_every=5, batch_size=16)
LOW = CONFIG._replace(dtype="bfloat16")
RATES = np.array([0.01, 0.02, 0.05, 0.1, 0.2], np.float32)

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


class Noisy(nnx.Module):
    """With random streams of its own, that is, with keys in its state."""

    def __init__(self, rngs):
        self.first = nnx.Linear(5, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.first(x))))


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: two)


def task_of(model=None, target=0.9):
    return make_task(model or Net(), (X[:64], Y[:64]), (X[64:], Y[64:]), target=target)


def arguments(task, rates=RATES):
    keys = jax.random.split(jax.random.key(0), len(rates))
    params, states = jax.vmap(lambda key: task.model.init(key, X[:1]))(keys)
    return params, states, keys, Hparams(rates)


def engine(task, strategy, config=CONFIG, over=diverged):
    source = source_of(task, config)
    return Engine(make_trainer(task, config), config, source, strategy, over)


def curves(training):
    steps, points = zip(*training, strict=True)
    return steps, np.stack([np.stack(point[:3]) for point in points], axis=-1)


@pytest.mark.parametrize(
    ("strategy", "other"), [("map", "vmap"), ("vmap", "loop"), ("loop", "map")]
)
def test_a_snapshot_goes_on_under_any_strategy(strategy, other):
    task = task_of(Noisy)
    rates = RATES.copy()
    rates[1] = 1e30  # diverges before the snapshot
    steps, whole = curves(engine(task, strategy).train(*arguments(task, rates)))
    training = engine(task, strategy).train(*arguments(task, rates))
    for step, _ in training:
        if step == 10:
            snapshot = training.snapshot()
            break
    assert snapshot.step == 10 and sorted(snapshot.runs) == [0, 2, 3, 4]
    rest = engine(task, other).train(*arguments(task, rates), snapshot=snapshot)
    later, tail = curves(rest)
    assert steps == (0, 5, 10, 15, 20) and later == (15, 20)
    np.testing.assert_allclose(tail, whole[..., 3:], rtol=2e-3, atol=1e-5)


def test_a_snapshot_of_runs_that_are_all_over():
    task = task_of()
    rates = np.full(3, 1e30, np.float32)
    training = engine(task, "vmap").train(*arguments(task, rates))
    list(training)
    snapshot = training.snapshot()
    assert not len(snapshot.runs)
    again = engine(task, "map").train(
        *arguments(task, rates), snapshot=snapshot._replace(step=15)
    )
    ((step, metrics),) = again
    assert step == 20 and diverged(metrics).all()


@each_strategy
def test_runs_that_are_over_are_trained_no_further(strategy):
    task = task_of()
    rates = np.array([1e30] * 6 + [0.01, 1e30], np.float32)
    training = engine(task, strategy).train(*arguments(task, rates))
    goings = []
    for _ in training:
        goings.append(int(training.going.sum()))
    assert goings[0] == 8 and goings[-1] == 1
    _, alone = curves(
        engine(task, strategy).train(
            *jax.tree.map(lambda x: x[6:7], arguments(task, rates))
        )
    )
    _, together = curves(engine(task, strategy).train(*arguments(task, rates)))
    np.testing.assert_allclose(together[:, 6], alone[:, 0], rtol=1e-3, atol=1e-5)
    assert not np.isfinite(together[0, [*range(6), 7], -1]).any()


@each_strategy
def test_a_run_may_be_over_at_any_metric(strategy):
    task = task_of()
    good = lambda metrics: metrics.valid_metric >= 0.8  # noqa: E731
    _, free = curves(engine(task, strategy).train(*arguments(task)))
    _, stopped = curves(engine(task, strategy, over=good).train(*arguments(task)))
    assert (free[2, :, 3] >= 0.8).any()
    for run in range(len(RATES)):
        reached = np.flatnonzero(free[2, run] >= 0.8)
        first = reached[0] if len(reached) else 4
        np.testing.assert_allclose(
            stopped[:, run, : first + 1], free[:, run, : first + 1], rtol=1e-4
        )
        assert (stopped[:, run, first:] == stopped[:, run, first : first + 1]).all()


@each_strategy
def test_width_is_what_fits(strategy):
    task = task_of()
    run = jax.tree.map(lambda x: x[0], arguments(task))
    made = engine(task, strategy)
    assert made.width(run, 100, 1) == 1
    assert made.width(run, 100, 2**40) == 100
    some, more = made.width(run, 10**6, 2**22), made.width(run, 10**6, 2**23)
    # Parameters, their momentum, and what the program makes of a batch.
    held = 4 * 2 * (5 * 8 + 8 + 8 * 3 + 3)
    assert 2**23 / (100 * held) < more <= 2**23 / held
    assert 1.8 < more / some < 2.2


def test_bfloat16_is_close_and_not_the_same():
    task = task_of()
    _, exact = curves(engine(task, "map").train(*arguments(task)))
    _, coarse = curves(engine(task, "map", LOW).train(*arguments(task)))
    assert not np.array_equal(exact[0], coarse[0])
    np.testing.assert_allclose(exact[0, :3], coarse[0, :3], rtol=0.05)
    state = jax.eval_shape(
        make_trainer(task, LOW).start,
        next(source_of(task, LOW)(0)),
        *jax.tree.map(lambda x: x[0], arguments(task)),
    )[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.float32.dtype}


SEEN = set()


class Watched(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        SEEN.add(x.dtype)
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))
        SEEN.add(x.dtype)
        return x


@jax.numpy_dtype_promotion("standard")  # Flax's BatchNorm needs it
def test_bfloat16_reaches_the_layers_and_leaves_statistics_alone():
    task = task_of(Watched())
    training = engine(task, "map", LOW).train(*arguments(task))
    SEEN.clear()
    list(training)
    assert SEEN == {jnp.bfloat16.dtype}
    statistics = jax.tree.leaves(training._state[0].model_state)
    assert {leaf.dtype for leaf in statistics} == {jnp.float32.dtype}


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_the_precision_of_products_is_pinned(precision):
    task = task_of()
    config = CONFIG._replace(matmul_precision=precision)
    trainer = make_trainer(task, config)
    run = jax.tree.map(lambda x: x[0], arguments(task))
    text = str(jax.make_jaxpr(trainer.start)(next(source_of(task, config)(0)), *run))
    assert ("HIGHEST" in text) == (precision == "highest")
    assert text.count("dot_general") == 4


def streamed(batches):
    """A task whose training data are these batches, over and over."""
    task = task_of()
    stream = lambda: itertools.cycle(batches)  # noqa: E731
    return dataclasses.replace(task, batches=stream)


@each_strategy
def test_a_stream_is_trained_on_in_its_order(strategy):
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 48, 16)]
    task = streamed(batches)
    config = CONFIG._replace(optimizer="sgd")
    made = engine(task, strategy, config)
    steps, found = curves(made.train(*arguments(task)))
    params = jax.tree.map(lambda x: x[2], arguments(task)[0])

    def loss(params, x, y):
        outputs, _ = task.model.apply(params, {}, x, jax.random.key(0), True)
        return task.loss(outputs, y).mean()

    losses = []
    for x, y in itertools.islice(itertools.cycle(batches), 20):
        value, grad = jax.value_and_grad(loss)(params, x, y)
        params = jax.tree.map(lambda p, g: p - RATES[2] * g, params, grad)
        losses.append(float(value))
    expected = [losses[0], *np.reshape(losses, (4, 5)).mean(axis=1)]
    np.testing.assert_allclose(found[0, 2], expected, rtol=1e-4)
    training = engine(task, strategy, config).train(*arguments(task))
    for step, _ in training:
        if step == 10:
            break
    rest = engine(task, strategy, config).train(
        *arguments(task), snapshot=training.snapshot()
    )
    np.testing.assert_allclose(curves(rest)[1], found[..., 3:], rtol=1e-4)


def test_what_a_stream_raises_is_raised():
    def broken():
        yield X[:16], Y[:16]
        raise OSError("the disk is gone")

    task = task_of()
    task = dataclasses.replace(task, batches=broken)
    with pytest.raises(OSError, match="the disk is gone"):
        list(engine(task, "map").train(*arguments(task)))


@pytest.mark.parametrize(
    ("seconds", "convolved", "chosen"),
    [
        ({"loop": 3.0, "map": 1.0, "vmap": 0.95}, False, "map"),  # within the noise
        ({"loop": 3.0, "map": 1.0, "vmap": 0.5}, False, "vmap"),
        ({"loop": 1.0, "map": 0.95, "vmap": 2.0}, True, "loop"),
        ({"loop": 1.0, "map": 30.0}, True, "loop"),  # vmap is not even tried
    ],
)
def test_the_usual_strategy_unless_another_is_clearly_faster(
    seconds, convolved, chosen, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "_seconds_a_step", lambda *given: seconds[given[-1]])
    task = task_of()
    run = jax.tree.map(lambda x: x[0], arguments(task))
    assert choice.choose_strategy(task, CONFIG, run, convolved) == chosen
    seconds.clear()  # it is not measured again
    assert choice.choose_strategy(task, CONFIG, run, convolved) == chosen


def test_every_strategy_is_measured_by_the_step_of_a_run(monkeypatch):
    ticks = itertools.count()  # a clock by which each segment takes a second
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr(choice, "time", clock)
    task = task_of()
    run = jax.tree.map(lambda x: x[0], arguments(task))
    runs = 8 * len(jax.local_devices())
    for strategy in STRATEGIES:
        spent = choice._seconds_a_step(task, CONFIG, run, strategy)
        assert spent == pytest.approx(1 / 10 / runs)


@each_strategy
def test_a_run_has_the_same_bits_whatever_the_others(strategy):
    task, many = task_of(), 21
    rates = np.linspace(0.01, 0.3, many).astype(np.float32)
    every = arguments(task, rates)
    of = lambda places: jax.tree.map(lambda x: x[np.array(places)], every)  # noqa: E731
    made = engine(task, strategy)
    whole = curves(made.train(*every))[1]
    for places in ([7], range(8, 4, -1), [7] * 17, range(1, 21)):
        found = curves(made.train(*of(places)))[1]
        for at, place in enumerate(places):
            assert found[:, at].tobytes() == whole[:, place].tobytes()


@each_strategy
def test_a_run_has_the_same_bits_when_others_diverge_or_go_on_from_elsewhere(strategy):
    task, many = task_of(Noisy), 21
    rates = np.linspace(0.01, 0.3, many).astype(np.float32)
    made = engine(task, strategy)
    whole = curves(made.train(*arguments(task, rates)))[1]
    wild = np.where(np.arange(many) % 5 == 2, rates, 1e30).astype(np.float32)
    training = made.train(*arguments(task, wild))
    points, snapshot = [], None
    for step, metrics in training:
        points.append(np.stack(metrics[:3]))
        if step == 10:
            snapshot = training.snapshot()
    stayed = np.flatnonzero(wild == rates)
    found = np.stack(points, axis=-1)
    assert found[:, stayed].tobytes() == whole[:, stayed].tobytes()
    rest = made.train(*arguments(task, wild), snapshot=snapshot)
    tail = curves(rest)[1]
    assert tail[:, stayed].tobytes() == whole[:, stayed, 3:].tobytes()


def test_only_as_many_blocks_are_trained_as_hold_what_goes_on():
    task = task_of()
    rates = np.array([0.01] * 3 + [1e30] * 13, np.float32)
    config = CONFIG._replace(steps=15)
    made = Engine(
        make_trainer(task, config), config, source_of(task, config), "vmap", block=2
    )
    sizes, real = [], made._runner._segment

    def segment(data, state, *rest):
        sizes.append(len(state.step))
        return real(data, state, *rest)

    made._runner._segment = segment
    training = made.train(*arguments(task, rates))
    done = [(step, len(sizes)) for step, _ in training]
    # Two devices with eight slots each: four blocks, and then the one that is left.
    assert done == [(0, 0), (5, 4), (10, 5), (15, 6)] and set(sizes) == {4}


@each_strategy
def test_what_goes_at_once_is_a_matter_of_the_program_alone(strategy, monkeypatch):
    run = jax.tree.map(lambda x: x[0], arguments(task_of()))
    made = engine(task_of(), strategy)
    assert made.block(run) == (8 if strategy == "vmap" else 1)
    monkeypatch.setattr(engines, "WORK", 1)
    assert made.block(run) == 1
