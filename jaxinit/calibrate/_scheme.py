"""Calibrated schemes: values that draw a model, then look at it and at its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, ParamSpec, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxinit._canonical import As
from jaxinit._checks import is_traced
from jaxinit._initializer import Initializer
from jaxinit._types import Array, Key, is_array
from jaxinit._value import Builder, Value
from jaxinit.trace import Layer
from jaxinit.tree._combine import _alone
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._reinit import reinit
from jaxinit.tree._scheme import Scheme, keys_of

P = ParamSpec("P")

Loss: TypeAlias = Callable[[Any], Any]
"""From what `apply` returns to a loss for each example, or their mean."""


class Made(Protocol):
    """A calibration of one function, traced and ready."""

    def __call__(self, key: Key, params: Any, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """The calibrated parameters, and what has been measured; a pure function."""
        ...

    def tell(self, measured: Any) -> None:
        """Warn of what is not as it shall be."""
        ...


class Situation(NamedTuple):
    """What a calibration is made for.

    Attributes:
        apply: `apply(params, *inputs)`.
        params: the parameters, concrete or abstract.
        inputs: the inputs, so too.
        loss: from outputs to losses; None if nothing is known of it.
    """

    apply: Callable[..., Any]
    params: Any
    inputs: Sequence[Any]
    loss: Loss | None


Make: TypeAlias = Callable[[Situation], Made]


class CalibratedScheme(Value):
    """A scheme that draws by another, then sets scales by what the model does.

    A frozen, hashable value that prints as it parses, and the `scheme` of
    `jaxinit.init`, `jaxinit.reinit` and `jaxinit.compare.compare`. Called with a key,
    parameters, a function and its inputs, it returns parameters.

    Attributes:
        name: its name.
        arguments: a read-only mapping from parameter names to values; `base` is the
            scheme that draws, None where parameters are taken as they come.
        needs_inputs: whether the values of the inputs count, and not their shapes
            alone.
        needs_loss: whether the loss counts.
    """

    __slots__ = ("_make", "needs_inputs", "needs_loss")

    _make: Make
    needs_inputs: bool
    needs_loss: bool

    def __init__(
        self, builder: _CalibratedBuilder, arguments: Mapping[str, Any], make: Make
    ) -> None:
        """Keep what the builder has made."""
        super().__init__(builder, arguments)
        object.__setattr__(self, "_make", make)
        needs = builder.needs_inputs
        needs = needs(arguments) if callable(needs) else needs
        object.__setattr__(self, "needs_inputs", needs)
        object.__setattr__(self, "needs_loss", builder.needs_loss)

    @property
    def base(self) -> Scheme | None:
        """The scheme that draws."""
        return self.arguments["base"]

    def choose(self, layers: Sequence[Layer]) -> Mapping[str, Initializer | None]:
        """The initializer of each leaf that the base draws.

        Args:
            layers: the model's layers, as `jaxinit.trace.layers` has them.

        Returns:
            From path to initializer.
        """
        return {} if self.base is None else self.base.choose(layers)

    def keys(self, layers: Sequence[Layer]) -> Mapping[str, str]:
        """Leaves that the base draws with the key of another.

        Args:
            layers: the model's layers.

        Returns:
            From path to the path of the other.
        """
        return {} if self.base is None else keys_of(self.base, layers)

    def finish(
        self, key: Key, values: Mapping[str, Array], layers: Sequence[Layer]
    ) -> Mapping[str, Array]:
        """Leaves that the base makes of others.

        Args:
            key: the key of the whole tree.
            values: every leaf, by path.
            layers: the model's layers.

        Returns:
            The leaves that take another value, by path.
        """
        finish = getattr(self.base, "finish", None)
        return {} if finish is None else finish(key, values, layers)

    def __call__(
        self,
        key: Key,
        params: Any,
        apply: Callable[..., Any],
        inputs: Sequence[Any],
        loss: Loss | None = None,
    ) -> Any:
        """Draw parameters by the base, and calibrate them.

        Args:
            key: one PRNG key.
            params: a tree of arrays, as in `jaxinit.reinit`.
            apply: `apply(params, *inputs)`.
            inputs: a tuple of its inputs, one batch: examples along the first axis.
            loss: from what `apply` returns to the loss, for schemes that lower one.

        Returns:
            A tree like `params`.

        Raises:
            ValueError: the model has no kernel, or the inputs do not serve.
        """
        if self.base is not None:
            params = reinit(key, params, self.base, apply, inputs)
        return self.calibrate(key, params, apply, inputs, loss)

    def calibrate(
        self,
        key: Key,
        params: Any,
        apply: Callable[..., Any],
        inputs: Sequence[Any],
        loss: Loss | None = None,
    ) -> Any:
        """Calibrate parameters that the base has drawn.

        Args:
            key: one PRNG key.
            params: a tree of concrete or traced arrays.
            apply: as for a call.
            inputs: as for a call.
            loss: as for a call.

        Returns:
            A tree like `params`; each leaf is where it was.
        """
        made = self.made(apply, params, inputs, loss)
        new, measured = made(key, params, inputs)
        if not any(map(is_traced, jax.tree.leaves(measured))):
            made.tell(measured)
        return _where_they_were(new, params)

    def made(
        self,
        apply: Callable[..., Any],
        params: Any,
        inputs: Sequence[Any],
        loss: Loss | None = None,
    ) -> Made:
        """The calibration of a function, traced; nothing is computed.

        Args:
            apply: as for a call.
            params: as for a call, or abstract.
            inputs: as for a call, or abstract.
            loss: as for a call.

        Raises:
            ValueError: as for a call.
        """
        if not isinstance(inputs, (tuple, list)) or not inputs:
            raise TypeError(
                f"{self.name}: inputs={type(inputs).__name__} must be a tuple of the "
                "inputs of apply, such as (x,)."
            )
        if self.needs_inputs:
            check_inputs(self.name, inputs)
        if self.needs_loss and loss is None:
            raise ValueError(
                f"{self.name} lowers a loss, and none is given; call it as "
                f"{self.name}()(key, params, apply, inputs, loss), or among the "
                "schemes of compare, which knows one."
            )
        return self._make(Situation(apply, params, inputs, loss))


def check_inputs(owner: str, inputs: Sequence[Any]) -> None:
    """Raise unless inputs are a batch of several, different, finite examples.

    What is traced is taken as it comes.
    """
    arrays = [x for x in jax.tree.leaves(tuple(inputs)) if is_array(x)]
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in arrays):
        raise ValueError(
            f"{owner} looks at the inputs, and they are shapes alone; pass a batch of "
            "data, or take autoinit(), which samples its own."
        )
    concrete = [x for x in arrays if not is_traced(x)]
    for x in concrete:
        floats = jnp.issubdtype(x.dtype, jnp.inexact)
        if floats and not np.isfinite(np.asarray(x)).all():
            raise ValueError(
                f"{owner}: an input of shape {x.shape} has entries that are not "
                "finite; pass data without NaN or infinity."
            )
    batches = [x for x in concrete if len(x.shape)]
    if not batches:
        return
    if max(len(x) for x in batches) < 2:
        raise ValueError(
            f"{owner}: the inputs have one example, of which no deviation can be "
            "told; pass a batch of 32 or more."
        )
    if all(bool((np.asarray(x) == np.asarray(x)[:1]).all()) for x in batches):
        raise ValueError(
            f"{owner}: all examples of the inputs are alike, so that they say nothing "
            "of a deviation; pass a batch of data, or take autoinit()."
        )


def _where_they_were(new: Any, old: Any) -> Any:
    """Arrays put back over the devices that they were on."""

    def put(made: Any, own: Any) -> Any:
        sharding = None if is_traced(own) else getattr(own, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
            return jax.device_put(made, sharding)
        return made

    fresh, rebuild = leaves_of(new)
    pairs = zip(fresh, leaves_of(old)[0], strict=True)
    return rebuild([put(leaf.value, own.value) for leaf, own in pairs])


def _base(owner: str, name: str, value: Any) -> Scheme | None:
    if value is None:
        return None
    return _alone(owner, name, value)


Base: TypeAlias = Annotated[Any, As(_base)]
"""A scheme, its text, a list of rules or a pair; None where parameters are kept."""


class _CalibratedBuilder(Builder):
    """What is known of one calibrated scheme."""

    def __init__(
        self,
        build: Callable[..., Any],
        cites: tuple[str, ...],
        needs_inputs: bool | Callable[[Mapping[str, Any]], bool],
        needs_loss: bool,
    ) -> None:
        if "base" not in inspect.signature(build).parameters:
            raise TypeError(f"{build.__name__} must have a parameter base.")
        super().__init__(build, cites=cites)
        self.needs_inputs = needs_inputs
        self.needs_loss = needs_loss

    def make(self, arguments: dict[str, Any]) -> CalibratedScheme:
        return CalibratedScheme(self, arguments, self.build(**arguments))


def calibrated(
    *,
    cites: tuple[str, ...] = (),
    needs_inputs: bool | Callable[[Mapping[str, Any]], bool] = True,
    needs_loss: bool = False,
) -> Callable[[Callable[P, Make]], Callable[P, CalibratedScheme]]:
    """Turn a function from parameters to `make(situation)` into a scheme.

    Args:
        cites: keys of its sources in `jaxinit/references.bib`.
        needs_inputs: whether the values of inputs count; or a function of the
            scheme's arguments that says so.
        needs_loss: whether the loss counts.

    Returns:
        A decorator, which returns a function of the same parameters.
    """

    def published(build: Callable[..., Any]) -> Any:
        return _CalibratedBuilder(build, cites, needs_inputs, needs_loss).published()

    return published
