"""The one mechanism that turns a formula into an initializer.

A scheme is a function of its parameters that checks them and returns its formula, a
`draw(key, shape, dtype)`. Decorated with `initializer`, it returns an `Initializer`
instead: a value that can be compared, hashed, pickled, printed, parsed and called.
What every scheme needs stands here once: default dtype, low precision, empty shapes,
`out_sharding`, and errors in one sentence.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, ParamSpec, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinit import _checks, meanfield
from jaxinit._fans import LAYOUT, Layout
from jaxinit._threefry import fused
from jaxinit._types import Array, Draw, Key, OutSharding, Shape

P = ParamSpec("P")

REGISTRY: dict[str, Callable[..., Initializer]] = {}
"""Every scheme by its name, aliases included: what `parse` may call."""


class Initializer:
    """A weight initialization scheme with its parameters: a frozen, hashable value.

    Called as `init(key, shape, dtype=None, out_sharding=None)`, positions as in
    `jax.nn.initializers`, it draws an array. `repr(init)` is a text that
    `jaxinit.parse` turns back into an equal object. Attributes: `name`, the scheme's
    name, and `arguments`, a read-only mapping from parameter names to values.
    """

    __slots__ = ("__weakref__", "_draw", "_scheme", "arguments")

    arguments: Mapping[str, Any]
    _scheme: _Scheme
    _draw: Draw

    def __init__(self, scheme: _Scheme, arguments: dict[str, Any], draw: Draw) -> None:
        object.__setattr__(self, "_scheme", scheme)
        object.__setattr__(self, "arguments", MappingProxyType(arguments))
        object.__setattr__(self, "_draw", draw)

    @property
    def name(self) -> str:
        """The scheme's name."""
        return self._scheme.name

    @property
    def traced(self) -> bool:
        """Whether a parameter, or one of a scheme within, is known only at run time."""
        return any(map(_has_tracer, self.arguments.values()))

    def replace(self, **changes: Any) -> Initializer:
        """The same scheme with some parameters changed.

        Example:
            >>> import jaxinit
            >>> jaxinit.he_normal(gain=2).replace(distribution="normal")
            he_normal(gain=2.0, distribution='normal')
        """
        return self._scheme(**{**self.arguments, **changes})

    def __call__(
        self,
        key: Key | None,
        shape: Shape,
        dtype: Any = None,
        out_sharding: OutSharding = None,
    ) -> Array:
        """Draw an array.

        Args:
            key: a PRNG key, typed or raw; schemes without randomness ignore it.
            shape: the shape of the array, known when the program is traced.
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
            _check_key(owner, key)
        if out_sharding is not None:
            return _sharded(self, key, shape, dtype, out_sharding)
        if self.traced or _checks.is_traced(key) or not self._scheme.compiled:
            return self._array(key, shape, dtype)
        return _jitted(self, key, shape, dtype)

    @property
    def random(self) -> bool:
        """Whether the draw depends on the key."""
        base = self._base
        return self._scheme.random and (base is None or base.random)

    @property
    def inexact(self) -> bool:
        """Whether the dtype must be floating or complex."""
        base = self._base
        return self._scheme.inexact and (base is None or base.inexact)

    @property
    def _base(self) -> Initializer | None:
        """The scheme that this one is built on."""
        base = self.arguments.get("init")
        return base if isinstance(base, Initializer) else None

    def _own_dtype(self) -> Any:
        """The scheme's dtype, or else that of the scheme it is built on."""
        dtype, base = self.arguments["dtype"], self._base
        return base._own_dtype() if dtype is None and base is not None else dtype

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
        if sharding is not None and self._scheme.sharded:
            draw = functools.partial(draw, sharding=sharding)
        key = fused(key) if self.random else None
        return _cast(draw(key, shape, _work_dtype(dtype)), dtype)

    def __repr__(self) -> str:
        shown = (
            f"{name}={_text(value)}"
            for name, value in self.arguments.items()
            if name in self._scheme.shown
            or _identity(value) != _identity(self._scheme.defaults.get(name, _REQUIRED))
        )
        return f"{self.name}({', '.join(shown)})"

    def _key(self) -> tuple[Any, ...]:
        return (self.name, *(_identity(value) for value in self.arguments.values()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.name, dict(self.arguments))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{self!r} is a frozen value; use .replace({name}=...) to get another one."
        )

    __delattr__ = __setattr__  # type: ignore[assignment]


