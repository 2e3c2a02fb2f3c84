"""Draw the kernels of a parameter tree by one scheme."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._initializer import Initializer
from jaxinit._types import Array, Key
from jaxinit.trace import Layer, kernels


def path_keys(key: Key, paths: Sequence[str]) -> Key:
    """A key for each path, shape (paths,), that depends on nothing else in the tree."""
    digests = [hashlib.sha256(path.encode()).digest()[:8] for path in paths]
    words = np.array([np.frombuffer(digest, ">u4") for digest in digests], np.uint32)
    fold = jax.random.fold_in
    return jax.vmap(lambda word: fold(fold(key, word[0]), word[1]))(words)


def draw_kernels(
    key: Key, params: Any, layers: Sequence[Layer], init: Initializer
) -> Any:
    """Draw every kernel of a parameter tree afresh; leave all else as it is.

    A kernel's axes are brought by its use into the order (receptive field, in, out),
    where `init` finds its fans, and back; axes over which kernels are stacked (a scan
    over layers) give independent draws. Kernels of one shape and use are drawn
    together.

    Args:
        key: one PRNG key; the leaf at a path is drawn from `path_keys(key, [path])[0]`.
        params: a tree of arrays.
        layers: what `jaxinit.trace.layers` says of the tree.
        init: the scheme.

    Returns:
        A tree like `params`.
    """
    found = kernels(layers)
    keys = path_keys(key, [layer.path for layer in found])
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, layer in enumerate(found):
        groups[_signature(layer)].append(index)
    drawn: dict[str, Array] = {}
    for members in groups.values():
        layer = found[members[0]]
        stack = jax.vmap(functools.partial(_draw, layer=layer, init=init))(
            keys[np.array(members)]
        )
        drawn.update({found[i].path: stack[n] for n, i in enumerate(members)})

    def pick(path: Any, leaf: Any) -> Any:
        return drawn.get(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(pick, params)


def _signature(layer: Layer) -> Any:
    return (
        layer.shape,
        jnp.dtype(layer.dtype),
        layer.batch_axes,
        layer.receptive_axes,
        layer.in_axes,
        layer.out_axes,
        layer.groups,
    )


def _draw(key: Key, layer: Layer, init: Initializer) -> Array:
    order = (*layer.batch_axes, *layer.receptive_axes, *layer.in_axes, *layer.out_axes)
    sizes = [layer.shape[axis] for axis in order]

    def size(axes: Sequence[int]) -> int:
        return math.prod(layer.shape[axis] for axis in axes)

    receptive = [layer.shape[axis] for axis in layer.receptive_axes]
    shape = (*receptive, size(layer.in_axes), size(layer.out_axes))
    if layer.groups > 1 and "groups" in init.arguments:
        init = init.replace(groups=layer.groups)
    stacked = size(layer.batch_axes)
    if stacked == 1:
        kernel = init(key, shape, layer.dtype)
    else:
        keys = jax.random.split(key, stacked)
        kernel = jax.vmap(lambda k: init(k, shape, layer.dtype))(keys)
    return kernel.reshape(sizes).transpose(np.argsort(order))
