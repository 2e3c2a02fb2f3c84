"""The one mechanism that turns a formula into an initializer.

A scheme is a function of its parameters that checks them and returns its formula, a
`draw(key, shape, dtype)`. Decorated with `initializer`, it returns an `Initializer`
instead: a value that can be compared, hashed, pickled, printed, parsed and called.
What every scheme needs stands here once: default dtype, low precision, empty shapes,
`out_sharding`, and errors in one sentence.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxinit import _checks
from jaxinit._layout import DEFAULTS, KERNELS, MEANINGS, Spot
from jaxinit._placement import in_place, mesh_of, named_sharding
from jaxinit._threefry import fused
from jaxinit._types import Array, Draw, Key, OutSharding, Shape
from jaxinit._value import Builder, Value, enter, has_tracer

P = ParamSpec("P")


class Initializer(Value):
    """A weight initialization scheme with its parameters: a frozen, hashable value.

    Called as `init(key, shape, dtype=None, out_sharding=None)`, positions as in
    `jax.nn.initializers`, it draws an array. `repr(init)` is a text that
    `jaxinit.parse` turns back into an equal object. As a scheme for a whole model it
    draws every kernel.

    Attributes:
        name: the scheme's name.
        arguments: a read-only mapping from parameter names to values.
    """

    __slots__ = ("_draw",)

    _draw: Draw

    def __init__(
        self, scheme: _Scheme, arguments: Mapping[str, Any], draw: Draw
    ) -> None:
        """Keep the formula, too."""
        super().__init__(scheme, arguments)
        object.__setattr__(self, "_draw", draw)

    @property
    def traced(self) -> bool:
        """Whether a parameter, or one of a scheme within, is known only at run time."""
        return has_tracer(self)

    def __call__(
        self,
        key: Key | None,
        shape: Shape | None = None,
        dtype: Any = None,
        out_sharding: OutSharding = None,
    ) -> Array:
        """Draw an array.

        Args:
            key: a PRNG key, typed or raw; schemes without randomness ignore it.
            shape: the shape of the array, known when the program is traced; must be
                given.
            dtype: dtype of the array; by default the scheme's own `dtype`, else
                JAX's default float. Below 32 bits the draw is made in float32 and
                then cast.
            out_sharding: where the array lives: a `NamedSharding`, or a
                `PartitionSpec` within `jax.set_mesh`. Each device draws its own part.

        Returns:
            The array, of that shape, dtype and sharding.
        """
        owner = self.name
        if isinstance(key, (tuple, list)):
            raise TypeError(
                f"{owner}: key={key!r} is a shape. Haiku and Keras call an initializer "
                "without a key; give them `lambda shape, dtype: init(key, shape, "
                "dtype)`, with hk.next_rng_key() for the key in Haiku."
            )
        dtype = _checked_dtype(
            owner, self._own_dtype() if dtype is None else dtype, self.inexact
        )
        shape = _checked_shape(owner, shape)
        if self.random:
            _checks.one_key(owner, key)
        if out_sharding is not None:
            return _sharded(self, key, shape, dtype, out_sharding)
        if self.traced or _checks.is_traced(key) or not self._trait("compiled"):
            return self._array(key, shape, dtype)
        return _jitted(self, key, shape, dtype)

    @property
    def random(self) -> bool:
        """Whether the draw depends on the key."""
        return self._trait("random") and all(base.random for base in self._within)

    @property
    def inexact(self) -> bool:
        """Whether the dtype must be floating or complex."""
        return self._trait("inexact") and all(base.inexact for base in self._within)

    @property
    def needs_fan(self) -> bool:
        """Whether it draws nothing without the fans of a layer."""
        if self._within:
            return any(base.needs_fan for base in self._within)
        return "fan" in self.arguments and self.arguments["fan"] is None

    def choose(self, layers: Iterable[Any]) -> dict[str, Initializer]:
        """Itself for every kernel: what it is as a scheme for a whole model.

        Args:
            layers: the model's layers, as `jaxinit.trace.layers` has them.

        Returns:
            The initializer of each kernel, by path.
        """
        return {layer.path: self for layer in layers if layer.kind in KERNELS}

    def fitted(self, spot: Spot) -> Initializer | None:
        """The scheme that draws a leaf in the leaf's own order of axes.

        Args:
            spot: what the leaf is.

        Returns:
            The scheme; None where it must see each kernel as (*window, in, out).
        """
        if self._trait("entrywise"):
            if not self._within:
                return self
            changes = {
                name: self.arguments[name].fitted(spot) for name in self._builder.within
            }
            return None if None in changes.values() else self.replace(**changes)
        if "fan" in self.arguments:
            return self if self.arguments["fan"] else self.replace(fan=spot.fans)
        fit = self._trait("fit")
        return None if fit is None else fit(self, spot)

    def _trait(self, name: str) -> Any:
        return self._builder.traits[name]

    @property
    def _within(self) -> list[Initializer]:
        """The schemes that this one is built on."""
        return [self.arguments[name] for name in self._builder.within]

    def _own_dtype(self) -> Any:
        """The scheme's dtype, or else that of the scheme it is built on."""
        dtypes = (base._own_dtype() for base in self._within)
        own = self.arguments["dtype"]
        return next(filter(None, dtypes), None) if own is None else own

    def _array(
        self,
        key: Any,
        shape: tuple[int, ...],
        dtype: np.dtype,
        sharding: NamedSharding | None = None,
    ) -> Array:
        if 0 in shape:
            return jnp.zeros(shape, dtype)
        draw: Any = self._draw
        if sharding is not None and self._trait("sharded"):
            draw = functools.partial(draw, sharding=sharding)
        key = fused(key) if self.random else None
        return _cast(draw(key, shape, _work_dtype(dtype)), dtype)


