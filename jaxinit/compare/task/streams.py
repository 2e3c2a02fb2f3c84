"""Training data that do not fit on a device: batches, as other libraries give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from jaxinit.compare.task import data

Batch: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Inputs and labels of as many examples."""


def is_stream(train: Any) -> bool:
    """Whether training data are batches to come, and not a pair of arrays."""
    if isinstance(train, (tuple, list, str, Mapping)) or hasattr(train, "shape"):
        return False
    return callable(train) or isinstance(train, Iterable)


def endless(
    source: Callable[[], Iterable[Any]] | Iterable[Any], *, classes: bool
) -> Callable[[], Iterator[Batch]]:
    """What iterates over a source's batches, over and over, each time from the first.

    Args:
        source: a function that makes an iterator of batches; or an object that can be
            iterated again and again, such as a `DataLoader` of torch or grain or a
            TensorFlow dataset by `tfds.as_numpy`. A batch is a pair (inputs, labels)
            or a mapping of two arrays, of which one is called y, label, labels or
            target. Batches of another size than the first, as the last of an epoch
            may be, are left out.
        classes: whether labels are classes.

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
                x, y = data.checked("train", *_pair(item), classes=classes)
                first = (x, y) if first is None else first
                if len(x) < len(first[0]):
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


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and len(item) == 2:
        names = set(item)
        labels = names & set(data.LABELS)
        if len(labels) == 1:
            (label,), (other,) = labels, names - labels
            return item[other], item[label]
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    said = f"with {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
    raise TypeError(
        f"make_task: train gives batches of type {type(item).__name__} {said}".rstrip()
        + "; a pair (inputs, labels), or a mapping of two arrays, one of them called "
        f"{', '.join(data.LABELS)}, is needed."
    )


def _check_same(first: Batch, batch: Batch) -> None:
    for what, a, b in zip(("inputs", "labels"), first, batch, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"make_task: train gives batches with {what} of shape {a.shape}, "
                f"{a.dtype}, and of {b.shape}, {b.dtype}; they must be the same."
            )
