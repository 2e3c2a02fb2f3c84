"""Arrays drawn where they live: each device makes its own part."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinit import _checks
from jaxinit._types import Array


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


def named_sharding(owner: str, sharding: Any, shape: tuple[int, ...]) -> NamedSharding:
    """What is asked for, as a NamedSharding of that shape, or one sentence."""
    if not isinstance(sharding, (NamedSharding, PartitionSpec)):
        raise TypeError(
            f"{owner}: out_sharding={sharding!r} must be a NamedSharding or a "
            "PartitionSpec."
        )
    if isinstance(sharding, PartitionSpec):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            raise ValueError(
                f"{owner}: out_sharding={sharding} needs a mesh; call within "
                "jax.set_mesh(mesh), or pass a NamedSharding."
            )
        sharding = NamedSharding(mesh, sharding)
    if len(sharding.spec) > len(shape):
        raise ValueError(
            f"{owner}: out_sharding {sharding.spec} has more entries than shape "
            f"{shape} has axes."
        )
    return sharding
