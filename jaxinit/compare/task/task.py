"""What is learned: a model, its data, and when it counts as learned."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinit import _checks
from jaxinit._models import Model, as_model, what_was_raised
from jaxinit._types import Array
from jaxinit.compare.machine import use_all_cores
from jaxinit.compare.task import data, streams

Scores: TypeAlias = Callable[[Any, Array], Array]
"""`(outputs, labels) -> values` of shape (batch, ...), which are then averaged."""

Direction: TypeAlias = Literal["max", "min"]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model, its data, what training lowers, and what counts as learned.

    Attributes:
        name: the task's text, by which results name it.
        model: the model; see `as_model`.
        x_train: training inputs, shape (n, ...).
        y_train: training labels, shape (n, ...), int32 or float32.
        x_valid: validation inputs, shape (m, ...).
        y_valid: validation labels, shape (m, ...).
        target: value of the metric at which a run has converged.
        loss: `loss(outputs, y) -> values` of shape (batch, ...); training lowers
            their mean.
        metric: the same form; its mean over the validation data is held against the
            target.
        loss_name: the loss's name in results.
        metric_name: the metric's.
        direction: "max" if a run has converged once the metric is at least the
            target, "min" once it is at most the target.
        batches: where training data come as a stream, `batches()` iterates without
            end over (inputs, labels); `x_train` and `y_train` are then its first batch.
    """

    name: str
    model: Model
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    target: float
    loss: Scores
    metric: Scores
    loss_name: str
    metric_name: str
    direction: Direction
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]] | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A text that differs where names, data or the model's parameters differ."""
        names = (self.name, self.loss_name, self.metric_name, self.direction)
        digest = hashlib.sha256(repr(names).encode())
        for array in (self.x_train, self.y_train, self.x_valid, self.y_valid):
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(array.tobytes())
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.x_train[:1])
        leaves = jax.tree_util.tree_leaves_with_path(shapes)
        digest.update(repr([(jax.tree_util.keystr(p), s) for p, s in leaves]).encode())
        return digest.hexdigest()[:16]

    def reached(self, metric: np.ndarray) -> np.ndarray:
        """Where the metric is at the target or better, which NaN never is."""
        at_least = self.direction == "max"
        return metric >= self.target if at_least else metric <= self.target


def cross_entropy(logits: Array, y: Array) -> Array:
    """-log softmax(logits)[y] in nats, of (batch, ..., classes) and (batch, ...)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def squared_error(outputs: Array, y: Array) -> Array:
    """(outputs - y)^2, entry by entry, of arrays of one shape (batch, ...)."""
    return jnp.square(outputs - y)


def accuracy(logits: Array, y: Array) -> Array:
    """Whether the greatest logit is the label's."""
    return logits.argmax(axis=-1) == y


LOSSES: Mapping[str, Scores] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
}
"""The losses that `make_task` knows by name."""