class Traits(TypedDict, total=False):
    """What a scheme says of itself, as keywords of `jaxinit.initializer`.

    Attributes:
        shown: parameters that `repr` shows even at their default: the ones on whose
            default the field does not agree.
        cites: keys of its sources in `jaxinit/references.bib`.
        random: whether the draw depends on the key.
        inexact: whether the dtype must be floating or complex.
        entrywise: whether the distribution of an entry depends on the parameters
            alone, or, for a scheme of another scheme, whether it changes the other's
            draw entry by entry. Any leaf of a model is then drawn as it lies.
        fit: `fit(init, spot)`, the scheme that draws a leaf in the leaf's own order of
            axes, or None where there is none.
        sharded: whether the draw also takes `sharding=`, a NamedSharding over Auto
            axes, and makes each device's part there; without it the compiler
            partitions the formula.
        compiled: whether a call outside of any transformation is one compiled
            program; without it, the draw runs operation by operation.
        gain: the parameter, if there is one, that multiplies the standard deviation:
            the gain of an activation takes its place.
    """

    shown: tuple[str, ...]
    cites: tuple[str, ...]
    random: bool
    inexact: bool
    entrywise: bool
    fit: Callable[[Initializer, Spot], Initializer | None] | None
    sharded: bool
    compiled: bool
    gain: str


_TRAITS: Traits = {
    "shown": (),
    "cites": (),
    "random": True,
    "inexact": True,
    "entrywise": False,
    "fit": None,
    "sharded": False,
    "compiled": True,
    "gain": "gain",
}


