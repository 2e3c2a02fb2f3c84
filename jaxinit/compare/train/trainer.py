"""The training of one run, as pure functions that a sweep can batch and shard."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxinit import _checks
from jaxinit._models import Params, State
from jaxinit._threefry import fused
from jaxinit._types import Array, Key
from jaxinit.compare.task.task import Task
from jaxinit.compare.train import optimizers
from jaxinit.compare.train.optimizer import check, evaluated, in_training


class Run(NamedTuple):
    """What a run is within its sweep.

    Attributes:
        scheme: the scheme's text.
        optimizer: the optimizer's text.
        learning_rate: of the run.
        seed: of the run.
    """

    scheme: str
    optimizer: str
    learning_rate: float
    seed: int


Dtype: TypeAlias = Literal["float32", "bfloat16"]
"""In what a model may compute."""

Precision: TypeAlias = Literal["default", "high", "highest"]
"""Of float32 products, as `jax.default_matmul_precision` names them."""


class Config(NamedTuple):
    """What all runs of a sweep share.

    Attributes:
        steps: number of optimizer steps, a multiple of `eval_every`.
        eval_every: steps between evaluations: one segment.
        batch_size: examples in a step.
        optimizer: one of `optimizers`, its text, or a function from a learning rate,
            which may be traced, to an `optax.GradientTransformation`.
        dtype: "float32" or "bfloat16": in what the model computes. Parameters, their
            updates and losses are float32 in any case.
        matmul_precision: of float32 products, of `Precision`; below "highest" an
            accelerator is faster and less exact, and a CPU the same.
        stop_at_target: whether a run ends at the evaluation that reaches the target;
            its metrics then stay as they are.
    """

    steps: int = 500
    eval_every: int = 25
    batch_size: int = 64
    optimizer: optimizers.Given = "momentum"
    dtype: Dtype = "float32"
    matmul_precision: Precision = "highest"
    stop_at_target: bool = False

    def check(self, task: Task) -> None:
        """Raise if a value is out of range for the task."""
        _checks.integer(
            "compare",
            steps=self.steps,
            eval_every=self.eval_every,
            batch_size=self.batch_size,
        )
        _checks.choice("compare", "dtype", self.dtype, get_args(Dtype))
        precisions = get_args(Precision)
        _checks.choice("compare", "matmul_precision", self.matmul_precision, precisions)
        if self.steps % self.eval_every:
            raise ValueError(
                f"compare: steps={self.steps} must be a multiple of "
                f"eval_every={self.eval_every}."
            )
        check("compare", optimizers.as_optimizer(self.optimizer), self.steps)
        if self.batch_size > len(task.x_train):
            raise ValueError(
                f"compare: batch_size={self.batch_size} exceeds the "
                f"{len(task.x_train)} training examples."
            )


class Hparams(NamedTuple):
    """What differs from run to run besides the initialization.

    Attributes:
        learning_rate: scalar, float32.
        scales: a scalar for each parameter that its updates are multiplied with, a
            tree like the parameters; None for ones.
    """

    learning_rate: Any
    scales: Any = None


class Data(NamedTuple):
    """The arrays of a task on the device, shared by all runs.

    Attributes:
        x_train: (n, ...). y_train: (n,). x_valid: (m, ...). y_valid: (m,).
    """

    x_train: Any
    y_train: Any
    x_valid: Any
    y_valid: Any


class RunState(NamedTuple):
    """A run between two segments.

    Attributes:
        params: the parameters.
        model_state: batch statistics and the like.
        opt_state: the optimizer's state.
        key: the run's key; of it come the data order and the dropout, by step.
        step: steps done, int32.
        hparams: the run's hyperparameters.
        loss: sum of the segment's minibatch losses, float32.
    """

    params: Params
    model_state: State
    opt_state: Any
    key: Key
    step: Any
    hparams: Hparams
    loss: Any


class Metrics(NamedTuple):
    """One point of a run's curves; scalars, or with leading axes when stacked.

    Attributes:
        train_loss: mean loss of the segment's minibatches, each before its step; at
            step 0, of the first minibatch. In nats for cross-entropy.
        valid_loss: mean loss over the validation data.
        valid_metric: mean of the task's metric over the validation data.
    """

    train_loss: Any
    valid_loss: Any
    valid_metric: Any


def diverged(metrics: Metrics) -> np.ndarray:
    """Which runs have a loss that is not finite, (runs,)."""
    return ~(np.isfinite(metrics.train_loss) & np.isfinite(metrics.valid_loss))


class Trainer(NamedTuple):
    """The training of a run, cut where the host may look.

    Attributes:
        start: `start(data, params, model_state, key, hparams) -> (state, metrics)`.
        plan: `plan(data, state) -> batches`, the batches of the next segment.
        step: `step(data, state, batches, i) -> state`, one optimizer step on the i-th
            of them; `state.loss` adds up the losses.
        finish: `finish(data, state) -> (state, metrics)`, the end of a segment.
        segment: `segment(data, state) -> (state, metrics)`: all of these in a scan,
            `eval_every` steps on.
    """

    start: Callable[..., tuple[RunState, Metrics]]
    plan: Callable[[Data, RunState], Any]
    step: Callable[[Data, RunState, Any, Any], RunState]
    finish: Callable[[Data, RunState], tuple[RunState, Metrics]]
    segment: Callable[[Data, RunState], tuple[RunState, Metrics]]


Source: TypeAlias = Callable[[int], Iterator[Data]]
"""`source(k)` gives the data of segment k, k + 1, and so on, for ever; arrays that stay
the same object are placed on the devices once."""


def source_of(task: Task, config: Config) -> Source:
    """The task's data, segment by segment: its arrays, or the next of its batches."""
    if task.batches is None:
        whole = Data(task.x_train, task.y_train, task.x_valid, task.y_valid)
        return lambda first: itertools.repeat(whole)
    batches = task.batches

    def segments(first: int) -> Iterator[Data]:
        """Segments of batches laid end to end."""
        stream = batches()
        for _ in itertools.islice(stream, first * config.eval_every):
            pass
        while True:
            some = itertools.islice(stream, config.eval_every)
            x, y = (np.concatenate(part) for part in zip(*some, strict=True))
            yield Data(x, y, task.x_valid, task.y_valid)

    return segments


