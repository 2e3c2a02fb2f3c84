"""What each leaf of a tree is: by its use, or by its name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from jaxinit._types import is_array
from jaxinit.trace import Layer, layers
from jaxinit.tree._leaves import Leaf


def layers_of(
    leaves: Sequence[Leaf],
    params: Any,
    apply: Callable[..., Any] | None,
    inputs: Sequence[Any],
) -> list[Layer]:
    """What each leaf is, in the order of the leaves: by its use, or by its name."""
    if apply is None:
        return [_by_name(leaf) for leaf in leaves]
    arrays = jax.tree_util.tree_leaves_with_path(params)
    raw = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in arrays
        if is_array(leaf)
    ]
    clean = dict(zip(raw, (leaf.path for leaf in leaves), strict=True))

    def named(layer: Layer) -> Layer:
        def others(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(clean[path] for path in paths)

        return replace(
            layer,
            path=clean[layer.path],
            feeds=others(layer.feeds),
            acts_on=others(layer.acts_on),
            ends=others(layer.ends),
        )

    return [named(layer) for layer in layers(apply, params, *inputs)]


_EMBEDDINGS = {"embedding", "embeddings", "embed", "wte", "wpe"}
_BIASES = {"bias", "b", "offset", "beta"}
_SCALES = {"scale", "gamma", "g"}
_KERNELS = {"kernel", "w", "recurrent_kernel"}


def _by_name(leaf: Leaf) -> Layer:
    """What a leaf is by the conventions of names and shapes.

    Flax and Haiku keep kernels as (*window, in, out), Equinox and torch keep a
    `weight` as (out, in, *window).
    """
    shape = tuple(leaf.value.shape)
    name = re.split(r"[/.]", leaf.path)[-1]
    head = {"path": leaf.path, "shape": shape, "dtype": leaf.value.dtype}
    rank = len(shape)
    if name in _EMBEDDINGS and rank == 2:
        fans = {"fan_in": 1.0, "fan_out": float(shape[1])}
        return Layer("embedding", in_axes=(0,), out_axes=(1,), **fans, **head)
    if name in _BIASES:
        return Layer("bias", out_axes=tuple(range(rank)), fan_in=1, fan_out=1, **head)
    if name in _SCALES or (name == "weight" and rank < 2):
        return Layer("scale", out_axes=tuple(range(rank)), fan_in=1, fan_out=1, **head)
    if rank >= 2 and (name in _KERNELS or name.startswith("weight")):
        first = name.startswith("weight")
        in_axis, out_axis = (1, 0) if first else (rank - 2, rank - 1)
        window = tuple(a for a in range(rank) if a not in (in_axis, out_axis))
        field = math.prod(shape[axis] for axis in window)
        return Layer(
            "conv" if window else "dense",
            in_axes=(in_axis,),
            out_axes=(out_axis,),
            receptive_axes=window,
            fan_in=float(shape[in_axis] * field),
            fan_out=float(shape[out_axis] * field),
            **head,
        )
    reason = "Its name says no role; pass apply= and inputs=, that its use may tell."
    return Layer("unknown", reason=reason, **head)
