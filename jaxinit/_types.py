"""Aliases that every room shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit._canonical import As, real

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""A PRNG key: typed (`jax.random.key`) or raw uint32 (`jax.random.PRNGKey`)."""
Shape: TypeAlias = Sequence[int]
DType: TypeAlias = Any
Axis: TypeAlias = int | Sequence[int]
OutSharding: TypeAlias = NamedSharding | PartitionSpec | None

Numeric: TypeAlias = Annotated[Any, As(real)]
"""A real number that may be traced: a float, a 0-d array or a tracer."""

Draw: TypeAlias = Callable[[Any, tuple[int, ...], Any], Array]
"""`draw(key, shape, dtype)`: a scheme's formula, with float32 or wider work dtype."""

Mode: TypeAlias = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution: TypeAlias = Literal["truncated_normal", "normal", "uniform"]


def is_array(leaf: Any) -> bool:
    """Whether it is an array or the shape of one: no flag, no type as `jnp.float32`."""
    is_like = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return is_like and not isinstance(leaf, (type, np.bool_))