def make_task(
    model: Any,
    train: tuple[Any, Any] | Callable[[], Iterable[Any]] | Iterable[Any],
    valid: tuple[Any, Any],
    *,
    target: float,
    name: str = "custom",
    loss: str | Scores = "cross_entropy",
    metric: str | Scores | None = None,
    direction: Direction | None = None,
) -> Task:
    """A task from one's own model and data.

    Args:
        model: a module of Flax Linen, Flax NNX or Equinox, a function that makes one of
            the latter two, a transformed function of Haiku, or a pair `(init, apply)`;
            see `as_model`. It maps inputs (batch, ...) to outputs, such as logits
            (batch, classes); a module of Equinox maps one example.
        train: `(inputs, labels)`, arrays of equal length; for "cross_entropy", labels
            are integers from 0. Or batches, where the data do not fit on a device: an
            object to iterate over again and again, or a function that makes an
            iterator; see `streams.endless`. All runs then share each batch.
        valid: `(inputs, labels)` for validation, arrays.
        target: value of the metric on the validation data at which a run counts as
            converged; in (0, 1] for "accuracy".
        name: the name that results carry.
        loss: "cross_entropy" in nats, of logits (batch, ..., classes) and labels
            (batch, ...); "squared_error", of outputs and labels of one shape; or a
            function `(outputs, labels) -> values` of shape (batch, ...) that JAX can
            differentiate. Training lowers the mean.
        metric: "accuracy", the fraction of labels with the greatest logit; "loss"; or
            a function of the same form. By default "accuracy" for "cross_entropy" and
            "loss" otherwise.
        direction: whether the metric is to rise, "max", or to fall, "min". Needed for
            a function, and known otherwise.

    Returns:
        A `Task` for `jaxinit.compare.compare`. Results know a function by its name
        alone: two that differ need two names.

    Raises:
        ValueError: lengths differ, data hold NaN or infinity, labels are out of
            range, the model's outputs do not fit the labels, or the model, the loss or
            the metric raises; its exception is then the cause.
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
    """
    use_all_cores()
    loss, loss_name = _loss(loss)
    if metric is None:
        metric = "accuracy" if loss is cross_entropy else "loss"
    metric, metric_name, direction = _metric(metric, loss, direction)
    if not isinstance(target, numbers.Real):
        raise TypeError(f"target={target!r} must be a number.")
    _checks.number("make_task", target=target)
    if metric is accuracy and not 0 < target <= 1:
        raise ValueError(f"target={target!r} must be an accuracy in (0, 1].")
    classes = loss is cross_entropy or metric is accuracy
    batches = None
    if streams.is_stream(train):
        batches = streams.endless(train, classes=classes)
        x_train, y_train = next(batches())
    else:
        pair = _two("train", train)
        x_train, y_train = data.checked("train", *pair, classes=classes)
    x_valid, y_valid = data.checked("valid", *_two("valid", valid), classes=classes)
    for what, ours, theirs in (
        ("inputs", x_train, x_valid),
        ("labels", y_train, y_valid),
    ):
        if ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"train {what} have shape {ours.shape[1:]} each and valid {what} "
                f"{theirs.shape[1:]}; they must be the same."
            )
    task = Task(
        name,
        as_model(model),
        x_train,
        y_train,
        x_valid,
        y_valid,
        target,
        loss,
        metric,
        loss_name,
        metric_name,
        direction,
        batches,
    )
    called = getattr(model, "__name__", type(model).__name__)
    _check(task, "the model" if type(model) is tuple else f"the model {called}")
    return task


def _two(split: str, pair: Any) -> tuple[Any, Any]:
    try:
        x, y = pair
    except (TypeError, ValueError):
        raise TypeError(
            f"make_task: {split} of type {type(pair).__name__} must be a pair (inputs, "
            "labels)."
        ) from None
    return x, y


def _loss(loss: str | Scores) -> tuple[Scores, str]:
    if callable(loss):
        return loss, getattr(loss, "__name__", repr(loss))
    _checks.choice("make_task", "loss", loss, LOSSES)
    return LOSSES[loss], loss


def _metric(
    metric: str | Scores, loss: Scores, direction: str | None
) -> tuple[Scores, str, Direction]:
    """The metric as a function, its name, and the direction in which it is better."""
    if not callable(metric):
        _checks.choice("make_task", "metric", metric, ("accuracy", "loss"))
        known = "max" if metric == "accuracy" else "min"
        if direction not in (None, known):
            raise ValueError(
                f"make_task: direction={direction!r} does not fit metric={metric!r}, "
                f"whose direction is {known!r}; leave it out."
            )
        return (accuracy if metric == "accuracy" else loss), metric, known
    name = getattr(metric, "__name__", repr(metric))
    if direction not in ("max", "min"):
        raise ValueError(
            f"make_task: direction={direction!r} of metric {name} must be 'max' if "
            "greater is better, or 'min'."
        )
    return metric, name, direction


@contextlib.contextmanager
def _explained(what: str, **given: Any) -> Iterator[None]:
    """Turn what is raised inside into a sentence: whose fault it is, given what."""
    try:
        yield
    except Exception as error:
        listed = " and ".join(
            f"{name} of shape {jnp.shape(value)} and dtype {jnp.result_type(value)}"
            for name, value in given.items()
            if hasattr(value, "shape")
        )
        given_these = f", given {listed}," if listed else ""
        raise ValueError(
            f"{what}{given_these} raised {what_was_raised(error)}."
        ) from error


