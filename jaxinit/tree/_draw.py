"""One leaf of a tree drawn by a scheme, in the sense of the layer that it is."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxinit._initializer import Initializer
from jaxinit._layout import KERNELS, Spot
from jaxinit._placement import in_place, mesh_of
from jaxinit._types import Array, Key
from jaxinit.trace import Layer


def spot_of(layer: Layer, fans: tuple[float, float] | None = None) -> Spot:
    """The layer's part in its draw, with other fans if given (those of a bias)."""
    if fans is None and layer.kind in (*KERNELS, "embedding"):
        fans = (layer.fan_in, layer.fan_out)
    return Spot(
        layer.shape,
        jnp.dtype(layer.dtype),
        layer.batch_axes,
        layer.receptive_axes,
        layer.in_axes,
        layer.out_axes,
        layer.groups,
        fans,
    )


def path_words(path: str) -> np.ndarray:
    """Two words, uint32 of shape (2,), that stand for a path."""
    digest = hashlib.sha256(path.encode()).digest()
    return np.frombuffer(digest[:8], ">u4").astype(np.uint32)


def path_key(key: Key, path: str) -> Key:
    """The key of the leaf at a path: it depends on nothing else in the tree."""
    return _fold(key, path_words(path))


def _fold(key: Key, words: Any) -> Key:
    return jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])


def draw_leaf(
    key: Key,
    path: str,
    init: Initializer,
    spot: Spot,
    sharding: NamedSharding | None = None,
) -> Array:
    """Draw a leaf by a scheme, with the fans and axes of its use.

    A scheme that fits the leaf, because it takes `fan=` or meets entries alone, draws
    it as it lies. Any other sees the kernel as (*window, in, out), once for each of the
    stacked kernels and each group, and the axes are then brought back.

    Args:
        key: the key of the whole tree.
        path: the leaf's path.
        init: the scheme.
        spot: what the leaf is.
        sharding: where it lives; each device draws its own part.

    Returns:
        The array, of the leaf's shape and dtype.
    """
    words = path_words(path)
    if init.traced:
        return _drawn(key, words, init, spot, sharding)
    with mesh_of(sharding, key):
        return _compiled(key, words, init, spot, sharding)


def _drawn(
    key: Key, words: Any, init: Initializer, spot: Spot, sharding: NamedSharding | None
) -> Array:
    key = _fold(key, words)
    whole = init.fitted(spot)
    if whole is not None:
        return whole(key, spot.shape, spot.dtype, sharding)
    return in_place(lambda key, _: _kernel_by_kernel(key, init, spot), key, sharding)


_compiled = jax.jit(_drawn, static_argnums=(2, 3, 4))


def _kernel_by_kernel(key: Key, init: Initializer, spot: Spot) -> Array:
    """The kernels of a leaf one by one, each of shape (*window, in, out)."""
    if not spot.fans:
        return init(key, spot.shape, spot.dtype)
    order = (*spot.batch_axes, *spot.receptive_axes, *spot.in_axes, *spot.out_axes)

    def size(axes: Sequence[int]) -> int:
        return math.prod(spot.shape[axis] for axis in axes)

    stack, groups = size(spot.batch_axes), spot.groups
    window = [spot.shape[axis] for axis in spot.receptive_axes]
    one = (*window, size(spot.in_axes), size(spot.out_axes) // groups)
    count = stack * groups
    if count == 1:
        kernels = init(key, one, spot.dtype)
    else:
        draw = functools.partial(init, shape=one, dtype=spot.dtype)
        kernels = jax.vmap(draw)(jax.random.split(key, count))
    kernels = jnp.moveaxis(kernels.reshape(stack, groups, *one), 1, -2)
    sizes = [spot.shape[axis] for axis in order]
    return kernels.reshape(sizes).transpose(np.argsort(order))
