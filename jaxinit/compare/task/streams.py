"""Training data that do not fit on a device: batches, as other libraries give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax

from jaxinit.compare.task import data, trees

Batch: TypeAlias = tuple[trees.Tree, trees.Tree]
"""Inputs and labels of as many examples; no labels are None."""


def is_stream(train: Any) -> bool:
    """Whether training data are batches to come, and not arrays or a tree of them."""
    if isinstance(train, (tuple, list, str, Mapping)) or hasattr(train, "shape"):
        return False
    if not jax.tree_util.all_leaves([train]):
        return False  # a dataclass that is a pytree
    return callable(train) or isinstance(train, Iterable)


def endless(
    source: Callable[[], Iterable[Any]] | Iterable[Any],
    *,
    classes: bool,
    unlabelled: bool = False,
) -> Callable[[], Iterator[Batch]]:
    """What iterates over a source's batches, over and over, each time from the first.

    Args:
        source: a function that makes an iterator of batches; or an object that can be
            iterated again and again, such as a `DataLoader` of torch or grain or a
            TensorFlow dataset by `tfds.as_numpy`. A batch is a pair (inputs, labels)
            or a mapping, in which labels are what is called y, label, labels, class
            or target, and all else are the inputs: one array, or several by name.
            Batches of another size than the first, as the last of an epoch may be,
            are left out.
        classes: whether labels are classes.
        unlabelled: whether a batch may be any tree, of inputs alone.

    Returns:
        A function that makes the iterator, whose batches are checked.

    Raises:
        TypeError: the source can be read only once, or a batch has another form.
        ValueError: it has no batch, or one that cannot be trained on.
    """
    if isinstance(source, Iterator):
        raise TypeError(
            f"make_task: train of type {type(source).__name__} can be read only once, "
            "but each part of a sweep reads the batches anew; give a function that "
            "makes the iterator."
        )

    def batches() -> Iterator[Batch]:
        first = None
        while True:
            full = 0
            for item in source() if callable(source) else source:
                pair = _pair(item, unlabelled)
                x, y = trees.checked(
                    "train", *pair, classes=classes, unlabelled=unlabelled
                )
                first = (x, y) if first is None else first
                if trees.count(x) < trees.count(first[0]):
                    continue
                _check_same(first, (x, y))
                full += 1
                yield x, y
            if not full:
                raise ValueError(
                    "make_task: train gives no batch; a stream must have one or more, "
                    "each time that it is read."
                )

    return batches


def _pair(item: Any, unlabelled: bool) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and len(item) > 1:
        labels = set(item) & set(data.LABELS)
        if len(labels) == 1:
            (label,) = labels
            others = {name: item[name] for name in item if name != label}
            alone = next(iter(others.values())) if len(others) == 1 else others
            return alone, item[label]
    kinds = {type(item)} if unlabelled else set(type(item).__mro__)
    if kinds & {tuple, list} and len(item) == 2:
        return item[0], item[1]
    if unlabelled:
        return item, None
    said = f"with {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
    raise TypeError(
        f"make_task: train gives batches of type {type(item).__name__} {said}".rstrip()
        + "; a pair (inputs, labels), or a mapping in which one of "
        f"{', '.join(data.LABELS)} is beside the inputs, is needed."
    )


def _check_same(first: Batch, batch: Batch) -> None:
    for what, one, other in zip(("inputs", "labels"), first, batch, strict=True):
        name = f"make_task: train gives batches of which some {what}"
        trees.check_alike(name, one, "others", other)
        if one is not None and trees.count(one) != trees.count(other):
            raise ValueError(
                f"make_task: train gives batches of {trees.count(one)} and of "
                f"{trees.count(other)} examples; only the last may be smaller."
            )