def _check(task: Task, named: str) -> None:
    """Raise unless the model can be trained: all of it is traced, nothing computed."""
    key, x, y = jax.random.key(0), task.x_train[:2], task.y_train[:2]
    init, apply = task.model.init, task.model.apply

    def evaluated(params: Any, state: Any, x: Any, key: Any) -> Any:
        return apply(params, state, x, key, False)[0]

    def trained(params: Any, state: Any, x: Any, y: Any, key: Any) -> Any:
        outputs, state = apply(params, state, x, key, True)
        return task.loss(outputs, y).mean(), state

    with _explained(named, inputs=x):
        params, state = jax.eval_shape(init, key, x)
    _check_params(named, params)
    with _explained(named, inputs=x):
        out = jax.eval_shape(evaluated, params, state, x, key)
    _check_shapes(task, named, out)
    _check_scores(task, out)
    with _explained(f"{named} in training", inputs=x, labels=y):
        gradient = jax.grad(trained, has_aux=True)
        _, after = jax.eval_shape(gradient, params, state, x, y, key)
    if _form(state) != _form(after):
        raise ValueError(
            f"{named} returns a state of other structure, shapes or dtypes than it was "
            "given; a step must keep them."
        )


def _form(tree: Any) -> tuple[Any, ...]:
    """The structure, shapes and dtypes of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _check_params(named: str, params: Any) -> None:
    """Raise unless there are parameters, and all of them real numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{named} has no parameters, so that no scheme can start it.")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{named} has a parameter {name} of dtype {leaf.dtype}; only real "
                "numbers are trained, so keep it elsewhere."
            )


def _check_shapes(task: Task, named: str, out: Any) -> None:
    """Raise unless the outputs are what a built-in loss or metric takes."""
    y = task.y_train[:2]
    count = len(y)
    classes = task.loss is cross_entropy or task.metric is accuracy
    if not classes and task.loss is not squared_error:
        return
    if not hasattr(out, "shape"):
        raise ValueError(
            f"{named} returns a {type(out).__name__}; one array is needed, or a loss "
            "and a metric of one's own that take it."
        )
    shape = out.shape
    if classes:
        if len(shape) != y.ndim + 1 or shape[:-1] != y.shape:
            wanted = ", ".join(map(str, (*y.shape, "classes")))
            raise ValueError(
                f"{named} maps {count} inputs to shape {shape}; logits of shape "
                f"({wanted}) are needed."
            )
        highest = max(task.y_train.max(), task.y_valid.max())
        if highest >= shape[-1]:
            raise ValueError(
                f"labels reach {highest}, but the model has {shape[-1]} outputs, so "
                f"labels from 0 to {shape[-1] - 1} are in range."
            )
    if task.loss is squared_error and shape != y.shape:
        raise ValueError(
            f"{named} maps {count} inputs to shape {shape}, but their labels have "
            f"shape {y.shape}; squared errors need one shape."
        )


def _check_scores(task: Task, out: Any) -> None:
    """Raise unless loss and metric give a number, or some, for each example."""
    y = task.y_train[:2]
    count = len(y)
    for what, called, function in (
        ("loss", task.loss_name, task.loss),
        ("metric", task.metric_name, task.metric),
    ):
        named = f"the {what} {called}" if called != what else f"the {what}"
        with _explained(named, outputs=out, labels=y):
            scores = jax.eval_shape(function, out, y)
        if not hasattr(scores, "shape"):
            raise ValueError(
                f"{named} returns a {type(scores).__name__}; one array with a value "
                f"for each example, of shape ({count}, ...), is needed."
            )
        if scores.ndim == 0 or len(scores) != count:
            raise ValueError(
                f"{named} of {count} examples has shape {scores.shape}; a value for "
                f"each example, of shape ({count}, ...), is needed."
            )
        real = jnp.issubdtype(scores.dtype, jnp.floating)
        whole = jnp.issubdtype(scores.dtype, jnp.integer) or scores.dtype == bool
        if not real and (what == "loss" or not whole):
            raise ValueError(
                f"{named} has values of dtype {scores.dtype}; real numbers are needed."
            )
