"""Data as trees of arrays with one leading axis: checked, and cut into batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Tree: TypeAlias = Any
"""An array (examples, ...), or any pytree of such arrays."""


def checked(
    split: str, x: Any, y: Any, *, classes: bool, unlabelled: bool = False
) -> tuple[Tree, Tree]:
    """The arrays of a split: numbers as float32 or int32, finite, equally many.

    Lists, and whatever else NumPy takes for an array, are arrays; tuples, mappings and
    other nodes of a pytree stay what they are.

    Args:
        split: its name, for what errors say.
        x: inputs, one an example in each array.
        y: labels, likewise.
        classes: whether labels are classes, one array of integers from 0.
        unlabelled: whether labels may be None.

    Raises:
        ValueError: the trees hold no arrays, not equally many examples, or numbers
            that cannot be trained on.
    """
    unlabelled = unlabelled and y is None
    arrays = _leaves(split, "inputs", x)
    labels = {} if unlabelled else _leaves(split, "labels", y)
    (first, some), *others = (arrays | labels).items()
    for name, array in ((first, some), *others):
        if array.ndim == 0 or not len(array):
            raise ValueError(
                f"{split} {name} have shape {array.shape}; there must be one entry an "
                "example, and at least one."
            )
        if not array.size:
            raise ValueError(
                f"{split} {name} have shape {array.shape}; each example needs a number "
                "or more."
            )
    for name, array in others:
        if len(array) != len(some):
            raise ValueError(
                f"{split} {first} have {len(some)} examples and {name} {len(array)}; "
                "there must be as many in one as in the other."
            )
    if classes:
        _check_classes(split, labels)
    x = _with(x, {n: _numbers(split, n, a, held=True) for n, a in arrays.items()})
    if unlabelled:
        return x, None
    y = _with(y, {n: _numbers(split, n, a, held=False) for n, a in labels.items()})
    if classes and y.min() < 0:
        raise ValueError(
            f"{split} labels start at {y.min()}; classes are numbered from 0."
        )
    return x, y


def check_alike(ours: str, one: Tree, theirs: str, other: Tree) -> None:
    """Raise unless examples of two checked trees have one structure, shape and dtype.

    Args:
        ours: the name of the first, for the error.
        one: a tree.
        theirs: the name of the second.
        other: another tree.

    Raises:
        ValueError: they differ, and in which array.
    """
    if jax.tree.structure(one) != jax.tree.structure(other):
        raise ValueError(
            f"{ours} are {_paths(one)} and {theirs} {_paths(other)}; they must be "
            "trees of one structure."
        )
    for (path, a), b in zip(
        jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        at = jax.tree_util.keystr(path)
        if a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"{ours}{at} have shape {a.shape[1:]} each and {theirs}{at} "
                f"{b.shape[1:]}; they must be the same."
            )
        if a.dtype != b.dtype:
            raise ValueError(
                f"{ours}{at} have dtype {a.dtype} and {theirs}{at} {b.dtype}; they "
                "must be the same."
            )


def paths_of(tree: Any) -> list[str]:
    """The paths of a tree's leaves, by which schemes choose."""
    return [jax.tree_util.keystr(at) for at, _ in jax.tree.leaves_with_path(tree)]


def count(tree: Tree) -> int:
    """How many examples a tree of arrays holds."""
    return len(jax.tree.leaves(tree)[0])


def taken(tree: Tree, which: Any) -> Tree:
    """The examples at an index, a slice or an array of indices."""
    return jax.tree.map(lambda leaf: leaf[which], tree)


def on_device(tree: Tree, examples: int) -> Tree:
    """The first examples as JAX's arrays."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[:examples]), tree)


def batch_of(x: Tree, y: Tree) -> Any:
    """What an objective is given: inputs and labels, or inputs alone without any."""
    return x if y is None else (x, y)


def _is_array(node: Any) -> bool:
    return isinstance(node, list)


def _with(tree: Tree, arrays: Mapping[str, np.ndarray]) -> Tree:
    structure = jax.tree.structure(tree, is_leaf=_is_array)
    return jax.tree.unflatten(structure, list(arrays.values()))


def _paths(tree: Tree) -> str:
    """What a tree is, in words: one array, or where its arrays are."""
    paths = paths_of(tree)
    return "one array" if paths == [""] else f"arrays at {', '.join(paths)}"


def _leaves(split: str, what: str, tree: Tree) -> dict[str, np.ndarray]:
    """The arrays of a tree by name: what they are, and where they are in it."""
    found = jax.tree.leaves_with_path(tree, is_leaf=_is_array)
    if not found:
        raise ValueError(
            f"{split} {what} of type {type(tree).__name__} hold no array; an array, or "
            "a tree of arrays, is needed."
        )
    return {
        f"{what}{jax.tree_util.keystr(path)}": _array(
            f"{split} {what}{jax.tree_util.keystr(path)}", leaf
        )
        for path, leaf in found
    }


def _array(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # lists of several lengths
        array = np.empty((), object)
    if array.dtype == object:
        raise ValueError(
            f"{name} of type {type(values).__name__} are not one array of real numbers."
        )
    return array


def _check_classes(split: str, labels: Mapping[str, np.ndarray]) -> None:
    if list(labels) != ["labels"]:
        raise ValueError(
            f"{split} labels are arrays at {', '.join(labels)}; classes are one array "
            "of integers, so give a loss and a metric of your own."
        )
    (y,) = labels.values()
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{split} labels have shape {y.shape} and dtype {y.dtype}; integer classes "
            "are needed."
        )


def _numbers(split: str, name: str, array: np.ndarray, *, held: bool) -> np.ndarray:
    """Real numbers as float32; flags and integers as they are if `held`, or as int32.

    `held` are inputs, of which a device holds integers of many widths.
    """
    if array.dtype == bool:
        return array if held else array.astype(np.int32)
    if np.issubdtype(array.dtype, np.integer):
        return _integers(split, name, array, held)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{split} {name} have dtype {array.dtype}; real numbers are needed."
        )
    with np.errstate(over="ignore"):  # to infinity, which is refused below
        array = array.astype(np.float32)
    bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{split} {name} hold NaN or infinity in {bad.sum()} of {len(array)} "
            f"examples, as float32, the first at index {bad.argmax()}; clean them "
            "first."
        )
    return array


def _integers(split: str, name: str, array: np.ndarray, held: bool) -> np.ndarray:
    as_int32 = np.dtype(np.int32)
    kind = jax.dtypes.canonicalize_dtype(array.dtype) if held else as_int32
    limits = np.iinfo(kind)
    beyond = (array < limits.min) | (array > limits.max)
    if beyond.any():
        raise ValueError(
            f"{split} {name} hold {array[beyond].flat[0]}, beyond what {kind} holds; "
            "number them anew, or give real numbers as floats."
        )
    return array if held else array.astype(as_int32)
