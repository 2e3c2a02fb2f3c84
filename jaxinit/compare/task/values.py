"""Digests of Python values and functions, the same in every process and on every day.

A digest covers what decides a value's behaviour: numbers and arrays by their bits,
functions by their bytecode and all that it refers to. It leaves out addresses, source
positions, comments, annotations, and the names of local variables.
"""

from __future__ import annotations

import bisect
import contextlib
import dis
import enum
import functools
import hashlib
import inspect
import os
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks

SAMPLED = 2**26
"""Bytes above which an array that no program holds is digested by a sample of rows."""

DEEPEST = 100
"""Values within values that are looked into."""

_PLAIN = frozenset({type(None), type(...), bool, int, float, complex, str, bytes})

_IDLE = frozenset(
    {"CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "MAKE_CELL", "NOP", "RESUME"}
)
"""Instructions without an effect of their own, or whose order is that of names."""

_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")

_UNSEEN = frozenset(
    {
        "__abstractmethods__",
        "__annotations__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__match_args__",
        "__module__",
        "__qualname__",
        "__slots__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)
"""What a class has besides what its instances do."""

_POSITIONS = ("DebugInfo", "NameAndSrcInfo", "SourceInfo", "Traceback")
"""Types that say where in the source something stands."""

_INSTALLED = tuple(
    os.path.join(sysconfig.get_path(name), "")
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
"""Where packages are."""

_GROUND = ("", "jaxinit", "jax", "jaxlib", "numpy")
"""Packages that jaxinit's own schemes are made of."""

_HEAP_TYPE = 1 << 9
"""The flag of a class that Python code has made."""


def hashed(kind: str, *parts: bytes) -> bytes:
    """The digest of a kind and of the digests of its parts, 16 bytes."""
    return hashlib.sha256(b"\0".join((kind.encode(), b"".join(parts)))).digest()[:16]


def name_of(function: Any) -> str:
    """What a user calls a function; its type for an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


class Digests:
    """Digests of values, each value looked at once.

    `of_kind` says how a value of a type, or of a subtype, is taken apart; whoever knows
    further types registers them.

    Attributes:
        own: whether a function or class was met that is none of jaxinit's, nor of the
            packages that it is made of.
    """

    def __init__(self, sampled: float = SAMPLED) -> None:
        """Without anything seen yet.

        Args:
            sampled: bytes above which an array is digested by a sample of its rows.
        """
        self.sampled = sampled
        self.own = False
        self._known: dict[int, tuple[Any, bytes]] = {}
        self._within: dict[int, int] = {}

    def of(self, value: Any) -> bytes:
        """The digest of a value, 16 bytes."""
        kind = type(value)
        if kind in _PLAIN:
            return hashed(kind.__name__, repr(value).encode())
        if kind is tuple:
            if all(type(each) in _PLAIN for each in value):
                return hashed("plain", repr(value).encode())
            return hashed("tuple", *map(self.of, value))
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if len(self._within) > DEEPEST:
            return hashed("deep", kind.__name__.encode())
        if id(value) in self._within:  # it refers to itself: how far up it stands
            up = len(self._within) - self._within[id(value)]
            return hashed("itself", str(up).encode())
        self._within[id(value)] = len(self._within)
        try:
            digest = of_kind(value, self)
        finally:
            del self._within[id(value)]
        self._known[id(value)] = value, digest  # kept, so that no other gets its id
        return digest

    def all_of(self, kind: str, *values: Any) -> bytes:
        """The digest of a kind of value with these parts."""
        return hashed(kind, *map(self.of, values))


@functools.singledispatch
def of_kind(value: Any, digests: Digests) -> bytes:
    """The digest of a value of a type that has no rule of its own."""
    kind = type(value)
    if kind.__name__ in _POSITIONS:
        return hashed("position")
    try:
        what, *parts = _taken_apart(value)
    except Exception:  # whatever a type raises that cannot be taken apart
        return digests.all_of("opaque", kind)
    return digests.all_of(what, kind, *parts)


def _taken_apart(value: Any) -> tuple[Any, ...]:
    """What sort of thing a value is, and its parts."""
    if callable(getattr(value, "__array__", None)):
        with contextlib.suppress(Exception):  # keys within have no such form
            return "arraylike", np.asarray(value)
    state = _state(value)
    if (wrapped := getattr(value, "__wrapped__", None)) is not None:
        state["wrapped"] = wrapped  # by a jitted function, or one with a cache
    if state:
        return "object", state
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if isinstance(name, str):  # a function of another language
        owner = getattr(value, "__self__", None)
        owner = None if isinstance(owner, types.ModuleType) else owner
        return "named", _home(value), name, owner
    made = value.__reduce_ex__(4)
    return "reduced", *(made if isinstance(made, tuple) else ())


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, but those that it makes of others when asked."""
    kind = type(value)
    slots = [n for base in kind.__mro__ for n in _texts(vars(base).get("__slots__"))]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    found.update(getattr(value, "__dict__", {}))
    made = functools.cached_property
    return {
        name: each
        for name, each in found.items()
        if not (name.startswith("__") or isinstance(getattr(kind, name, None), made))
    }


def _texts(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots or ())


@of_kind.register(tuple)
@of_kind.register(list)
def _(value: Any, digests: Digests) -> bytes:
    if type(value) is list and all(type(each) in _PLAIN for each in value):
        return hashed("plain list", repr(value).encode())
    return digests.all_of("sequence", type(value), *value)


@of_kind.register(Mapping)
def _(value: Mapping[Any, Any], digests: Digests) -> bytes:
    return hashed("mapping", *sorted(digests.all_of("item", *i) for i in value.items()))


@of_kind.register(set)
@of_kind.register(frozenset)
def _(value: Iterable[Any], digests: Digests) -> bytes:
    return hashed("set", *sorted(map(digests.of, value)))


@of_kind.register(enum.Enum)
def _(value: enum.Enum, digests: Digests) -> bytes:
    return digests.all_of("enum", type(value).__qualname__, value.name)


@of_kind.register(np.dtype)
def _(value: np.dtype, digests: Digests) -> bytes:
    return digests.all_of("dtype", value.name if value.fields is None else str(value))


@of_kind.register(np.ndarray)
@of_kind.register(np.generic)
def _(value: Any, digests: Digests) -> bytes:
    array = np.asarray(value)
    about = digests.all_of("array", array.dtype, array.shape)
    if array.dtype.hasobject:
        return hashed("objects", about, digests.of(array.tolist()))
    if array.nbytes > digests.sampled and array.ndim:
        array = array[:: -(-array.nbytes // int(digests.sampled))]
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashed("array", about, hashlib.sha256(content.data).digest())


@of_kind.register(jax.Array)
def _(value: jax.Array, digests: Digests) -> bytes:
    if _checks.is_traced(value):
        return digests.all_of("traced", str(jax.typeof(value)))
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = np.asarray(jax.random.key_data(value))
        return digests.all_of("keys", str(value.dtype), data)
    return digests.of(np.asarray(value))


@of_kind.register(weakref.ref)
def _(value: weakref.ref, digests: Digests) -> bytes:
    return digests.of(value())


@of_kind.register(functools.partial)
def _(value: functools.partial, digests: Digests) -> bytes:
    return digests.all_of("partial", value.func, value.args, value.keywords)


@of_kind.register(types.MethodType)
def _(value: types.MethodType, digests: Digests) -> bytes:
    return digests.all_of("method", value.__func__, value.__self__)


@of_kind.register(staticmethod)
@of_kind.register(classmethod)
def _(value: Any, digests: Digests) -> bytes:
    return digests.all_of("method", type(value).__name__, value.__func__)


@of_kind.register(property)
def _(value: property, digests: Digests) -> bytes:
    return digests.all_of("property", value.fget, value.fset, value.fdel)


@of_kind.register(types.ModuleType)
def _(value: types.ModuleType, digests: Digests) -> bytes:
    return digests.all_of("module", value.__name__, _version(value.__name__))


@of_kind.register(type)
def _(value: type, digests: Digests) -> bytes:
    digests.own |= _is_own(value)
    if _installed(value):
        return digests.all_of("class", _home(value), value.__qualname__)
    members = {
        name: member
        for name, member in vars(value).items()
        if name not in _UNSEEN
        and not isinstance(member, (types.MemberDescriptorType, str))
    }
    return digests.all_of("class", value.__name__, value.__bases__, members)


@of_kind.register(types.FunctionType)
def _(value: types.FunctionType, digests: Digests) -> bytes:
    cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    closed = {name: cell for name, cell in cells}
    digests.own |= _is_own(value)
    if _installed(value):
        contents = list(map(_content, closed.values()))
        name = value.__qualname__
        return digests.all_of("function", _home(value), name, contents)
    outside = {name: digests.of(_content(cell)) for name, cell in closed.items()}
    code = _code(value.__code__, outside, value.__globals__, digests)
    given = digests.all_of("defaults", value.__defaults__, value.__kwdefaults__)
    return hashed("function", code, given)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "an empty cell"


def _installed(value: Any) -> bool:
    """Whether a function or class is a package's, known by its name and version."""
    module = getattr(value, "__module__", None)
    if module in (None, "builtins"):  # of C, or of no module
        made_here = isinstance(value, type) and value.__flags__ & _HEAP_TYPE
        return not (made_here or isinstance(value, types.FunctionType))
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module in sys.modules and top in sys.stdlib_module_names
    return top == "jaxinit" or file.startswith(_INSTALLED)


def _is_own(value: Any) -> bool:
    """Whether a function or class is of no package that jaxinit is made of."""
    top = (getattr(value, "__module__", None) or "").partition(".")[0]
    return not _installed(value) or not (
        top in _GROUND or top in sys.stdlib_module_names
    )


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))


def _home(value: Any) -> tuple[str, str]:
    """The module of a function or class of a package, and its version."""
    module = getattr(value, "__module__", None) or ""
    return module, _version(module)


def _code(
    code: types.CodeType,
    outside: Mapping[str, bytes],
    scope: Mapping[str, Any],
    digests: Digests,
) -> bytes:
    """The digest of what a function does.

    Args:
        code: the function's.
        outside: digests of the variables that it closes over, by name.
        scope: the variables of its module.
        digests: of values.
    """
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
    named = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    kept = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR
    kept |= inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    about = digests.all_of("code", counts, tuple(named), code.co_flags & kept)
    places = {name: place for place, name in enumerate(code.co_varnames[: sum(counts)])}

    def variable(name: str) -> bytes:
        if name in outside:
            return outside[name]
        return digests.all_of("local", places.setdefault(name, len(places)))

    steps = [i for i in dis.get_instructions(code) if i.opname not in _IDLE]
    for at, step in reversed(list(enumerate(steps))):
        if step.opname == "STORE_NAME" and step.argval in _UNSEEN:
            del steps[at - 1 : at + 1]  # what a class says of itself, as its line
    offsets = [step.offset for step in steps]
    parts = list(_steps(steps, offsets, variable, scope, digests))
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]
        bounds = (entry.start, entry.end, entry.target)
        places_of = [bisect.bisect_left(offsets, at) for at in bounds]
        parts.append(digests.all_of("except", *places_of, entry.depth, entry.lasti))
    return hashed("code", about, *parts)


def _steps(
    steps: list[dis.Instruction],
    offsets: list[int],
    variable: Callable[[str], bytes],
    scope: Mapping[str, Any],
    digests: Digests,
) -> Iterator[bytes]:
    """The digest of each instruction; what is read of a module is followed to it."""
    at = 0
    while at < len(steps):
        step = steps[at]
        at += 1
        name, argument = step.opname, step.argval
        if name == "LOAD_GLOBAL":
            value = _looked_up(argument, scope)
            while (
                isinstance(value, types.ModuleType)
                and at < len(steps)
                and steps[at].opname in _ATTRIBUTES
                and hasattr(value, steps[at].argval)
            ):
                value = getattr(value, steps[at].argval)
                at += 1
            yield digests.all_of("global", value)
        elif isinstance(argument, types.CodeType):
            inner = {free: variable(free) for free in argument.co_freevars}
            yield _code(argument, inner, scope, digests)
        elif step.opcode in (*dis.hasfree, *dis.haslocal) or "_FAST" in name:
            names = argument if isinstance(argument, tuple) else (argument,)
            yield hashed(name, *map(variable, names))
        elif step.opcode in (*dis.hasjrel, *dis.hasjabs):
            yield digests.all_of(name, bisect.bisect_left(offsets, argument))
        else:
            yield digests.all_of(name, argument)


def _looked_up(name: str, scope: Mapping[str, Any]) -> Any:
    """What a name of a module, or else of Python's own, stands for."""
    builtins = scope.get("__builtins__", {})
    builtins = builtins if isinstance(builtins, dict) else vars(builtins)
    return scope.get(name, builtins.get(name, ("no value", name)))
