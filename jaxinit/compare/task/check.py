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

from jaxinit._models import what_was_raised
from jaxinit.compare.task import trees
from jaxinit.compare.task.objective import Aim, accuracy, cross_entropy, squared_error
from jaxinit.compare.task.programs import Fingerprint, Programs
from jaxinit.compare.task.values import Digests, hashed

BATCHES = 3
"""Of a stream, that its digest is made of."""


class Traced(NamedTuple):
    """A task's functions, as far as their programs say.

    Attributes:
        parts: the fingerprints of "model", "loss", "metric" and "gradient", the last
            one of model and loss together; of a training of one's own, its step is
            the loss, and has no gradient beside it.
        params: the model's parameters as shapes and dtypes.
        state: whatever else the model carries, too.
        points: of the curves of a whole training; None where steps are taken here.
    """

    parts: dict[str, Fingerprint]
    params: Any
    state: Any
    points: int | None = None


class Split(NamedTuple):
    """Data for training and for validation.

    Attributes:
        x_train: (n, ...), as all of them an array or a tree of arrays.
        y_train: (n, ...), or None without labels.
        x_valid: (m, ...).
        y_valid: (m, ...), or None.
    """

    x_train: trees.Tree
    y_train: trees.Tree
    x_valid: trees.Tree
    y_valid: trees.Tree


def traced(
    init: Callable[..., Any],
    apply: Callable[..., Any],
    aim: Aim,
    data: Split,
    examples: int,
    named: str,
) -> Traced:
    """What the functions of a task compute, traced as a sweep runs them.

    Args:
        init: the model's.
        apply: the model's, as the sweep computes it.
        aim: loss and metric.
        data: of which the programs depend on shapes and dtypes alone.
        examples: in a training step.
        named: what errors call the model.

    Raises:
        ValueError: the task cannot be trained, in one sentence.
    """
    key = jax.random.key(0)
    x, y = abstract(data.x_train, examples), abstract(data.y_train, examples)
    x_valid = abstract(data.x_valid)
    loss_of = aim.loss
    assert loss_of is not None

    def evaluated(params: Any, state: Any, x: Any, key: Any) -> Any:
        return apply(params, state, x, key, False)[0]

    # One function, so that it is traced once, alone and in the gradient.
    trained = jax.jit(lambda params, state, x, key: apply(params, state, x, key, True))

    def loss(params: Any, state: Any, x: Any, y: Any, key: Any) -> Any:
        outputs, state = trained(params, state, x, key)
        return loss_of(outputs, y).mean(), state

    with explained(named, inputs=x):
        start, (params, state) = program_of(init, key, x)
    check_params(named, params)
    with explained(named, inputs=x_valid):
        evaluation, outputs = program_of(evaluated, params, state, x_valid, key)
    _check_outputs(aim, named, outputs, data)
    scored = _scored("loss", aim, outputs, data.y_valid)
    measured = _scored("metric", aim, outputs, data.y_valid)
    with explained(f"{named} in training", inputs=x, labels=y):
        training = trained.trace(params, state, x, key)
        lowered, _ = program_of(loss_of, training.out_info[0], y)
        grad = jax.grad(loss, has_aux=True)
        gradient, (_, after) = program_of(grad, params, state, x, y, key)
    check_kept(named, state, after)
    paths = [trees.paths_of(tree) for tree in (params, state)]
    fingerprint = Programs().fingerprint
    own_metric = () if aim.metric is aim.loss else (measured,)
    parts = {
        "model": fingerprint(start, evaluation, training.jaxpr, about=paths),
        "loss": fingerprint(scored, lowered),
        "metric": fingerprint(*own_metric, about=aim.direction),
        "gradient": fingerprint(gradient),
    }
    return Traced(parts, params, state)


def check_kept(by: str, state: Any, after: Any) -> None:
    """Raise unless a step keeps the form of its state."""
    if form(state) != form(after):
        raise ValueError(
            f"{by} returns a state of other structure, shapes or dtypes than it was "
            "given; a step must keep them."
        )


