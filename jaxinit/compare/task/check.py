"""Whether a task can be trained, and what decides its numbers, by its programs.

The model, the loss and the metric are traced as a sweep runs them, and nothing is
computed. One trace of each tells both: what does not fit is said in one sentence, and
what fits has a digest.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._models import what_was_raised
from jaxinit.compare.task.objective import (
    Objective,
    accuracy,
    cross_entropy,
    squared_error,
)
from jaxinit.compare.task.programs import Fingerprint, Programs
from jaxinit.compare.task.values import Digests, hashed

BATCHES = 3
"""Of a stream, that its digest is made of."""


class Traced(NamedTuple):
    """A task's functions, as far as their programs say.

    Attributes:
        parts: the fingerprints of "model", "loss", "metric" and "gradient", the last
            one of model and loss together.
        params: the model's parameters as shapes and dtypes.
        state: whatever else the model carries, too.
    """

    parts: dict[str, Fingerprint]
    params: Any
    state: Any


class Split(NamedTuple):
    """Data for training and for validation.

    Attributes:
        x_train: (n, ...). y_train: (n, ...). x_valid: (m, ...). y_valid: (m, ...).
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray


def traced(
    init: Callable[..., Any],
    apply: Callable[..., Any],
    objective: Objective,
    data: Split,
    examples: int,
    named: str,
) -> Traced:
    """What the functions of a task compute, traced as a sweep runs them.

    Args:
        init: the model's.
        apply: the model's, as the sweep computes it.
        objective: loss and metric.
        data: of which the programs depend on shapes and dtypes alone.
        examples: in a training step.
        named: what errors call the model.

    Raises:
        ValueError: the task cannot be trained, in one sentence.
    """
    key = jax.random.key(0)
    x, y = _abstract(data.x_train, examples), _abstract(data.y_train, examples)
    x_valid, y_valid = _abstract(data.x_valid), _abstract(data.y_valid)

    def evaluated(params: Any, state: Any, x: Any, key: Any) -> Any:
        return apply(params, state, x, key, False)[0]

    # One function, so that it is traced once, alone and in the gradient.
    trained = jax.jit(lambda params, state, x, key: apply(params, state, x, key, True))

    def loss(params: Any, state: Any, x: Any, y: Any, key: Any) -> Any:
        outputs, state = trained(params, state, x, key)
        return objective.loss(outputs, y).mean(), state

    with _explained(named, inputs=x):
        start, (params, state) = program_of(init, key, x)
    _check_params(named, params)
    with _explained(named, inputs=x_valid):
        evaluation, outputs = program_of(evaluated, params, state, x_valid, key)
    _check_outputs(objective, named, outputs, data)
    scored = _scored("loss", objective, outputs, y_valid)
    measured = _scored("metric", objective, outputs, y_valid)
    with _explained(f"{named} in training", inputs=x, labels=y):
        training = trained.trace(params, state, x, key)
        lowered, _ = program_of(objective.loss, training.out_info[0], y)
        grad = jax.grad(loss, has_aux=True)
        gradient, (_, after) = program_of(grad, params, state, x, y, key)
    if _form(state) != _form(after):
        raise ValueError(
            f"{named} returns a state of other structure, shapes or dtypes than it was "
            "given; a step must keep them."
        )
    paths = [_paths(tree) for tree in (params, state)]
    fingerprint = Programs().fingerprint
    own_metric = () if objective.metric is objective.loss else (measured,)
    parts = {
        "model": fingerprint(start, evaluation, training.jaxpr, about=paths),
        "loss": fingerprint(scored, lowered),
        "metric": fingerprint(*own_metric, about=objective.direction),
        "gradient": fingerprint(gradient),
    }
    return Traced(parts, params, state)


def stream_of(batches: Callable[[], Iterator[Any]]) -> Fingerprint:
    """The fingerprint of a stream, by its code and what it gives first."""
    code = Digests().of(batches)
    first = Digests(sampled=float("inf")).of(list(itertools.islice(batches(), BATCHES)))
    said = f"the stream of batches, of which the first {BATCHES} are known"
    return Fingerprint(hashed("stream", code, first).hex(), (said,))


def data_of(split: Split, stream: Fingerprint | None) -> Fingerprint:
    """The fingerprint of a task's data, arrays and stream."""
    digest = Digests(sampled=float("inf")).of((*split, stream))
    return Fingerprint(digest.hex(), () if stream is None else stream.untraced)


def _abstract(array: np.ndarray, examples: int | None = None) -> jax.ShapeDtypeStruct:
    """The shape and dtype of so many examples, of all by default."""
    shape = (len(array) if examples is None else examples, *array.shape[1:])
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(array.dtype))


def program_of(function: Callable[..., Any], *given: Any) -> tuple[Any, Any]:
    """The program of a function, and its results as shapes.

    JAX keeps what it has traced of a function. This one is new each time, for a
    function that reads a variable of its module computes something else with its value.
    """
    traced = jax.jit(lambda *arguments: function(*arguments)).trace(*given)
    return traced.jaxpr, traced.out_info


def _paths(tree: Any) -> list[str]:
    """The paths of a tree's leaves, by which schemes choose."""
    return [jax.tree_util.keystr(at) for at, _ in jax.tree.leaves_with_path(tree)]


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


def _form(tree: Any) -> tuple[Any, ...]:
    """The structure, shapes and dtypes of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _check_params(named: str, params: Any) -> None:
    """Raise unless there are parameters, and all of them real numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(
            f"{named} has no parameters, so that no scheme can initialize it."
        )
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"{named} has a parameter {name} of dtype {leaf.dtype}; only real "
                "numbers are trained, so keep it elsewhere."
            )


def _check_outputs(objective: Objective, named: str, out: Any, data: Split) -> None:
    """Raise unless the outputs are what a built-in loss or metric takes."""
    y = data.y_valid
    count = len(y)
    classes = objective.loss is cross_entropy or objective.metric is accuracy
    if not classes and objective.loss is not squared_error:
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
        highest = max(data.y_train.max(), data.y_valid.max())
        if highest >= shape[-1]:
            raise ValueError(
                f"labels reach {highest}, but the model has {shape[-1]} outputs, so "
                f"labels from 0 to {shape[-1] - 1} are in range."
            )
    if objective.loss is squared_error and shape != y.shape:
        raise ValueError(
            f"{named} maps {count} inputs to shape {shape}, but their labels have "
            f"shape {y.shape}; squared errors need one shape."
        )


def _scored(what: str, objective: Objective, outputs: Any, y: Any) -> Any:
    """The program of the loss or metric, which gives a number, or some, an example."""
    function, called = {
        "loss": (objective.loss, objective.loss_name),
        "metric": (objective.metric, objective.metric_name),
    }[what]
    count = y.shape[0]
    named = f"the {what} {called}" if called != what else f"the {what}"
    with _explained(named, outputs=outputs, labels=y):
        program, scores = program_of(function, outputs, y)
    if not hasattr(scores, "shape"):
        raise ValueError(
            f"{named} returns a {type(scores).__name__}; one array with a value "
            f"for each example, of shape ({count}, ...), is needed."
        )
    if not scores.shape or scores.shape[0] != count:
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
    return program
