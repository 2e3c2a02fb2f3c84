"""The training of one run, as pure functions that a sweep can batch and shard."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxinit import _checks
from jaxinit._models import Params, State
from jaxinit._types import Array, Key
from jaxinit.compare.options import Dtype, Precision
from jaxinit.compare.task import trees
from jaxinit.compare.task.task import Task
from jaxinit.compare.task.training import Hparams, Training
from jaxinit.compare.train import optimizers
from jaxinit.compare.train.batches import batches_in_order, shuffled_batches
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

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Run:
        """The run that a row of a table is of."""
        return cls(*(row[name] for name in cls._fields))


class Config(NamedTuple):
    """What all runs of a sweep share.

    Attributes:
        steps: number of optimizer steps, a multiple of `eval_every`.
        eval_every: steps between evaluations: one segment.
        batch_size: examples in a step.
        optimizer: one of `optimizers`, its text, or a function from a learning rate,
            which may be traced, to an `optax.GradientTransformation`; a training of
            one's own has its own.
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
        if task.training is not None:
            points = task.traced().points
            if points not in (None, self.steps // self.eval_every + 1):
                raise ValueError(
                    f"compare: the curves of task {task.name} have {points} points, "
                    f"that is steps={(points - 1) * self.eval_every} with "
                    f"eval_every={self.eval_every}, but steps={self.steps}."
                )
        else:
            check("compare", optimizers.as_optimizer(self.optimizer), self.steps)
            if self.batch_size > task.examples:
                raise ValueError(
                    f"compare: batch_size={self.batch_size} exceeds the "
                    f"{task.examples} training examples."
                )
        if self.dtype != "float32" and (task.training or task.objective):
            raise ValueError(
                f"compare: dtype={self.dtype!r} is for a task with a loss of outputs "
                "and labels; an objective or training of one's own computes in the "
                "dtypes that it asks for, so cast there."
            )


class Data(NamedTuple):
    """The arrays of a task on the device, shared by all runs.

    Attributes:
        x_train: (n, ...), as all of them an array or a tree of arrays; None without.
        y_train: (n, ...).
        x_valid: (m, ...).
        y_valid: (m, ...).
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
        others: what else an objective or a training of one's own measures there, by
            name.
    """

    train_loss: Any
    valid_loss: Any
    valid_metric: Any
    others: dict[str, Any] = {}  # never written to


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
            x, y = jax.tree.map(lambda *parts: np.concatenate(parts), *some)
            yield Data(x, y, task.x_valid, task.y_valid)

    return segments


def make_trainer(task: Task, config: Config) -> Trainer:
    """Build the pure functions that start a run and train it for one segment."""
    if task.training is not None:
        return _own_trainer(task, config)
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
        order, dropout = batches_of(data, state, 1)
        x, y = trees.taken((data.x_train, data.y_train), order[0])
        loss, _ = train_loss(params, model_state, x, y, dropout[0])
        return state, Metrics(loss, *evaluate(data, state))

    in_epochs = shuffled_batches if task.batches is None else batches_in_order

    def batches_of(data: Data, state: RunState, steps: int) -> tuple[Array, Array]:
        sizes = config.batch_size, trees.count(data.x_train)
        return in_epochs(state.key, state.step, steps, *sizes)

    def plan(data: Data, state: RunState) -> tuple[Array, Array]:
        return batches_of(data, state, config.eval_every)

    def step(data: Data, state: RunState, batches: Any, i: Any) -> RunState:
        order, keys = batches
        x, y = trees.taken((data.x_train, data.y_train), order[i])
        (loss, model_state), grads = jax.value_and_grad(train_loss, has_aux=True)(
            state.params, state.model_state, x, y, keys[i]
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

    return _trainer_of(start, plan, step, finish, config)


def _trainer_of(start: Any, plan: Any, step: Any, finish: Any, config: Config):
    """The trainer of these functions, with a segment as a scan."""

    def segment(data: Data, state: RunState) -> tuple[RunState, Metrics]:
        batches = plan(data, state)
        state, _ = lax.scan(
            lambda state, i: (step(data, state, batches, i), None),
            state,
            jnp.arange(config.eval_every),
        )
        return finish(data, state)

    return Trainer(start, plan, step, finish, segment)


def _own_trainer(task: Task, config: Config) -> Trainer:
    """The same of a training of one's own, whose state stands for the parameters.

    A whole one is run at its start, and a segment then reads a point of its curves.
    """
    training = task.training
    assert training is not None
    every = config.eval_every

    def point(values: Mapping[str, Any], loss: Any) -> Metrics:
        return Metrics(_float32(loss), *_measured({"loss": loss, **values}, task))

    def measured(own: Any, done: Any, loss: Any) -> Metrics:
        if isinstance(training, Training):
            return point(training.evaluate(own), loss)
        return point(now := {n: c[done // every] for n, c in own.items()}, now["loss"])

    @precisely(config)
    def start(
        data: Data, params: Params, model_state: State, key: Key, hparams: Hparams
    ) -> tuple[RunState, Metrics]:
        if isinstance(training, Training):
            own = training.begin(params, key, hparams)
            loss = training.step(own)[1]
        else:
            own, loss = dict(training[1](params, key, hparams)), None
        none = jnp.int32(0), hparams, jnp.float32(0)
        return RunState(own, model_state, (), key, *none), measured(own, 0, loss)

    @precisely(config)
    def step(data: Data, state: RunState, batches: Any, i: Any) -> RunState:
        own, loss = state.params, jnp.float32(0)
        if isinstance(training, Training):
            own, loss = training.step(own)
        loss = state.loss + _float32(loss)
        return state._replace(params=own, step=state.step + 1, loss=loss)

    @precisely(config)
    def finish(data: Data, state: RunState) -> tuple[RunState, Metrics]:
        metrics = measured(state.params, state.step, state.loss / every)
        return state._replace(loss=jnp.zeros_like(state.loss)), metrics

    return _trainer_of(start, lambda data, state: (), step, finish, config)


def precisely(config: Config) -> Callable[[Any], Any]:
    """Lets a function have the sweep's precision of float32 products."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def precise(*given: Any) -> Any:
            with jax.default_matmul_precision(config.matmul_precision):
                return function(*given)

        return precise

    return decorated


def _float32(value: Any) -> Array:
    return jnp.asarray(value).astype(jnp.float32)


def _measured(values: Mapping[str, Any], task: Task) -> tuple[Array, Array, Any]:
    """Loss, the metric with the target, and the others, of numbers by name."""
    found = {name: _float32(value) for name, value in values.items()}
    named = ("loss", task.metric_name)
    others = {name: found[name] for name in found if name not in named}
    return found["loss"], found[task.metric_name], others


def _objective(
    task: Task, config: Config
) -> tuple[Callable[..., tuple[Array, State]], Callable[..., tuple[Array, Array, Any]]]:
    """What training lowers, and what validation measures: loss and metric."""
    objective = task.aim.of(in_precision(task.model.apply, config))
    if task.objective is not None:
        objective = precisely(config)(objective)

    def train_loss(params: Params, model_state: State, x: Any, y: Any, key: Key):
        batch = trees.batch_of(x, y)
        loss, (model_state, _) = objective(params, model_state, batch, key, True)
        return _float32(loss), model_state

    def evaluate(data: Data, state: RunState) -> tuple[Array, Array, Any]:
        batch = trees.batch_of(data.x_valid, data.y_valid)
        given = state.params, state.model_state, batch, state.key, False
        loss, (_, values) = objective(*given)
        return _measured({"loss": loss, **values}, task)

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
        x = data.x_train if task.inputs is None else task.inputs
        model_state = task.model.init(key, trees.taken(x, slice(1)))[1]
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
        back = lambda x: x.astype(jnp.float32) if x.dtype == low else x  # noqa: E731
        return jax.tree.map(back, outputs), jax.tree.map(same, state, after)

    return precise


def _is_float32(x: Any) -> bool:
    return jnp.result_type(x) == jnp.float32
