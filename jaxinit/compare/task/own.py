"""Whether an objective or a training of one's own can be run, by their programs.

As in `check`, all is traced as a sweep runs it, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit.compare.task import trees
from jaxinit.compare.task.check import (
    Split,
    Traced,
    abstract,
    check_kept,
    check_params,
    explained,
    is_measured,
    program_of,
)
from jaxinit.compare.task.objective import Aim
from jaxinit.compare.task.programs import Programs
from jaxinit.compare.task.training import Hparams, Training, Whole


def traced_objective(
    init: Callable[..., Any],
    apply: Callable[..., Any],
    aim: Aim,
    data: Split,
    examples: int,
    named: str,
    inputs: trees.Tree,
) -> Traced:
    """What an objective computes, and the model by itself, as schemes see it.

    Args and errors are those of `check.traced`; `inputs` are the model's, where they
    are not the data's.
    """
    objective, key = aim.objective, jax.random.key(0)
    assert objective is not None
    x, y = abstract(data.x_train, examples), abstract(data.y_train, examples)
    batch = trees.batch_of(x, y)
    valid = trees.batch_of(abstract(data.x_valid), abstract(data.y_valid))

    x = x if inputs is None else abstract(inputs)

    def seen(params: Any, state: Any, x: Any, key: Any) -> Any:
        return apply(params, state, x, key, False)[0]

    def whole(train: bool) -> Callable[..., Any]:
        return lambda p, state, batch, key: objective(p, state, batch, key, train)

    with explained(named, inputs=x):
        start, (params, state) = program_of(init, key, x)
        outputs, _ = program_of(seen, params, state, x, key)
    check_params(named, params)
    by = f"the objective {aim.loss_name}"
    with explained(f"{by} in evaluation", batch=valid):
        measured, found = program_of(whole(False), params, state, valid, key)
    _check_found(by, found, aim.metric_name)
    with explained(f"{by} in training", batch=batch):
        lowered, found = program_of(whole(True), params, state, batch, key)
    _check_found(by, found)
    check_kept(by, state, found[1][0])
    grad = jax.grad(whole(True), has_aux=True)
    gradient, _ = program_of(grad, params, state, batch, key)
    paths = [trees.paths_of(tree) for tree in (params, state)]
    fingerprint = Programs().fingerprint
    parts = {
        "model": fingerprint(start, outputs, about=paths),
        "loss": fingerprint(lowered),
        "metric": fingerprint(measured, about=aim.direction),
        "gradient": fingerprint(gradient),
    }
    return Traced(parts, params, state)


def traced_training(
    training: Training | Whole,
    apply: Callable[..., Any],
    inputs: trees.Tree,
    metric: str,
    direction: str,
) -> Traced:
    """What the functions of a training of one's own compute.

    Args:
        training: the functions.
        apply: the model's, as a `Model` has it.
        inputs: of the model, for those who look at its layers; None if it has none.
        metric: the name of what is held against the target.
        direction: in which it is better.

    Raises:
        ValueError: the functions do not fit one another, in one sentence.
    """
    key, rate = jax.random.key(0), jax.ShapeDtypeStruct((), jnp.float32)
    given = key, Hparams(rate)
    with explained("the training's init"):
        start, params = program_of(training[0], key)
    check_params("the training", params)
    programs = [start]
    if inputs is not None:
        x = abstract(inputs)
        with explained("the training's apply", inputs=x):
            seen = lambda params, x, key: apply(params, (), x, key, False)[0]  # noqa: E731
            programs.append(program_of(seen, params, x, key)[0])
    points = None
    if isinstance(training, Training):
        with explained("the training's begin"):
            begun, state = program_of(training.begin, params, *given)
        with explained("the training's step"):
            stepped, found = program_of(training.step, state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise ValueError(
                f"the training's step returns a {type(found).__name__}; a pair (state, "
                "loss) is needed."
            )
        after, loss = found
        check_kept("the training's step", state, after)
        _check_number("the training's step", "loss", loss)
        with explained("the training's evaluate"):
            measured, values = program_of(training.evaluate, state)
        _check_values("the training's evaluate", values, metric)
        trained = [begun, stepped]
    else:
        with explained("the training's train"):
            measured, values = program_of(training[1], params, *given)
        points = _points(values, metric)
        trained = [measured]
    fingerprint = Programs().fingerprint
    parts = {
        "model": fingerprint(*programs, about=trees.paths_of(params)),
        "loss": fingerprint(*trained),
        "metric": fingerprint(measured, about=(metric, direction)),
    }
    return Traced(parts, params, (), points)


def _points(curves: Any, metric: str) -> int:
    """The points of a whole training's curves."""
    by = "the training's train"
    _check_mapping(by, curves, ("loss", metric))
    shapes = {name: jnp.shape(curve) for name, curve in curves.items()}
    for name, curve in curves.items():
        _check_real(by, name, curve)
    if len(shapes["loss"]) != 1 or len(set(shapes.values())) > 1:
        said = ", ".join(f"{name!r} of shape {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{by} returns curves {said}; all must have one shape (points,), the first "
            "point at step 0."
        )
    return shapes["loss"][0]


def _check_found(by: str, found: Any, metric: str | None = None) -> None:
    """Raise unless an objective returns a loss, a state, and numbers by name."""
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or not isinstance(found[1], tuple) or len(found[1]) != 2:
        raise ValueError(
            f"{by} returns {_kind(found)}; (loss, (state, {{name: value}})) is needed."
        )
    loss, (_, values) = found
    _check_number(by, "loss", loss)
    if "loss" in (values if isinstance(values, Mapping) else ()):
        raise ValueError(
            f"{by} measures a value named 'loss'; the loss itself has that name, so "
            "give it another."
        )
    _check_values(by, values, None if metric == "loss" else metric)


def _kind(found: Any) -> str:
    if isinstance(found, tuple):
        return f"({', '.join(type(each).__name__ for each in found)})"
    return f"a {type(found).__name__}"


def _check_values(by: str, values: Any, metric: str | None) -> None:
    """Raise unless there are numbers by name, and the metric is one of them."""
    _check_mapping(by, values, () if metric is None else (metric,))
    for name, value in values.items():
        _check_number(by, name, value)


def _check_mapping(by: str, values: Any, needed: tuple[str, ...]) -> None:
    if not isinstance(values, Mapping) or not all(isinstance(n, str) for n in values):
        raise ValueError(
            f"{by} measures a {type(values).__name__}; a mapping from names to values "
            "is needed."
        )
    for name in needed:
        if name not in values:
            raise ValueError(
                f"{by} gives no value named {name!r}, but {_listed(values)}; return "
                "it, or name another as metric=."
            )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, values)) or "none"


def _check_number(by: str, name: str, value: Any) -> None:
    _check_real(by, name, value)
    if jnp.shape(value):
        raise ValueError(
            f"{by} gives {name!r} of shape {jnp.shape(value)}; one number is needed, "
            "such as its mean."
        )


def _check_real(by: str, name: str, value: Any) -> None:
    if not hasattr(value, "dtype"):
        raise ValueError(
            f"{by} gives {name!r} as a {type(value).__name__}; one number is needed."
        )
    if not is_measured(value.dtype, name):
        raise ValueError(
            f"{by} gives {name!r} of dtype {value.dtype}; real numbers are needed."
        )