def make_trainer(task: Task, config: Config) -> Trainer:
    """Build the pure functions that start a run and train it for one segment."""
    train_loss, evaluate = _objective(task, config)
    how = optimizers.as_optimizer(config.optimizer)

    def optimizer(hparams: Hparams) -> optax.GradientTransformation:
        return in_training(how, *hparams, steps=config.steps)

    def start(
        data: Data, params: Params, model_state: State, key: Key, hparams: Hparams
    ) -> tuple[RunState, Metrics]:
        opt_state = optimizer(hparams).init(params)
        state = RunState(
            params, model_state, opt_state, key, jnp.int32(0), hparams, jnp.float32(0)
        )
        order, dropout = batches_of(data, state, config, steps=1)
        x, y = data.x_train[order[0]], data.y_train[order[0]]
        loss, _ = train_loss(params, model_state, x, y, dropout[0])
        return state, Metrics(loss, *evaluate(data, state))

    batches_of = _shuffled_batches if task.batches is None else _batches_in_order

    def plan(data: Data, state: RunState) -> tuple[Array, Array]:
        return batches_of(data, state, config, steps=config.eval_every)

    def step(data: Data, state: RunState, batches: Any, i: Any) -> RunState:
        order, keys = batches
        (loss, model_state), grads = jax.value_and_grad(train_loss, has_aux=True)(
            state.params,
            state.model_state,
            data.x_train[order[i]],
            data.y_train[order[i]],
            keys[i],
        )
        update = optimizer(state.hparams).update
        updates, opt_state = update(grads, state.opt_state, state.params)
        return state._replace(
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            step=state.step + 1,
            loss=state.loss + loss,
        )

    def finish(data: Data, state: RunState) -> tuple[RunState, Metrics]:
        loss = state.loss / config.eval_every
        state = state._replace(loss=jnp.zeros_like(state.loss))
        params = evaluated(how, state.params, state.opt_state)
        return state, Metrics(loss, *evaluate(data, state._replace(params=params)))

    def segment(data: Data, state: RunState) -> tuple[RunState, Metrics]:
        batches = plan(data, state)
        state, _ = lax.scan(
            lambda state, i: (step(data, state, batches, i), None),
            state,
            jnp.arange(config.eval_every),
        )
        return finish(data, state)

    return Trainer(start, plan, step, finish, segment)


def _objective(
    task: Task, config: Config
) -> tuple[Callable[..., tuple[Array, State]], Callable[..., tuple[Array, Array]]]:
    """What training lowers, and what validation measures: loss and metric."""
    apply = in_precision(task.model.apply, config)

    def train_loss(params: Params, model_state: State, x: Array, y: Array, key: Key):
        outputs, model_state = apply(params, model_state, x, key, True)
        return task.loss(outputs, y).mean(), model_state

    def evaluate(data: Data, state: RunState) -> tuple[Array, Array]:
        outputs, _ = apply(
            state.params, state.model_state, data.x_valid, state.key, False
        )
        loss, metric = task.loss(outputs, data.y_valid), task.metric
        return loss.mean(), metric(outputs, data.y_valid).mean()

    return train_loss, evaluate