def stream_of(batches: Callable[[], Iterator[Any]]) -> Fingerprint:
    """The fingerprint of a stream, by its code and what it gives first."""
    code = Digests().of(batches)
    first = Digests(sampled=float("inf")).of(list(itertools.islice(batches(), BATCHES)))
    said = f"the stream of batches, of which the first {BATCHES} are known"
    return Fingerprint(hashed("stream", code, first).hex(), (said,))


def data_of(
    split: Split, stream: Fingerprint | None, inputs: trees.Tree = None
) -> Fingerprint:
    """The fingerprint of a task's data: arrays, stream, and inputs of the model."""
    every = (*split, stream, *(() if inputs is None else (inputs,)))
    digest = Digests(sampled=float("inf")).of(every)
    return Fingerprint(digest.hex(), () if stream is None else stream.untraced)


def abstract(tree: trees.Tree, examples: int | None = None) -> Any:
    """The shapes and dtypes of so many examples, of all by default."""

    def one(array: Any) -> jax.ShapeDtypeStruct:
        shape = (len(array) if examples is None else examples, *array.shape[1:])
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(array.dtype))

    return jax.tree.map(one, tree)


def program_of(function: Callable[..., Any], *given: Any) -> tuple[Any, Any]:
    """The program of a function, and its results as shapes.

    JAX keeps what it has traced of a function. This one is new each time, for a
    function that reads a variable of its module computes something else with its value.
    """
    traced = jax.jit(lambda *arguments: function(*arguments)).trace(*given)
    return traced.jaxpr, traced.out_info


@contextlib.contextmanager
def explained(what: str, **given: Any) -> Iterator[None]:
    """Turn what is raised inside into a sentence: whose fault it is, given what."""
    try:
        yield
    except Exception as error:
        arrays = [
            (f"{name}{jax.tree_util.keystr(path)}", leaf)
            for name, tree in given.items()
            for path, leaf in jax.tree.leaves_with_path(tree)
            if hasattr(leaf, "shape")
        ]
        listed = " and ".join(
            f"{name} of shape {leaf.shape} and dtype {leaf.dtype}"
            for name, leaf in arrays[:4]
        )
        listed += f" and {len(arrays) - 4} more" if arrays[4:] else ""
        given_these = f", given {listed}," if listed else ""
        raise ValueError(
            f"{what}{given_these} raised {what_was_raised(error)}."
        ) from error


def form(tree: Any) -> tuple[Any, ...]:
    """The structure, shapes and dtypes of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def is_measured(dtype: Any, what: str) -> bool:
    """Whether values may have this dtype; a "loss" must have a gradient."""
    if jnp.issubdtype(dtype, jnp.floating):
        return True
    return what != "loss" and (
        jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)
    )


def check_params(named: str, params: Any) -> None:
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


def _check_outputs(aim: Aim, named: str, out: Any, data: Split) -> None:
    """Raise unless the outputs are what a built-in loss or metric takes."""
    y = data.y_valid
    classes = aim.loss is cross_entropy or aim.metric is accuracy
    if not classes and aim.loss is not squared_error:
        return
    if not hasattr(y, "shape"):
        raise ValueError(
            f"labels are a {type(y).__name__} of arrays; squared errors need one "
            "array, or a loss of one's own that takes them."
        )
    count = len(y)
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
    if aim.loss is squared_error and shape != y.shape:
        raise ValueError(
            f"{named} maps {count} inputs to shape {shape}, but their labels have "
            f"shape {y.shape}; squared errors need one shape."
        )


def _scored(what: str, aim: Aim, outputs: Any, labels: trees.Tree) -> Any:
    """The program of the loss or metric, which gives a number, or some, an example."""
    function, called = {
        "loss": (aim.loss, aim.loss_name),
        "metric": (aim.metric, aim.metric_name),
    }[what]
    y, count = abstract(labels), trees.count(labels)
    assert function is not None
    named = f"the {what} {called}" if called != what else f"the {what}"
    with explained(named, outputs=outputs, labels=y):
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
    if not is_measured(scores.dtype, what):
        raise ValueError(
            f"{named} has values of dtype {scores.dtype}; real numbers are needed."
        )
    return program
