"""One form for equal arguments, said by a parameter's annotation."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin

import jax
import numpy as np

from jaxinit import _checks

Convert: TypeAlias = Callable[[str, str, Any], Any]
"""`convert(owner, name, value)`: the form of a value, or one sentence of error."""


class As(NamedTuple):
    """A mark of an annotation, `Annotated[T, As(convert)]`: how its values are kept.

    Attributes:
        convert: from owner, name and value to the one form of equal values.
    """

    convert: Convert


def plain(owner: str, name: str, value: Any) -> Any:
    """Arrays of one axis and lists as tuples, arrays of none as numbers."""
    if _checks.is_traced(value):
        return value
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        value = np.asarray(value)
        if value.ndim == 0:
            return value.item()
    if not isinstance(value, (list, np.ndarray)):
        return value
    array = np.asarray(value)
    if array.ndim <= 1:
        return tuple(array.tolist()) if isinstance(value, np.ndarray) else tuple(value)
    # Of the dtype that its text would give.
    widest = {"f": np.float64, "c": np.complex128, "i": np.int64, "u": np.int64}
    array = np.array(array, widest.get(array.dtype.kind, array.dtype))
    array.setflags(write=False)
    return array


def real(owner: str, name: str, value: Any) -> Any:
    """A float, or what a program traces."""
    value = plain(owner, name, value)
    if _checks.is_traced(value):
        return value
    if not isinstance(value, (int, float)):
        raise TypeError(f"{owner}: {name}={value!r} must be a real number.")
    return float(value)


def converter(hint: Any) -> Convert:
    """How an argument of this type is kept.

    A `float` becomes one; what an `As` marks goes through its function; of a union the
    first member that says something decides, tuples apart, element by element.
    """
    if hint is float:
        return real
    if get_origin(hint) is Annotated:
        marks = [mark for mark in hint.__metadata__ if isinstance(mark, As)]
        return marks[0].convert if marks else converter(hint.__origin__)
    if get_origin(hint) not in (Union, types.UnionType):
        return plain
    members = get_args(hint)
    tuples = [get_args(m)[0] for m in members if get_origin(m) is tuple]
    singles = [m for m in members if get_origin(m) is not tuple]
    one = next((c for c in map(converter, singles) if c is not plain), plain)
    each = converter(tuples[0]) if tuples else plain

    def convert(owner: str, name: str, value: Any) -> Any:
        if value is None and types.NoneType in members:
            return None
        if each is not plain:
            value = plain(owner, name, value)
            if isinstance(value, np.ndarray):
                return value
            if isinstance(value, tuple):
                return tuple(each(owner, name, element) for element in value)
        return one(owner, name, value)

    return plain if one is each is plain else convert
