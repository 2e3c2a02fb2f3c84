"""What training lowers, and what is held against the target: losses and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import optax

from jaxinit import _checks
from jaxinit._types import Array, Key
from jaxinit.compare.task.values import name_of

Scores: TypeAlias = Callable[[Any, Array], Array]
"""`(outputs, labels) -> values` of shape (batch, ...), which are then averaged."""

Objective: TypeAlias = Callable[
    [Any, Any, Any, Key, bool], tuple[Array, tuple[Any, Mapping[str, Any]]]
]
"""`(params, state, batch, key, train) -> (loss, (state, {name: value}))`: all that
training lowers, a number, and what else is measured, a number each."""

Direction: TypeAlias = Literal["max", "min"]


class Aim(NamedTuple):
    """What training lowers, and what is held against the target.

    Attributes:
        loss: `loss(outputs, y) -> values` of shape (batch, ...); None with an
            objective.
        metric: the same form; None with an objective, which gives it by name.
        loss_name: the loss's name in results.
        metric_name: the metric's.
        direction: "max" if the metric is to rise, "min" if it is to fall.
        objective: all of it in one function, where that is given.
    """

    loss: Scores | None
    metric: Scores | None
    loss_name: str
    metric_name: str
    direction: Direction
    objective: Objective | None = None

    def of(self, apply: Callable[..., Any]) -> Objective:
        """The objective: the one that is given, or the means of loss and metric.

        Args:
            apply: the model's, as the sweep computes it.
        """
        if self.objective is not None:
            return self.objective
        loss_of, metric_of = self.loss, self.metric
        assert loss_of is not None and metric_of is not None

        def scored(
            params: Any, state: Any, batch: Any, key: Key, train: bool
        ) -> tuple[Array, tuple[Any, Mapping[str, Any]]]:
            x, y = batch
            outputs, state = apply(params, state, x, key, train)
            loss = loss_of(outputs, y).mean()
            if train:
                return loss, (state, {})
            return loss, (state, {self.metric_name: metric_of(outputs, y).mean()})

        return scored


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


def loss_of(loss: str | Scores) -> tuple[Scores, str]:
    """The loss as a function, and its name."""
    if callable(loss):
        return loss, name_of(loss)
    _checks.choice("make_task", "loss", loss, LOSSES)
    return LOSSES[loss], loss


def metric_of(
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
    name = name_of(metric)
    if direction not in ("max", "min"):
        raise ValueError(
            f"make_task: direction={direction!r} of metric {name} must be 'max' if "
            "greater is better, or 'min'."
        )
    return metric, name, direction


def named_metric_of(
    objective: Any, metric: Any, direction: str | None
) -> tuple[str, Direction]:
    """The name of what an objective is measured by, and where it is better."""
    if not callable(objective):
        raise TypeError(
            f"make_task: objective of type {type(objective).__name__} must be a "
            "function (params, state, batch, key, train) -> (loss, (state, "
            "{name: value}))."
        )
    return name_and_direction("make_task", metric, direction)


def name_and_direction(
    owner: str, metric: Any, direction: str | None
) -> tuple[str, Direction]:
    """The name of a metric that a function gives by name, and where it is better.

    The loss is one of them, and falls.
    """
    metric = "loss" if metric is None else metric
    if not isinstance(metric, str):
        raise TypeError(
            f"{owner}: metric of type {type(metric).__name__} must be the name of one "
            "of the values that are measured."
        )
    if metric == "loss":
        if direction not in (None, "min"):
            raise ValueError(
                f"{owner}: direction={direction!r} does not fit metric='loss', whose "
                "direction is 'min'; leave it out."
            )
        return metric, "min"
    if direction not in ("max", "min"):
        raise ValueError(
            f"{owner}: direction={direction!r} of metric {metric!r} must be 'max' if "
            "greater is better, or 'min'."
        )
    return metric, direction