class _Scheme:
    """What the mechanism knows of one scheme; called, it builds an initializer."""

    def __init__(
        self,
        build: Callable[..., Draw],
        shown: tuple[str, ...],
        random: bool,
        inexact: bool,
        sharded: bool = False,
        compiled: bool = True,
    ) -> None:
        self.name = build.__name__
        self.build = build
        self.shown = shown
        self.random = random
        self.inexact = inexact
        self.sharded = sharded
        self.compiled = compiled
        self.signature = _with_layout(inspect.signature(build))
        parameters = self.signature.parameters.values()
        self.numeric = {p.name for p in parameters if "Numeric" in str(p.annotation)}
        self.pairs = {
            p.name for p in parameters if "tuple[Numeric" in str(p.annotation)
        }
        self.defaults = {
            p.name: self._canonical(p.name, p.default)
            for p in parameters
            if p.default is not p.empty
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Initializer:
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{self.name}: {error}; its parameters are "
                f"{', '.join(self.signature.parameters)}."
            ) from None
        arguments = {
            **self.defaults,
            **{k: self._canonical(k, v) for k, v in bound.arguments.items()},
        }
        arguments = {name: arguments[name] for name in self.signature.parameters}
        init = Initializer(self, arguments, self.build(**arguments))
        if arguments["dtype"] is not None:
            arguments["dtype"] = _checked_dtype(
                self.name, arguments["dtype"], init.inexact
            )
        try:
            hash(init)
        except TypeError:
            raise TypeError(
                f"{self.name}: its parameters must be hashable, but one of {arguments} "
                "is not; use numbers, text, tuples, arrays or functions."
            ) from None
        return init

    def _canonical(self, name: str, value: Any) -> Any:
        """One form for equal values, so that equal schemes have one text."""
        if name == "activation":
            return meanfield.named(value)
        if isinstance(value, (jax.Array, np.ndarray, np.generic)):
            if _checks.is_traced(value):
                return value
            value = np.asarray(value)
            value = value.item() if value.ndim == 0 else value
        if isinstance(value, (list, np.ndarray)):
            return _frozen_array(value)
        if name in self.pairs and isinstance(value, tuple):
            return tuple(self._real(name, each) for each in value)
        if name in self.numeric and value is not None:
            return self._real(name, value)
        return value

    def _real(self, name: str, value: Any) -> Any:
        if not _checks.is_traced(value):
            if isinstance(value, (str, bytes)) or not isinstance(value, (int, float)):
                raise TypeError(f"{self.name}: {name}={value!r} must be a real number.")
            return float(value)
        return value


