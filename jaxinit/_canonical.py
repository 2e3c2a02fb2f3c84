"""One form for equal arguments, said by a parameter's annotation."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin

import jax
import jax.numpy as jnp
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


_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
}
"""What makes a Python number or text of one of a type within its own, such as a member
of an enumeration."""


def plain(owner: str, name: str, value: Any) -> Any:
    """Numbers, texts and tuples as Python has them, whatever they were.

    Arrays of no axis and NumPy's scalars become numbers, arrays of one axis, ranges and
    lists tuples, and arrays of more axes of the dtype that their text would give. An
    array without an element is the empty tuple, for nothing else is in it.
    """
    if _checks.is_traced(value) or isinstance(value, bool):
        return value
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return _of_array(np.asarray(value))
    if isinstance(value, (list, range)) or type(value) is tuple:
        several = isinstance(value, list) and any(
            isinstance(each, (list, tuple, np.ndarray, jax.Array)) for each in value
        )
        if several and (array := _as_numbers(list(value))) is not None:
            return _of_array(array)
        return tuple(plain(owner, name, each) for each in value)
    for base, made in _PLAIN.items():
        if isinstance(value, base) and type(value) is not base:
            return made(value)
    return value


def _as_numbers(value: list[Any]) -> np.ndarray | None:
    """Lists within a list as one array, if that is what they are."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # of several lengths, or with tracers
        return None
    return array if array.dtype == bool or _widest(array) else None


def _of_array(array: np.ndarray) -> Any:
    """An array in its one form."""
    array = array.astype(_widest(array) or array.dtype)  # of our own, row by row
    if array.ndim == 0:
        return array.item()
    if array.size == 0:
        return ()
    if array.ndim == 1 or not (array.dtype == bool or _widest(array)):
        return _as_tuples(array.tolist())
    array.setflags(write=False)
    return array


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _widest(array: np.ndarray) -> Any:
    """The dtype that the text of an array of numbers gives; None if it gives none."""
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(int).max:
        return None  # NumPy would read its text as floats
    kinds = {np.floating: float, np.complexfloating: complex, np.integer: np.int64}
    for kind, wide in kinds.items():
        if jnp.issubdtype(array.dtype, kind):  # bfloat16 and its kin, too
            return wide
    return None


def real(owner: str, name: str, value: Any) -> Any:
    """A float, or what a program traces."""
    value = plain(owner, name, value)
    if _checks.is_traced(value):
        return value
    if not isinstance(value, (int, float)):
        raise TypeError(f"{owner}: {name}={value!r} must be a real number.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{owner}: {name} is too large for a float; use a smaller number."
        ) from None


def _then_plain(convert: Convert) -> Convert:
    if convert is real:
        return real
    return lambda owner, name, value: plain(owner, name, convert(owner, name, value))


def converter(hint: Any) -> Convert:
    """How an argument of this type is kept.

    A `float` becomes one; what an `As` marks goes through its function; of a union the
    first member that says something decides, tuples apart, element by element.
    """
    if hint is float:
        return real
    if get_origin(hint) is Annotated:
        marks = [mark for mark in hint.__metadata__ if isinstance(mark, As)]
        return _then_plain(marks[0].convert) if marks else converter(hint.__origin__)
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
