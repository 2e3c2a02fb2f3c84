"""`diagnose`: what a function does to a signal before it is trained."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinit import _checks
from jaxinit._models import Inputs, Model, as_model
from jaxinit._models._pytree import is_pytree
from jaxinit._types import Array, Key, is_array
from jaxinit.diagnosis._measure import Measurement
from jaxinit.diagnosis._report import Report

_IRREVERSIBLE = "Reverse-mode differentiation does not work"
"""What JAX says of a while loop with a gradient to go back through it."""


def diagnose(
    apply: Any,
    params: Any,
    *inputs: Any,
    loss: Callable[..., Any] | None = None,
    labels: Any = None,
    key: Key | None = None,
    learning_rate: float | None = None,
    optimizer: Any = None,
) -> Report:
    r"""Measure the signal in a function, forward and backward, at every layer.

    For the product z of every kernel, inside of loops, branches and checkpoints too,
    with B examples of losses $L_1, \dots, L_B$: moments of z, and the root mean square
    of $\partial (L_1 + \dots + L_B) / \partial z$, which does not depend on B. The
    program is that of one gradient with a few sums more: nothing of the size of an
    activation is kept for it.

    Args:
        apply: `apply(params, *inputs)`, any function that JAX can trace; or a model of
            Flax, Equinox or Haiku, or a pair `(init, apply)`, which is then called as
            in training, with dropout and the batch's statistics.
        params: its parameters, a pytree with floating arrays; for a model None, for
            those that it has or that its own initialization draws, or what its `init`
            returns.
        inputs: its inputs, concrete; the leading axis of the first array among them is
            that of the examples.
        loss: `loss(outputs, labels)`, or `loss(outputs)` without labels: a loss for
            each example, or their mean. By default, with labels that are integers the
            cross-entropy of the outputs as logits, with others the mean squared
            error. Without labels either, gradients are those of the outputs' product
            with standard normal noise: their squares estimate without bias those of
            the Jacobian from a layer to the outputs.
        labels: what the outputs should be.
        key: for that noise, dropout and a model's own draw; `jax.random.key(0)` by
            default.
        learning_rate: of plain gradient descent, for the size of the first update.
        optimizer: an Optax transform, for the same; one or the other.

    Returns:
        The `Report`; printed, a table with a verdict. Under `jax.jit` a pytree of
        traced numbers.

    Raises:
        TypeError: `params` holds no floating array, or inputs are abstract.
        ValueError: no kernel is found, there are no inputs, or an update is asked for
            without a loss.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> keys = jax.random.split(jax.random.key(0), 20)
        >>> draw = jaxinit.glorot_normal()
        >>> params = {f"layer_{i}": draw(k, (256, 256)) for i, k in enumerate(keys)}
        >>> def apply(params, x):
        ...     for i in range(20):
        ...         x = jax.nn.relu(x @ params[f"layer_{i}"])
        ...     return x
        >>> x = jax.random.normal(jax.random.key(1), (64, 256))
        >>> report = jaxinit.diagnose(apply, params, x)
        >>> round(report.forward.factor, 1), len(report.rows)
        (0.7, 20)
        >>> print(report.verdict.split("`")[1])
        jaxinit.reinit(key, params, jaxinit.he_normal(), apply, inputs)
    """
    rate = (learning_rate, optimizer)
    return prepare("diagnose", apply, params, inputs, loss, labels, key, *rate).report()


class Prepared(NamedTuple):
    """A function with all that it is called with, traced and ready to be measured.

    Attributes:
        apply: `apply(params, *others)`.
        params: its parameters.
        others: its other arguments.
        loss: `loss(outputs, labels)`, None where there is none.
        labels: what the outputs should be.
        key: for noise.
        update: from gradients and parameters to the first update, or None.
        measurement: the trace.
    """

    apply: Callable[..., Any]
    params: Any
    others: tuple[Any, ...]
    loss: Callable[..., Any] | None
    labels: Any
    key: Key
    update: Callable[[Any, Any], Any] | None
    measurement: Measurement

    def of_outputs(self, labels: Any) -> Callable[[Any], Any] | None:
        """The loss as a function of the outputs."""
        loss = self.loss
        return None if loss is None else lambda out: loss(out, labels)

    def report(self) -> Report:
        """Measure."""
        leaves, tree = jax.tree.flatten((self.params, self.others))
        measurement = self.measurement

        def run(arrays: Any, labels: Any, key: Key, backward: bool) -> Any:
            given = iter(arrays)
            own = [next(given) if is_array(leaf) else leaf for leaf in leaves]
            params, others = tree.unflatten(own)
            loss = self.of_outputs(labels)
            return measurement(
                params, others, loss, key, self.update, backward=backward
            )

        run = jax.jit(run, static_argnums=3)
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        notes: tuple[str, ...] = ()
        try:
            numbers = run(arrays, self.labels, self.key, True)
        except ValueError as error:
            if _IRREVERSIBLE not in str(error):
                raise
            numbers = run(arrays, self.labels, self.key, False)
            notes = (
                "No gradient is measured: the function has a while loop, through "
                "which none goes back; a scan, or a fori_loop of fixed length, lets "
                "it through.",
            )
        return Report(
            labels=measurement.labels,
            columns=numbers.layers,
            points=measurement.points,
            marks=numbers.points,
            leaves=numbers.leaves,
            loss=numbers.loss,
            ignorance=_ignorance(measurement, self.labels),
            examples=measurement.examples,
            missed=tuple(measurement.missed.items()),
            notes=notes,
        )


def prepare(
    owner: str,
    apply: Any,
    params: Any,
    inputs: tuple[Any, ...],
    loss: Callable[..., Any] | None,
    labels: Any,
    key: Key | None,
    learning_rate: float | None,
    optimizer: Any,
) -> Prepared:
    """Check what is given, and trace the function; see `diagnose`."""
    key = jax.random.key(0) if key is None else key
    _check_inputs(owner, inputs)
    function, params, others = as_function(owner, apply, params, inputs, key)
    _check_params(owner, params)
    update = _update(owner, learning_rate, optimizer)
    of_outputs = _loss_of(owner, loss, labels)
    if update is not None and of_outputs is None:
        raise ValueError(
            f"{owner}: an update is that of a loss; pass labels= or loss=, or leave "
            "learning_rate and optimizer."
        )
    examples = next((len(x) for x in _arrays(inputs) if x.ndim), 1)
    measurement = Measurement(function, params, others, examples)
    if not measurement.labels:
        raise ValueError(
            f"{owner}: no parameter is a kernel: none enters a product or a "
            "convolution with the inputs; see jaxinit.trace.layers for what each is."
        )
    return Prepared(
        function, params, others, of_outputs, labels, key, update, measurement
    )


def as_function(
    owner: str, apply: Any, params: Any, inputs: tuple[Any, ...], key: Key
) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    """A function, its parameters and its other arguments, of a model as it is."""
    if not _is_model(apply):
        if params is None:
            raise TypeError(
                f"{owner}: params=None is for a model of Flax, Equinox or Haiku; a "
                "function needs the parameters that it is called with."
            )
        return apply, params, inputs
    model = as_model(apply)
    given = Inputs(inputs)
    start = (
        model.init if model.finished else jax.jit(lambda key, _: model.init(key, given))
    )
    own, state = start(key, given if model.finished else None)
    if params is not None:
        own, state = _given(owner, model, params, own, state)

    def function(params: Any, state: Any, inputs: Any, key: Key) -> Any:
        return model.apply(params, state, Inputs(inputs), key, True)[0]

    return function, own, (state, inputs, key)


def _is_model(apply: Any) -> bool:
    """Whether it is a model, and no function of parameters."""
    flax = (sys.modules.get("flax.linen"), sys.modules.get("flax.nnx"))
    modules = tuple(each.Module for each in flax if each is not None)
    return isinstance(apply, (Model, tuple, *modules)) or is_pytree(apply)


def _given(
    owner: str, model: Model, params: Any, own: Any, state: Any
) -> tuple[Any, Any]:
    """Parameters and state, of what the user holds: the same as `init` returns."""
    for found in (
        (params, state),
        (params.get("params"), {**state, **_without_params(params)})
        if isinstance(params, Mapping) and isinstance(state, Mapping)
        else None,
        params if isinstance(params, tuple) and len(params) == 2 else None,
    ):
        if found is not None and jax.tree.structure(found) == jax.tree.structure(
            (own, state)
        ):
            return found
    raise TypeError(
        f"{owner}: params is no tree such as the model's init returns; pass that, or "
        "None for the parameters that the model has or draws."
    )


def _without_params(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name != "params"}


def _check_inputs(owner: str, inputs: Any) -> None:
    if not _arrays(inputs):
        raise ValueError(f"{owner}: there are no inputs; pass them after params.")
    for leaf in _arrays(inputs):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{owner}: an input is a ShapeDtypeStruct; a signal needs values, so "
                "pass arrays."
            )


def _check_params(owner: str, params: Any) -> None:
    leaves = _arrays(params)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        raise TypeError(
            f"{owner}: params are ShapeDtypeStructs; a signal needs values, so draw "
            "them first, for instance by jaxinit.init."
        )
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves):
        held = sorted({str(leaf.dtype) for leaf in leaves}) or ["no arrays"]
        raise TypeError(
            f"{owner}: params holds {', '.join(held)} and no floating array; pass the "
            "parameters that are trained."
        )


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def _update(
    owner: str, learning_rate: float | None, optimizer: Any
) -> Callable[[Any, Any], Any] | None:
    """The first update of an optimizer, from gradients and parameters."""
    if learning_rate is not None and optimizer is not None:
        raise ValueError(
            f"{owner}: learning_rate is that of plain gradient descent; an optimizer "
            "has its own, so pass one or the other."
        )
    if optimizer is not None:
        return lambda grads, params: optimizer.update(
            grads, optimizer.init(params), params
        )[0]
    if learning_rate is None:
        return None
    _checks.number(owner, minimum=0.0, learning_rate=learning_rate)
    return lambda grads, params: jax.tree.map(lambda g: -learning_rate * g, grads)


def _loss_of(
    owner: str, loss: Callable[..., Any] | None, labels: Any
) -> Callable[[Any, Any], Array] | None:
    """`loss(outputs, labels)`; None where there is none."""
    if loss is not None:
        return loss if labels is not None else lambda out, _: loss(out)
    if labels is None:
        return None
    if not is_array(labels):
        raise TypeError(
            f"{owner}: labels={type(labels).__name__} must be an array; pass loss= for "
            "labels of another form."
        )

    def default(out: Any, labels: Any) -> Array:
        if not is_array(out):
            raise TypeError(
                f"{owner}: the outputs are {type(out).__name__}, not one array; pass "
                "loss=."
            )
        if jnp.issubdtype(labels.dtype, jnp.integer):
            if out.shape[:-1] != labels.shape:
                raise ValueError(
                    f"{owner}: outputs of shape {out.shape} are no logits for labels "
                    f"of shape {labels.shape}; pass loss=."
                )
            logs = jax.nn.log_softmax(out.astype(jnp.promote_types(out.dtype, float)))
            return -jnp.take_along_axis(logs, labels[..., None], -1)[..., 0]
        if out.shape != labels.shape:
            raise ValueError(
                f"{owner}: outputs have shape {out.shape} and labels {labels.shape}; "
                "they must be the same, or pass loss=."
            )
        return jnp.square(jnp.abs(out - labels))

    return default


def _ignorance(measurement: Measurement, labels: Any) -> float | None:
    """The loss of equal probabilities; None where labels are no classes."""
    if not is_array(labels) or not jnp.issubdtype(labels.dtype, jnp.integer):
        return None
    shape = measurement.output_shape
    if shape is None or shape[:-1] != tuple(labels.shape) or shape[-1] < 2:
        return None
    return math.log(shape[-1])
