"""What is learned: a model, its data, and when it counts as learned."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxinit import _checks
from jaxinit._models import Model, as_model
from jaxinit.compare.machine import use_all_cores
from jaxinit.compare.task import check, data, streams
from jaxinit.compare.task.objective import (
    Direction,
    Objective,
    Scores,
    accuracy,
    cross_entropy,
    loss_of,
    metric_of,
)
from jaxinit.compare.task.programs import Fingerprint
from jaxinit.compare.task.values import Digests

EXAMPLES = 64
"""In a step, where nothing else is asked for."""

EVAL_EVERY = 10
"""Steps between two evaluations, where nothing else is asked for."""


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
        eval_every: steps between two evaluations, where a sweep does not say.
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
    eval_every: int = EVAL_EVERY
    batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]] | None = None

    @property
    def objective(self) -> Objective:
        """Loss and metric, with their names."""
        named = self.loss_name, self.metric_name
        return Objective(self.loss, self.metric, *named, self.direction)

    @property
    def split(self) -> check.Split:
        """The arrays of the data."""
        return check.Split(self.x_train, self.y_train, self.x_valid, self.y_valid)

    def traced(
        self,
        examples: int | None = None,
        apply: Callable[..., Any] | None = None,
        named: str = "the model",
    ) -> check.Traced:
        """What the task's functions compute, part by part.

        They are traced anew only where they, or what they close over, are no longer
        what they were.

        Args:
            examples: in a training step; by default 64, or all if there are fewer.
            apply: the model's `apply` as a sweep computes it, if not as it is.
            named: what errors call the model.

        Raises:
            ValueError: the task cannot be trained, in one sentence.
        """
        examples = min(EXAMPLES, len(self.x_train)) if examples is None else examples
        apply = self.model.apply if apply is None else apply
        functions = (self.model.init, apply, self.loss, self.metric)
        made_of = (examples, Digests().of(functions))
        if made_of not in self._known:
            parts = self.model.init, apply, self.objective, self.split
            self._known[made_of] = check.traced(*parts, examples, named)
        return self._known[made_of]

    def data(self) -> Fingerprint:
        """The fingerprint of the data, arrays and stream."""
        return check.data_of(self.split, self._stream)

    @property
    def fingerprint(self) -> str:
        """A text that differs where the data or the programs of two tasks differ."""
        return Digests().of((self.data(), self.traced().parts)).hex()[:16]

    @functools.cached_property
    def _known(self) -> dict[Any, check.Traced]:
        return {}

    @functools.cached_property
    def _stream(self) -> Fingerprint | None:
        return None if self.batches is None else check.stream_of(self.batches)

    def reached(self, metric: np.ndarray) -> np.ndarray:
        """Where the metric is at the target or better, which NaN never is."""
        at_least = self.direction == "max"
        return metric >= self.target if at_least else metric <= self.target


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
    eval_every: int = EVAL_EVERY,
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
        eval_every: steps between two evaluations on the validation data. Best a few per
            cent of the steps that a fast scheme takes to the target, for nothing finer
            is told apart; one costs about as much as a third of the steps that its
            examples would make.

    Returns:
        A `Task` for `jaxinit.compare.compare`. Results name a function by its
        `__name__`, and know it by the program that it is traced to.

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
    loss, loss_name = loss_of(loss)
    if metric is None:
        metric = "accuracy" if loss is cross_entropy else "loss"
    metric, metric_name, direction = metric_of(metric, loss, direction)
    if not isinstance(target, numbers.Real):
        raise TypeError(f"target={target!r} must be a number.")
    _checks.number("make_task", target=target)
    _checks.integer("make_task", eval_every=eval_every)
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
        eval_every,
        batches,
    )
    called = getattr(model, "__name__", type(model).__name__)
    named = "the model" if type(model) is tuple else f"the model {called}"
    task.traced(named=named)  # raises unless the task can be trained
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
