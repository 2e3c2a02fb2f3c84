"""Bad input becomes one sentence: what came, what was expected, what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_traced(value: Any) -> bool:
    """Whether `value` is known only when the program runs."""
    return isinstance(value, Tracer)


def one_key(owner: str, key: Any) -> None:
    """Raise unless `key` is one PRNG key, typed or raw, concrete or not."""
    dtype: Any = getattr(key, "dtype", None)
    array = isinstance(key, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))
    typed = array and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and not (array and dtype == np.uint32):
        short = key is None or isinstance(key, (int, float, str, np.generic))
        said = repr(key) if short else type(key).__name__
        raise TypeError(
            f"{owner}: key={said} is no PRNG key; pass one such as jax.random.key(0)."
        )
    if key.ndim != (0 if typed else 1):
        raise ValueError(
            f"{owner}: key has shape {key.shape}, but one key is needed; use jax.vmap "
            "to draw for a batch of keys."
        )


def visible(text: str) -> str:
    r"""A text in which nothing acts on a terminal, a page or a figure.

    What has no shape of its own, such as the escape that begins a command of a
    terminal, a sign that turns the direction of writing, or half of a pair of UTF-16,
    stands there as Python writes it: `\x1b`. Lines stay lines.
    """
    return "".join(
        each
        if each.isprintable() or each == "\n"
        else each.encode("unicode_escape").decode()
        for each in text
    )


def shortened(text: str, most: int = 80) -> str:
    """A text in quotes, without its middle if it is longer than one reads."""
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-most // 3 :]}"
    return repr(text)


def choice(owner: str, name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise unless `value` is one of `choices`."""
    known = tuple(choices)
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"{owner}: {name}={value!r} is unknown; use one of {listed}.")


def number(
    owner: str, *, minimum: float | None = None, positive: bool = False, **numbers: Any
) -> None:
    """Raise unless each concrete number is finite and not below its minimum."""
    for name, value in numbers.items():
        if value is None or is_traced(value):
            continue
        if not math.isfinite(value):
            raise ValueError(f"{owner}: {name}={value!r} must be a finite number.")
        if positive and not value > 0:
            raise ValueError(f"{owner}: {name}={value!r} must be greater than zero.")
        if minimum is not None and value < minimum:
            raise ValueError(f"{owner}: {name}={value!r} must be at least {minimum:g}.")


def integer(owner: str, *, minimum: int = 1, **numbers: Any) -> None:
    """Raise unless each value is an integer of at least `minimum`."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{owner}: {name}={value!r} must be an integer.")
        if value < minimum:
            raise ValueError(f"{owner}: {name}={value!r} must be at least {minimum}.")


def interval(owner: str, lower: Any, upper: Any, names: tuple[str, str]) -> None:
    """Raise unless lower < upper, where both are concrete."""
    if is_traced(lower) or is_traced(upper):
        return
    if not lower < upper:
        low, high = names
        raise ValueError(
            f"{owner}: {low}={lower!r} must be less than {high}={upper!r}; "
            "swap or widen the bounds."
        )


def rank(owner: str, shape: Sequence[int], *, minimum: int) -> None:
    """Raise unless `shape` has at least so many axes."""
    if len(shape) < minimum:
        needed = {2: "matrices (..., in, out)", 3: "kernels (*spatial, in, out)"}
        raise ValueError(
            f"{owner}: shape {tuple(shape)} has rank {len(shape)}; it makes "
            f"{needed[minimum]} of rank {minimum} or more."
        )


def broadcasts(
    owner: str, name: str, have: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """Raise unless a value of shape `have` broadcasts to `shape`."""
    try:
        fits = np.broadcast_shapes(have, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{owner}: a {name} of shape {have} does not broadcast to shape {shape}."
        )


def axes(owner: str, **named: Any) -> None:
    """Raise unless each value is an integer or a sequence of distinct integers."""
    for name, value in named.items():
        items = (value,) if isinstance(value, int) else value
        if not isinstance(items, Sequence) or not all(
            isinstance(i, int) for i in items
        ):
            raise TypeError(
                f"{owner}: {name}={value!r} must be an integer or a tuple of integers."
            )
        if len(set(items)) != len(items):
            raise ValueError(f"{owner}: {name}={value!r} names an axis twice.")


def normalized_axes(
    owner: str, shape: Sequence[int], **named: Any
) -> tuple[tuple[int, ...], ...]:
    """Return each axis argument as non-negative axes of `shape`, or raise."""
    rank = len(shape)
    result = []
    for name, value in named.items():
        items = (value,) if isinstance(value, int) else tuple(value)
        for axis in items:
            if not -rank <= axis < rank:
                raise ValueError(
                    f"{owner}: {name}={value!r} is out of range for a kernel of shape "
                    f"{tuple(shape)}, which has {rank} axes."
                )
        normalized = tuple(axis % rank for axis in items)
        if len(set(normalized)) != len(normalized):
            raise ValueError(
                f"{owner}: {name}={value!r} names an axis of {tuple(shape)} twice."
            )
        result.append(normalized)
    return tuple(result)


def real_dtype(owner: str, dtype: Any) -> None:
    """Raise unless values of this dtype are real."""
    if np.issubdtype(dtype, np.complexfloating):
        raise TypeError(
            f"{owner}: dtype {np.dtype(dtype).name} is complex, but the values are "
            "real; pass a floating dtype."
        )
