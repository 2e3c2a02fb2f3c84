"""A function made ready to be measured, and measured for any parameters."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._models import Inputs, Model, as_model
from jaxinit._models._pytree import is_pytree
from jaxinit._types import Array, Key, is_array
from jaxinit.diagnosis import _rows, _singular, _spectra
from jaxinit.diagnosis._measure import Measurement, noised
from jaxinit.diagnosis._report import Report
from jaxinit.diagnosis._singular import on_host
from jaxinit.diagnosis._spectra import Asked, Spectra
from jaxinit.tree._leaves import leaves_of

_IRREVERSIBLE = "Reverse-mode differentiation does not work"
"""What JAX says of a while loop with a gradient to go back through it."""

NO_KERNEL = "no parameter is a kernel"
"""What is said of a function without one."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A function with all that it is called with, traced and ready to be measured.

    Attributes:
        apply: `apply(params, *others)`.
        params: its parameters.
        others: its other arguments.
        inputs: those of them that are inputs, and where they are among the others: None
            where they are all of them.
        loss: `loss(outputs, labels)`, None where there is none.
        labels: what the outputs should be.
        key: for noise.
        update: from gradients and parameters to the first update, or None.
        measurement: the trace.
        spectra: whether to measure what takes many gradients.
        backward: whether there is anything to go back from.
    """

    apply: Callable[..., Any]
    params: Any
    others: tuple[Any, ...]
    inputs: int | None
    loss: Callable[..., Any] | None
    labels: Any
    key: Key
    update: Callable[[Any, Any], Any] | None
    measurement: Measurement
    spectra: bool = False
    backward: bool = True

    def of_outputs(self, labels: Any) -> Callable[[Any], Any] | None:
        """The loss as a function of the outputs."""
        loss = self.loss
        return None if loss is None else lambda out: loss(out, labels)

    def report(
        self, params: Any = None, others: tuple[Any, ...] | None = None
    ) -> Report:
        """Measure, by one program for all parameters.

        Args:
            params: others of the same shapes; by default those that were traced.
            others: the same of the other arguments.
        """
        params = self.params if params is None else params
        others = self.others if others is None else others
        measurement = self.measurement
        leaves = jax.tree.leaves((params, others))
        arrays = [leaf for leaf in leaves if is_array(leaf)]
        notes: list[str] = []
        goes_back = self.backward
        try:
            numbers = self._run(arrays, self.labels, self.key, goes_back)
        except ValueError as error:
            if _IRREVERSIBLE not in str(error):
                raise
            goes_back = False
            numbers = self._run(arrays, self.labels, self.key, False)
            notes.append(
                "No gradient is measured: the function has a while loop, through "
                "which none goes back; a scan, or a fori_loop of fixed length, lets "
                "it through."
            )
        columns = numbers.layers
        columns["spectral_norm"] = jnp.full(len(measurement.labels), jnp.nan)
        found: Spectra | None = None
        if self.spectra:
            columns["spectral_norm"] = jnp.asarray(self.spectral_norms(params))
            found, more = Spectra(), []
            if goes_back:
                found, more = _spectra.measure(self._asked(params))
            notes += more
        return Report(
            labels=measurement.labels,
            columns=columns,
            points=measurement.points,
            marks=numbers.points,
            leaves=numbers.leaves,
            loss=numbers.loss,
            ignorance=_ignorance(measurement, self.labels),
            examples=measurement.examples,
            missed=tuple(measurement.missed.items()),
            notes=tuple(notes),
            spectra=found,
        )

    def rebuilt(self, arrays: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
        """Parameters and other arguments of their arrays."""
        leaves, tree = jax.tree.flatten((self.params, self.others))
        given = iter(arrays)
        return tree.unflatten(
            [next(given) if is_array(leaf) else leaf for leaf in leaves]
        )

    @functools.cached_property
    def _run(self) -> Callable[..., Any]:
        """From arrays, labels and key to numbers, compiled."""

        def run(arrays: Any, labels: Any, key: Key, backward: bool) -> Any:
            params, others = self.rebuilt(arrays)
            loss = self.of_outputs(labels)
            update = self.update
            return self.measurement(
                params, others, loss, key, update, backward=backward
            )

        return jax.jit(run, static_argnums=3)

    @functools.cached_property
    def descend(self) -> Callable[[Sequence[Any]], tuple[list[Any], list[Any]]]:
        """A step of descent, a tenth of each leaf's size, compiled.

        From the arrays of parameters and other arguments to those after it, and the
        root mean square of the gradient of each parameter; NaN of those without one.
        """
        held = [leaf for leaf in jax.tree.leaves(self.params) if is_array(leaf)]
        moved = [k for k, x in enumerate(held) if jnp.issubdtype(x.dtype, jnp.inexact)]
        size = lambda x: jnp.sqrt(jnp.mean(jnp.square(jnp.abs(x))))  # noqa: E731
        loss = self.of_outputs(self.labels)

        def total(floats: list[Any], arrays: list[Any]) -> Any:
            own = list(arrays)
            for k, leaf in zip(moved, floats, strict=True):
                own[k] = leaf
            params, others = self.rebuilt(own)
            out = self.apply(params, *others)
            return noised(out, self.key) if loss is None else jnp.mean(loss(out))

        @jax.jit
        def step(arrays: list[Any]) -> tuple[list[Any], list[Any]]:
            grads = jax.grad(total)([arrays[k] for k in moved], arrays)
            after, sizes = list(arrays), [jnp.asarray(jnp.nan)] * len(held)
            for k, grad in zip(moved, grads, strict=True):
                g, x = size(grad), arrays[k]
                scale = jnp.maximum(size(x), 0.1) / jnp.maximum(g, 1e-30)
                rate = 0.1 * jnp.where(g > 0, scale, 0)
                after[k], sizes[k] = x - rate.astype(x.dtype) * grad, g
            return after, sizes

        return step

    def spectral_norms(self, params: Any) -> np.ndarray:
        """Of the kernel of each layer, in order of execution."""
        values = {leaf.path: leaf.value for leaf in leaves_of(params)[0]}
        known: dict[Any, np.ndarray] = {}
        found: list[float] = []
        for path, part, loops, rows in self.measurement.kernels:
            axes = _rows.leaf_axes(values[path].shape, part, loops)
            if (path, axes) not in known:
                leaf = on_host(values[path])
                known[path, axes] = _singular.spectral_norms(leaf, part.use, axes)
            found += np.broadcast_to(known[path, axes], rows).tolist()
        return np.array(found)[np.array(self.measurement.order, int)]

    def _asked(self, params: Any) -> Asked:
        """The function on its first examples."""
        examples = self.measurement.examples
        count = min(examples, _spectra.EXAMPLES)
        others = list(self.others)
        inputs = others if self.inputs is None else others[self.inputs]
        leaves, tree = jax.tree.flatten(inputs)
        has = [is_array(x) and x.ndim > 0 and len(x) == examples for x in leaves]
        cut = [x[:count] if own else x for x, own in zip(leaves, has, strict=True)]
        few: Any = tree.unflatten(cut)
        before = 0
        if self.inputs is not None:
            before = len(jax.tree.leaves(others[: self.inputs]))
            few = [*others[: self.inputs], few, *others[self.inputs + 1 :]]
        few_of = lambda x: x[:count] if x.ndim and len(x) == examples else x  # noqa: E731
        labels = jax.tree.map(few_of, self.labels)
        of_all = self.of_outputs(self.labels)
        total = None
        if of_all is not None:
            total = lambda p: jnp.mean(of_all(self.apply(p, *self.others)))  # noqa: E731
        rows = [before + k for k, own in enumerate(has) if own]
        of_few = self.of_outputs(labels)
        return Asked(self.apply, params, tuple(few), count, rows, of_few, total)


def prepare(
    owner: str,
    apply: Any,
    params: Any,
    inputs: tuple[Any, ...],
    *,
    loss: Callable[..., Any] | None = None,
    labels: Any = None,
    key: Key | None = None,
    learning_rate: float | None = None,
    optimizer: Any = None,
    spectra: bool = False,
) -> Prepared:
    """Check what is given, and trace the function; see `diagnose`."""
    key = jax.random.key(0) if key is None else key
    backward, place = True, 1 if is_model(apply) else None
    if hasattr(apply, "to_diagnose"):
        if inputs or loss is not None or labels is not None:
            raise ValueError(
                f"{owner}: a task brings its inputs, labels and loss; pass none of "
                "them."
            )
        given = apply.to_diagnose(params, key)
        apply, params, inputs = (given[k] for k in ("apply", "params", "inputs"))
        loss, labels, backward = (given[k] for k in ("loss", "labels", "backward"))
        place = 0
    _check_inputs(owner, inputs)
    function, params, others = as_function(owner, apply, params, inputs, key)
    _check_params(owner, params)
    if spectra and any(map(_checks.is_traced, jax.tree.leaves((params, others)))):
        raise TypeError(
            f"{owner}: spectra=True takes concrete numbers; call it outside of jax.jit."
        )
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
            f"{owner}: {NO_KERNEL}: none enters a product or a convolution with the "
            "inputs; see jaxinit.trace.layers for what each is."
        )
    return Prepared(
        function,
        params,
        others,
        place,
        of_outputs,
        labels,
        key,
        update,
        measurement,
        spectra,
        backward,
    )


def as_function(
    owner: str, apply: Any, params: Any, inputs: tuple[Any, ...], key: Key
) -> tuple[Callable[..., Any], Any, tuple[Any, ...]]:
    """A function, its parameters and its other arguments, of a model as it is."""
    if not is_model(apply):
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


def is_model(apply: Any) -> bool:
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