def make_train(task: Task, config: Config) -> Callable[..., Metrics]:
    """The whole training of a run as one pure function.

    Args:
        task: what is learned.
        config: what all runs share.

    Returns:
        `train(params, key, hparams) -> Metrics`, the curves, each of shape
        (steps / eval_every + 1,), the first point at step 0. `params` are the initial
        parameters; `key` gives the data order (and dropout); it works under jit and
        vmap.
    """
    config.check(task)
    trainer = make_trainer(task, config)

    def train(params: Params, key: Key, hparams: Hparams) -> Metrics:
        data = jax.tree.map(jnp.asarray, next(source_of(task, config)(0)))
        model_state = task.model.init(key, data.x_train[:1])[1]
        state, first = trainer.start(data, params, model_state, key, hparams)
        _, rest = lax.scan(
            lambda state, _: trainer.segment(data, state),
            state,
            length=config.steps // config.eval_every,
        )
        return jax.tree.map(
            lambda head, tail: jnp.concatenate([head[None], tail]), first, rest
        )

    return train


def in_precision(apply: Callable[..., Any], config: Config) -> Callable[..., Any]:
    """The model's `apply` in the dtype of the sweep, float32 to the outside."""
    low = jnp.dtype(config.dtype)

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(low) if _is_float32(x) else x, tree)

    def precise(
        params: Params, state: State, x: Any, key: Key, train: bool
    ) -> tuple[Array, State]:
        with jax.default_matmul_precision(config.matmul_precision):
            if low == jnp.float32:
                return apply(params, state, x, key, train)
            outputs, after = apply(cast(params), state, cast(x), key, train)
        # A model state that the layers made in low precision keeps its own dtype.
        same = lambda old, new: new.astype(old.dtype) if _is_float32(old) else new  # noqa: E731
        return outputs.astype(jnp.float32), jax.tree.map(same, state, after)

    return precise


def _is_float32(x: Any) -> bool:
    return jnp.result_type(x) == jnp.float32


def shuffled(key: Key, count: int) -> Array:
    """0, 1, ..., count - 1 in random order, (count,) int32.

    Each number is put below random bits of its own, and all are sorted: a plain sort of
    words is many times as fast on a CPU as one that carries a second array along, as
    `jax.random.permutation` does. Equal bits are left in order, so that arrays for
    which a pair of them is to be expected are sorted twice, with new bits.
    """
    low = max(1, (count - 1).bit_length())
    order = jnp.arange(count, dtype=jnp.uint32)
    once = count**2 <= 2 ** (33 - low)
    for round_key in [key] if once else jax.random.split(key):
        bits = jax.random.bits(fused(round_key), (count,)) >> low << low
        # The place in the order so far, and not the number, breaks ties.
        place = jnp.sort(bits | jnp.arange(count, dtype=jnp.uint32)) & (2**low - 1)
        order = order[place]
    return order.astype(jnp.int32)


def _shuffled_batches(
    data: Data, state: RunState, config: Config, *, steps: int
) -> tuple[Array, Array]:
    """Example indices (steps, batch_size) and dropout keys (steps,) of the next steps.

    Each epoch is a fresh permutation from the run's key, its last partial batch left
    out; a run's data order depends on its key and step alone.
    """
    examples = len(data.x_train)
    per_epoch = examples // config.batch_size
    order_key, dropout_key = jax.random.split(state.key)
    step = state.step + jnp.arange(steps)
    first = state.step // per_epoch
    epochs = first + jnp.arange((steps + per_epoch - 2) // per_epoch + 1)
    permutations = jax.vmap(
        lambda epoch: shuffled(jax.random.fold_in(order_key, epoch), examples)
    )(epochs)
    batches = permutations[:, : per_epoch * config.batch_size].reshape(
        -1, config.batch_size
    )
    order = batches[step - first * per_epoch]
    return order, jax.vmap(lambda s: jax.random.fold_in(dropout_key, s))(step)


def _batches_in_order(
    data: Data, state: RunState, config: Config, *, steps: int
) -> tuple[Array, Array]:
    """The same of a segment's batches laid end to end, which all runs share."""
    dropout_key = jax.random.split(state.key)[1]
    step = state.step + jnp.arange(steps)
    order = jnp.arange(steps * config.batch_size).reshape(steps, -1)
    return order, jax.vmap(lambda s: jax.random.fold_in(dropout_key, s))(step)
