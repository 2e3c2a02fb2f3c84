"""Tasks from one's own model, data and objective, or from one's own training loop."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxinit import _checks
from jaxinit._models import Model, as_model, unpacked
from jaxinit.compare.machine import use_all_cores
from jaxinit.compare.task import streams, trees
from jaxinit.compare.task.objective import (
    Aim,
    Direction,
    Objective,
    Scores,
    accuracy,
    cross_entropy,
    loss_of,
    metric_of,
    name_and_direction,
    named_metric_of,
)
from jaxinit.compare.task.task import EVAL_EVERY, Task
from jaxinit.compare.task.training import Training, Whole
from jaxinit.compare.task.values import name_of


def make_task(
    model: Any,
    train: tuple[Any, Any] | Callable[[], Iterable[Any]] | Iterable[Any],
    valid: tuple[Any, Any] | Any,
    *,
    target: float,
    name: str = "custom",
    loss: str | Scores | None = None,
    objective: Objective | None = None,
    inputs: Any = None,
    metric: str | Scores | None = None,
    direction: Direction | None = None,
    eval_every: int = EVAL_EVERY,
) -> Task:
    """A task from one's own model and data.

    Args:
        model: a module of Flax Linen, Flax NNX or Equinox, a function that makes one of
            the latter two, a transformed function of Haiku, or a pair `(init, apply)`;
            see `as_model`. It maps inputs (batch, ...) to outputs, such as logits
            (batch, classes); a module of Equinox maps one example.
        train: `(inputs, labels)`, each an array or any pytree of arrays with one
            leading axis (n, ...). Inputs that are a plain tuple are the model's
            arguments by position, a dict those by name, and anything else, such as a
            NamedTuple, is one argument. For "cross_entropy", labels are one array of
            integers from 0. With an objective labels may be None, or a tree of inputs
            alone stands here. Or batches, where the data do not fit on a device: an
            object to iterate over again and again, or a function that makes an
            iterator; see `streams.endless`. All runs then share each batch.
        valid: the same for validation, arrays or trees of them.
        target: value of the metric on the validation data at which a run counts as
            converged; in (0, 1] for "accuracy".
        name: the name that results carry.
        loss: "cross_entropy", the default, in nats, of logits (batch, ..., classes) and
            labels (batch, ...); "squared_error", of outputs and labels of one shape; or
            a function `(outputs, labels) -> values` of shape (batch, ...) that JAX can
            differentiate. Training lowers the mean.
        objective: in place of `loss`, all that training lowers:
            `(params, state, batch, key, train) -> (loss, (state, {name: value}))`. The
            batch is (inputs, labels), or inputs alone where there are no labels; the
            key is another at each step, and one of the run's in evaluation; the loss
            is a number, and so are the named values, which are read where `train` is
            False, of all validation data at once. `state` is what the model carries
            besides its parameters, as `as_model(model)` has it, and the function calls
            the model itself: `as_model(model).apply(params, state, inputs, key, train)`
            gives outputs and state.
        inputs: with an objective that calls the model with other inputs than the data,
            such as noisy ones and their time: a few examples of these, by which the
            model is initialized and schemes see its layers.
        metric: "accuracy", the fraction of labels with the greatest logit; "loss"; or
            a function of the same form as a loss. By default "accuracy" for
            "cross_entropy" and "loss" otherwise. With an objective, the name of one of
            its values, or "loss".
        direction: whether the metric is to rise, "max", or to fall, "min". Needed for
            a function or an objective's value, and known otherwise.
        eval_every: steps between two evaluations on the validation data. Best a few per
            cent of the steps that a fast scheme takes to the target, for nothing finer
            is told apart; one costs about as much as a third of the steps that its
            examples would make.

    Returns:
        A `Task` for `jaxinit.compare.compare`. Results name a function by its
        `__name__`, and know it by the program that it is traced to.

    Raises:
        ValueError: lengths differ, data hold NaN or infinity, labels are out of
            range, the model's outputs do not fit the labels, an objective gives no
            number or not the metric, or the model, the loss, the metric or the
            objective raises; its exception is then the cause.
        TypeError: the model is none that `as_model` knows.

    Example:
        >>> import numpy as np
        >>> from flax import linen as nn
        >>> x, y = np.eye(4, dtype=np.float32), np.arange(4)
        >>> make_task(nn.Dense(4), (x, y), (x, y), target=0.9).name
        'custom'
        >>> y = x[:, :1] - x[:, 1:2]
        >>> task = make_task(
        ...     nn.Dense(1), (x, y), (x, y), target=0.1, loss="squared_error"
        ... )
        >>> task.metric_name, task.direction
        ('loss', 'min')
        >>> net = as_model(nn.Dense(1))
        >>> def decayed(params, state, batch, key, train):
        ...     outputs, state = net.apply(params, state, batch[0], key, train)
        ...     error = ((outputs - batch[1]) ** 2).mean()
        ...     penalty = (params["kernel"] ** 2).sum()
        ...     return error + 0.01 * penalty, (state, {"error": error})
        >>> task = make_task(
        ...     nn.Dense(1), (x, y), (x, y), target=0.1, objective=decayed,
        ...     metric="error", direction="min",
        ... )
        >>> task.loss_name, task.metric_name
        ('decayed', 'error')
    """
    use_all_cores()
    aim = _aim(loss, objective, metric, direction)
    _check_target("make_task", target, eval_every)
    if aim.metric is accuracy and not 0 < target <= 1:
        raise ValueError(f"target={target!r} must be an accuracy in (0, 1].")
    classes = aim.loss is cross_entropy or aim.metric is accuracy
    kind = {"classes": classes, "unlabelled": objective is not None}
    batches = None
    if streams.is_stream(train):
        batches = streams.endless(train, **kind)
        x_train, y_train = next(batches())
    else:
        pair = _two("train", train, objective is not None)
        x_train, y_train = trees.checked("train", *pair, **kind)
    pair = _two("valid", valid, objective is not None)
    x_valid, y_valid = trees.checked("valid", *pair, **kind)
    trees.check_alike("train inputs", x_train, "valid inputs", x_valid)
    trees.check_alike("train labels", y_train, "valid labels", y_valid)
    if inputs is not None and objective is None:
        raise ValueError(
            "make_task: inputs are for an objective, which may call the model with "
            "others than the data; leave inputs= out."
        )
    task = Task(
        name,
        as_model(model),
        x_train,
        y_train,
        x_valid,
        y_valid,
        target,
        *aim[:5],
        eval_every,
        batches,
        objective,
        _of_model(inputs),
    )
    called = getattr(model, "__name__", type(model).__name__)
    named = "the model" if type(model) is tuple else f"the model {called}"
    task.traced(named=named)  # raises unless the task can be trained
    return task


def training_task(
    training: Training | Whole,
    *,
    target: float,
    metric: str | None = None,
    direction: Direction | None = None,
    name: str = "custom",
    apply: Callable[..., Any] | None = None,
    inputs: Any = None,
    eval_every: int = EVAL_EVERY,
) -> Task:
    """A task from one's own training loop, for what has no loss of a batch of data.

    Data, optimizer and batches are the training's own, so that a sweep's options of
    these are left out; schemes, learning rates, seeds, store, statistics and page are
    the sweep's.

    Args:
        training: a `Training`, four pure functions `init`, `begin`, `step` and
            `evaluate`; or a pair `(init, train)`, of which
            `train(params, key, hparams)` runs it all and returns curves, arrays
            (points,) by name, the first point at step 0 and the others `eval_every`
            steps apart; a sweep has as many steps as that makes. "loss" is the training
            loss, by which a run is known to have diverged.
        target: value of the metric at which a run counts as converged.
        metric: the name of one of the values; by default "loss".
        direction: whether the metric is to rise, "max", or to fall, "min".
        name: the name that results carry.
        apply: `apply(params, inputs)`, what the parameters are used for, by which
            schemes learn which axes of a kernel are its fan-in and what is a layer of
            what. Without it they go by names and shapes, as in Flax and Haiku, and
            those that need more are refused.
        inputs: of `apply`, an array (n, ...) or a tree of arrays, a few examples; a
            plain tuple is arguments by position, a dict those by name.
        eval_every: steps between two evaluations.

    Returns:
        A `Task` for `jaxinit.compare.compare`. Where `evaluate` gives no "loss", the
        column of validation losses repeats the training loss.

    Raises:
        ValueError: a function raises, a loss or value is no number, the metric is none
            of the values, or a step changes the form of its state.
        TypeError: the training is neither of both.

    Example:
        Gradient descent on the squares of one kernel.

        >>> import jax, jax.numpy as jnp
        >>> loss = lambda params: (params["kernel"] ** 2).mean()
        >>> def step(state):
        ...     params, rate = state
        ...     value, grads = jax.value_and_grad(loss)(params)
        ...     params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
        ...     return (params, rate), value
        >>> task = training_task(
        ...     Training(
        ...         init=lambda key: {"kernel": jax.random.normal(key, (4, 4))},
        ...         begin=lambda params, key, hparams: (params, hparams.learning_rate),
        ...         step=step,
        ...         evaluate=lambda state: {"loss": loss(state[0])},
        ...     ),
        ...     target=0.01,
        ... )
        >>> task.metric_name, task.direction
        ('loss', 'min')
    """
    use_all_cores()
    metric, direction = name_and_direction("training_task", metric, direction)
    _check_target("training_task", target, eval_every)
    parts = training if isinstance(training, (Training, tuple)) else ()
    if (
        not isinstance(parts, Training)
        and len(parts) != 2
        or not all(map(callable, parts))
    ):
        raise TypeError(
            f"training_task: training of type {type(training).__name__} must be a "
            "Training of functions init, begin, step and evaluate, or a pair (init, "
            "train)."
        )
    if (apply is None) != (inputs is None):
        raise TypeError(
            "training_task: apply and inputs go together; give both, by which schemes "
            "see the layers, or neither."
        )
    init = training[0]
    model = Model(
        lambda key, x: (init(key), ()),
        lambda params, state, x, key, train: (_called(apply, params, x), state),
    )
    task = Task(
        name,
        model,
        x_train=None,
        y_train=None,
        x_valid=None,
        y_valid=None,
        target=target,
        loss=None,
        metric=None,
        loss_name="loss",
        metric_name=metric,
        direction=direction,
        eval_every=eval_every,
        inputs=_of_model(inputs),
        training=training,
    )
    task.traced()  # raises unless it can be run
    return task


def _of_model(inputs: Any) -> trees.Tree:
    """Inputs of the model alone, checked; None without any."""
    if inputs is None:
        return None
    return trees.checked("the", inputs, None, classes=False, unlabelled=True)[0]


def _called(apply: Callable[..., Any] | None, params: Any, x: trees.Tree) -> Any:
    assert apply is not None  # what has none is not looked at
    args, named = unpacked(x)
    return apply(params, *args, **named)


def _aim(
    loss: str | Scores | None,
    objective: Objective | None,
    metric: str | Scores | None,
    direction: Direction | None,
) -> Aim:
    if objective is not None:
        if loss is not None:
            raise ValueError(
                "make_task: loss and objective are both given; an objective is all "
                "that training lowers, so leave loss= out."
            )
        known = named_metric_of(objective, metric, direction)
        return Aim(None, None, name_of(objective), *known, objective)
    loss, loss_name = loss_of("cross_entropy" if loss is None else loss)
    if metric is None:
        metric = "accuracy" if loss is cross_entropy else "loss"
    metric, metric_name, direction = metric_of(metric, loss, direction)
    return Aim(loss, metric, loss_name, metric_name, direction)


def _check_target(owner: str, target: Any, eval_every: Any) -> None:
    if not isinstance(target, numbers.Real):
        raise TypeError(f"target={target!r} must be a number.")
    _checks.number(owner, target=target)
    _checks.integer(owner, eval_every=eval_every)


def _two(split: str, pair: Any, alone: bool) -> tuple[Any, Any]:
    """Inputs and labels; inputs alone, if they may be, of what is no plain pair."""
    if alone and not (type(pair) in (tuple, list) and len(pair) == 2):
        return pair, None
    found = ()
    with contextlib.suppress(TypeError):
        found = () if isinstance(pair, Mapping) else tuple(pair)
    if len(found) != 2:
        raise TypeError(
            f"make_task: {split} of type {type(pair).__name__} must be a pair (inputs, "
            "labels)."
        )
    return found