class _Scheme(Builder):
    """What is known of one initializer: its parameters and its traits."""

    def __init__(
        self,
        build: Callable[..., Draw],
        traits: Traits,
        like: Callable[..., Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        kind: type[Initializer] = Initializer,
    ) -> None:
        unknown = sorted(traits.keys() - _TRAITS.keys())
        if unknown:
            raise TypeError(
                f"initializer: {build.__name__} has unknown traits {unknown}; they are "
                f"{', '.join(_TRAITS)}."
            )
        self.traits: dict[str, Any] = {**_TRAITS, **traits}
        self.kind = kind
        super().__init__(
            build,
            shown=self.traits["shown"],
            cites=self.traits["cites"],
            like=like,
            defaults={**DEFAULTS, **(defaults or {})},
            meanings=MEANINGS,
        )
        if "dtype" not in self.signature.parameters:
            raise TypeError(f"{self.name}: a parameter dtype=None is missing.")

    def make(self, arguments: dict[str, Any]) -> Initializer:
        for name in self.within:
            if not isinstance(arguments[name], Initializer):
                raise TypeError(
                    f"{self.name}: {name}={arguments[name]!r} must be an initializer "
                    "of jaxinit, such as jaxinit.he_normal()."
                )
        init = self.kind(self, arguments, self.build(**arguments))
        dtype = arguments["dtype"]
        if dtype is None:
            return init
        dtype = _checked_dtype(self.name, dtype, init.inexact)
        return self.kind(self, {**arguments, "dtype": dtype}, init._draw)


@overload
def initializer(build: Callable[P, Draw], /) -> Callable[P, Initializer]: ...
@overload
def initializer(
    *, like: Callable[P, Any], defaults: Mapping[str, Any], **traits: Unpack[Traits]
) -> Callable[[Callable[..., Draw]], Callable[P, Initializer]]: ...
@overload
def initializer(
    *, defaults: Mapping[str, Any] | None = None, **traits: Unpack[Traits]
) -> Callable[[Callable[P, Draw]], Callable[P, Initializer]]: ...
def initializer(
    build: Callable[..., Draw] | None = None,
    /,
    *,
    like: Callable[..., Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **traits: Unpack[Traits],
) -> Any:
    """Turn a function from parameters to a formula into a scheme.

    The function checks its parameters and returns `draw(key, shape, dtype)`, which is
    called with shapes without zeros and with float32, float64, complex64 or
    complex128; the mechanism does the rest. It must have a parameter `dtype`. A
    parameter annotated `float`, or as a union with it, becomes a float or stays
    traced; one annotated `Initializer` is a scheme that this one is built on; one named
    `fan` gets the fans of the layer that is drawn, and one named `activation` what
    `gain="auto"` finds there. The scheme is known to `jaxinit.parse`, and so to the
    command line, by the function's name; it is pickled by the function's module and
    name.

    Args:
        build: the function, if the decorator stands without brackets.
        like: a function whose parameters are the scheme's, for schemes that share
            theirs; the scheme's own function gets all of them as keywords.
        defaults: the scheme's own defaults for keywords that stand in a
            `**keywords: Unpack[...]`.
        **traits: the keywords of `jaxinit.Traits`.

    Returns:
        A function of the same parameters that returns an `Initializer`.

    Raises:
        ValueError: the function's name is one of the library's.
        TypeError: the function has no parameter `dtype`, or a trait is unknown.

    Example:
        >>> import jax, jaxinit
        >>> @jaxinit.initializer
        ... def halves(dtype=None):
        ...     return lambda key, shape, dtype: jax.numpy.full(shape, 0.5, dtype)
        >>> jaxinit.parse("halves()")(jax.random.key(0), (2,))
        Array([0.5, 0.5], dtype=float32)
    """

    def published(build: Callable[..., Draw]) -> Any:
        return _Scheme(build, traits, like, defaults).published()

    return published if build is None else published(build)


class SelfInitializer(Initializer):
    """An initializer that is also its own builder: `zeros` and `zeros()` are one."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw an array; without arguments, return the initializer itself."""
        return super().__call__(*args, **kwargs) if args or kwargs else self


def self_initializer(build: Callable[..., Draw]) -> SelfInitializer:
    """Make a scheme without parameters usable as the initializer itself, as in JAX."""
    traits: Traits = {"random": False, "inexact": False, "entrywise": True}
    scheme = _Scheme(build, traits, kind=SelfInitializer)
    init = scheme()
    enter(scheme.name, init)
    return init


def alias(name: str, builder: Callable[P, Initializer]) -> Callable[P, Initializer]:
    """Make a scheme known to `parse` by a second name; its `repr` keeps the first."""
    enter(name, builder)
    return builder


def base_draw(init: Initializer) -> Draw:
    """The formula of the scheme that another one is built on."""
    return init._draw


def _checked_dtype(owner: str, dtype: Any, inexact: bool) -> np.dtype:
    if dtype is None:
        return jax.dtypes.canonicalize_dtype(float)
    try:
        resolved = jax.dtypes.canonicalize_dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"{owner}: dtype={dtype!r} is no dtype; use one such as 'float32'."
        ) from None
    if not resolved.isnative:
        resolved = resolved.newbyteorder("=")
    if jnp.issubdtype(resolved, jnp.floating) and not jnp.finfo(resolved).min < 0:
        raise TypeError(
            f"{owner}: dtype={resolved.name} holds neither zero nor negative numbers; "
            "draw in float32, and scale and cast that."
        )
    if inexact and not jnp.issubdtype(resolved, jnp.inexact):
        raise TypeError(
            f"{owner}: dtype={resolved.name} is neither floating nor complex; use one "
            "such as float32, bfloat16 or complex64."
        )
    return resolved


def _checked_shape(owner: str, shape: Any) -> tuple[int, ...]:
    if shape is None:
        raise TypeError(f"{owner}: shape is missing; call it as init(key, shape).")
    try:
        sizes = tuple(map(operator.index, shape))
    except (TypeError, jax.errors.TracerIntegerConversionError):
        raise TypeError(
            f"{owner}: shape={shape!r} must be a sequence of integers that are known "
            "when the program is traced."
        ) from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"{owner}: shape={sizes} has a negative size.")
    return sizes


def _work_dtype(dtype: np.dtype) -> Any:
    """The dtype of the formula: at least float32, where dtype is inexact at all."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return dtype
    return dtype if jnp.finfo(dtype).bits >= 32 else np.dtype(np.float32)


def _cast(x: Array, dtype: np.dtype) -> Array:
    """Cast to the target; the 8-bit formats, which lack infinity, saturate."""
    if x.dtype != dtype and dtype.itemsize == 1 and jnp.issubdtype(dtype, jnp.floating):
        info = jnp.finfo(dtype)
        x = jnp.clip(x, float(info.min), float(info.max))
    return x.astype(dtype)


def _placed(
    init: Initializer,
    key: Any,
    shape: Any,
    dtype: Any,
    sharding: NamedSharding | None = None,
) -> Array:
    def draw(key: Any, sharding: NamedSharding | None) -> Array:
        return init._array(key, shape, dtype, sharding)

    return in_place(draw, key, sharding)


_jitted = jax.jit(_placed, static_argnums=(0, 2, 3, 4))


def _sharded(
    init: Initializer, key: Any, shape: Any, dtype: Any, out_sharding: Any
) -> Array:
    sharding = named_sharding(init.name, out_sharding, shape)
    if init.traced:
        # A traced parameter belongs to the trace around us: no static argument.
        return _placed(init, key, shape, dtype, sharding)
    with mesh_of(sharding, key):
        return _jitted(init, key, shape, dtype, sharding)
