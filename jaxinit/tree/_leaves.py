"""One face for every container of parameters: its leaves, their paths, their boxes.

Flax keeps an array with its metadata in a box, Linen in `Partitioned` and its kin, NNX
in a `Variable`. A box is one leaf here, at the path of the box, and what is put back
stays in its box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxinit._types import is_array


class Leaf(NamedTuple):
    """One array of a tree of parameters.

    Attributes:
        path: `keystr(path, simple=True, separator="/")`, that of the box if boxed.
        value: the array, concrete or a `jax.ShapeDtypeStruct`.
        names: what the box calls its axes: names of axes of a mesh, or logical ones.
    """

    path: str
    value: Any
    names: tuple[Any, ...] | None = None

    @property
    def abstract(self) -> bool:
        """Whether there is a shape alone, and no values to keep."""
        return isinstance(self.value, jax.ShapeDtypeStruct)


def leaves_of(params: Any) -> tuple[list[Leaf], Callable[[Sequence[Any]], Any]]:
    """The array leaves of a tree, and the way back from as many values.

    Args:
        params: a pytree of arrays or `jax.ShapeDtypeStruct`s, boxed or not; what is no
            array stays as it is.

    Returns:
        The leaves in the order of the pytree, and `rebuild(values)`.

    Raises:
        TypeError: there is no array in it.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_box)
    leaves: list[Leaf] = []
    places: dict[int, Any] = {}
    for place, (path, item) in enumerate(flat):
        inside, box = jax.tree_util.tree_flatten(item)
        if len(inside) == 1 and is_array(inside[0]):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            leaves.append(Leaf(name, inside[0], _names(item)))
            places[place] = box
    if not leaves:
        raise TypeError(
            "params holds no arrays; pass a pytree of arrays or ShapeDtypeStructs, "
            "for instance the result of jax.eval_shape(model.init, key, x)."
        )

    def rebuild(values: Sequence[Any]) -> Any:
        items = [item for _, item in flat]
        for (place, box), value in zip(places.items(), values, strict=True):
            items[place] = jax.tree_util.tree_unflatten(box, [value])
        return jax.tree_util.tree_unflatten(tree, items)

    return leaves, rebuild


def _is_box(item: Any) -> bool:
    """Whether it is one of Linen's metadata boxes, or a variable of NNX."""
    return hasattr(item, "replace_boxed") or hasattr(item, "get_metadata")


def _names(item: Any) -> tuple[Any, ...] | None:
    if hasattr(item, "get_metadata"):
        return item.get_metadata().get("out_sharding")
    return getattr(item, "names", None) if _is_box(item) else None