@overload
def initializer(build: Callable[P, Draw], /) -> Callable[P, Initializer]: ...
@overload
def initializer(
    *,
    shown: tuple[str, ...] = (),
    random: bool = True,
    inexact: bool = True,
    sharded: bool = False,
    compiled: bool = True,
) -> Callable[[Callable[P, Draw]], Callable[P, Initializer]]: ...
def initializer(
    build: Callable[..., Draw] | None = None,
    /,
    *,
    shown: tuple[str, ...] = (),
    random: bool = True,
    inexact: bool = True,
    sharded: bool = False,
    compiled: bool = True,
) -> Any:
    """Turn a function from parameters to a formula into a scheme.

    The function checks its parameters and returns `draw(key, shape, dtype)`, which is
    called with shapes without zeros and with float32, float64, complex64 or
    complex128; the mechanism does the rest. It must have a parameter `dtype`. A
    parameter annotated `Numeric` becomes a float, or stays traced; a `**layout` stands
    for the keywords of `jaxinit.Layout`. The scheme is known to `jaxinit.parse`, and so
    to the command line, by the function's name.

    Args:
        build: the function.
        shown: parameters that `repr` shows even at their default: the ones on whose
            default the field does not agree.
        random: whether the draw depends on the key.
        inexact: whether the dtype must be floating or complex.
        sharded: whether the draw also takes `sharding=`, a NamedSharding over Auto
            axes, and makes each device's part there; without it the compiler
            partitions the formula.
        compiled: whether a call outside of any transformation is one compiled
            program; without it, the draw runs operation by operation.

    Returns:
        A function of the same parameters that returns an `Initializer`.

    Example:
        >>> import jax, jaxinit
        >>> @jaxinit.initializer
        ... def halves(dtype=None):
        ...     return lambda key, shape, dtype: jax.numpy.full(shape, 0.5, dtype)
        >>> jaxinit.parse("halves()")(jax.random.key(0), (2,))
        Array([0.5, 0.5], dtype=float32)
    """
    if build is None:
        return functools.partial(
            initializer,
            shown=shown,
            random=random,
            inexact=inexact,
            sharded=sharded,
            compiled=compiled,
        )
    scheme = _Scheme(build, shown, random, inexact, sharded, compiled)
    if "dtype" not in scheme.signature.parameters:
        raise TypeError(f"{scheme.name}: an initializer needs a parameter dtype=None.")

    @functools.wraps(build)
    def builder(*args: Any, **kwargs: Any) -> Initializer:
        return scheme(*args, **kwargs)

    builder.__signature__ = scheme.signature  # type: ignore[attr-defined]
    REGISTRY[scheme.name] = builder
    return builder


class SelfInitializer(Initializer):
    """An initializer that is also its own builder: `zeros` and `zeros()` are one."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw an array; without arguments, return the initializer itself."""
        return super().__call__(*args, **kwargs) if args or kwargs else self


def self_initializer(build: Callable[..., Draw]) -> SelfInitializer:
    """Make a scheme without parameters usable as the initializer itself, as in JAX."""
    scheme = _Scheme(build, (), random=False, inexact=False)
    init = SelfInitializer(scheme, dict(scheme.defaults), build())
    REGISTRY[scheme.name] = init
    return init


def alias(name: str, builder: Callable[P, Initializer]) -> Callable[P, Initializer]:
    """Make a scheme known to `parse` by a second name; its `repr` keeps the first."""
    REGISTRY[name] = builder
    return builder


def _frozen_array(value: Any) -> Any:
    """A tuple if of one axis, else an array of the dtype that its text would give."""
    array = np.asarray(value)
    if array.ndim <= 1:
        return tuple(array.tolist()) if isinstance(value, np.ndarray) else tuple(value)
    widest = {"f": np.float64, "c": np.complex128, "i": np.int64, "u": np.int64}
    array = np.array(array, widest.get(array.dtype.kind, array.dtype))
    array.setflags(write=False)
    return array


def _with_layout(signature: inspect.Signature) -> inspect.Signature:
    """Replace a final `**layout` by the parameters that it stands for."""
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(kept) < len(signature.parameters):
        kept += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Layout.__annotations__[name].__forward_arg__,
            )
            for name, default in LAYOUT.items()
        ]
    return signature.replace(parameters=kept)


def _rebuild(name: str, arguments: dict[str, Any]) -> Initializer:
    scheme = REGISTRY[name]
    return scheme if isinstance(scheme, Initializer) else scheme(**arguments)


def _checked_dtype(owner: str, dtype: Any, inexact: bool) -> np.dtype:
    if dtype is None:
        return jax.dtypes.canonicalize_dtype(float)
    try:
        resolved = jax.dtypes.canonicalize_dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"{owner}: dtype={dtype!r} is no dtype; use one such as 'float32'."
        ) from None
    if inexact and not jnp.issubdtype(resolved, jnp.inexact):
        raise TypeError(
            f"{owner}: dtype={resolved.name} is neither floating nor complex; use one "
            "such as float32, bfloat16 or complex64."
        )
    return resolved


