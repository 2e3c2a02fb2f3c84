"""What training lowers, and what is held against the target: losses and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import optax

from jaxinit import _checks
from jaxinit._types import Array
from jaxinit.compare.task.values import name_of

Scores: TypeAlias = Callable[[Any, Array], Array]
"""`(outputs, labels) -> values` of shape (batch, ...), which are then averaged."""

Direction: TypeAlias = Literal["max", "min"]


class Objective(NamedTuple):
    """What training lowers, and what is held against the target.

    Attributes:
        loss: `loss(outputs, y) -> values` of shape (batch, ...).
        metric: the same form.
        loss_name: the loss's name in results.
        metric_name: the metric's.
        direction: "max" if the metric is to rise, "min" if it is to fall.
    """

    loss: Scores
    metric: Scores
    loss_name: str
    metric_name: str
    direction: Direction


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