def _checked_shape(owner: str, shape: Any) -> tuple[int, ...]:
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


def _check_key(owner: str, key: Any) -> None:
    """Raise unless `key` is one PRNG key, typed or raw."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(
        key.dtype, jax.dtypes.prng_key
    )
    raw = isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32
    if not typed and not raw:
        raise TypeError(
            f"{owner}: key={key!r} is no PRNG key; pass one such as jax.random.key(0)."
        )
    if cast(Array, key).ndim != (0 if typed else 1):
        raise ValueError(
            f"{owner}: key has shape {cast(Array, key).shape}, but one key is needed; "
            "use jax.vmap to draw for a batch of keys."
        )


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


def mesh_of(sharding: NamedSharding | None, key: Any) -> AbstractContextManager[Any]:
    """The mesh as context, which programs over Explicit axes need."""
    if sharding is None or _checks.is_traced(key) or not _explicit_axes(sharding):
        return nullcontext()
    mesh = sharding.mesh
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else nullcontext()


def _explicit_axes(sharding: NamedSharding) -> tuple[Any, ...]:
    kinds = zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True)
    return tuple(n for n, kind in kinds if kind == jax.sharding.AxisType.Explicit)


def in_place(
    draw: Callable[[Any, NamedSharding | None], Array],
    key: Any,
    sharding: NamedSharding | None,
) -> Array:
    """`draw(key, sharding)`, its result on that sharding; within, all axes are Auto."""
    if sharding is None:
        return draw(key, None)
    explicit = _explicit_axes(sharding)
    if not explicit:
        return jax.lax.with_sharding_constraint(draw(key, sharding), sharding)

    def in_auto_axes(key: Any) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        return draw(key, NamedSharding(mesh, sharding.spec))

    auto = jax.sharding.auto_axes(in_auto_axes, axes=explicit, out_sharding=sharding)
    return cast(Array, auto(key))


_jitted = jax.jit(_placed, static_argnums=(0, 2, 3, 4))


def _sharded(
    init: Initializer, key: Any, shape: Any, dtype: Any, out_sharding: Any
) -> Array:
    sharding = _named_sharding(init.name, out_sharding)
    if len(sharding.spec) > len(shape):
        raise ValueError(
            f"{init.name}: out_sharding {sharding.spec} has more entries than shape "
            f"{shape} has axes."
        )
    if init.traced:
        # A traced parameter belongs to the trace around us: no static argument.
        return _placed(init, key, shape, dtype, sharding)
    with mesh_of(sharding, key):
        return _jitted(init, key, shape, dtype, sharding)


def _named_sharding(owner: str, sharding: Any) -> NamedSharding:
    if isinstance(sharding, NamedSharding):
        return sharding
    if not isinstance(sharding, PartitionSpec):
        raise TypeError(
            f"{owner}: out_sharding={sharding!r} must be a NamedSharding or a "
            "PartitionSpec."
        )
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise ValueError(
            f"{owner}: out_sharding={sharding} needs a mesh; call within "
            "jax.set_mesh(mesh), or pass a NamedSharding."
        )
    return NamedSharding(mesh, sharding)


_REQUIRED = object()


def _has_tracer(value: Any) -> bool:
    if isinstance(value, Initializer):
        return value.traced
    if isinstance(value, tuple):
        return any(map(_has_tracer, value))
    return _checks.is_traced(value)


def _identity(value: Any) -> Any:
    """A hashable that is equal for equal parameters."""
    if _checks.is_traced(value):
        return ("traced", id(value))
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.name, value.shape, value.tobytes())
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return (type(value).__name__, value)


def _text(value: Any) -> str:
    if _checks.is_traced(value):
        return "<traced>"
    if isinstance(value, np.dtype):
        return repr(value.name)
    if isinstance(value, np.ndarray):
        return repr(value.tolist())
    return repr(value)
