"""What is learned: a model, its data, and when it counts as learned."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen
from sklearn.datasets import load_digits

from jaxinit import _checks, meanfield
from jaxinit.compare.devices import use_all_cores
from jaxinit.compare.models import Model, as_model


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A classification task: model and data, split into training and validation.

    Attributes:
        name: the task's text, by which results name it.
        model: the model; see `as_model`.
        x_train: training inputs, shape (n, ...), float32.
        y_train: training labels, shape (n,), int32, from 0 to classes - 1.
        x_valid: validation inputs, shape (m, ...).
        y_valid: validation labels, shape (m,).
        target: validation accuracy in (0, 1] at which a run has converged.
    """

    name: str
    model: Model
    x_train: np.ndarray
    y_train: np.ndarray
    x_valid: np.ndarray
    y_valid: np.ndarray
    target: float

    @functools.cached_property
    def fingerprint(self) -> str:
        """A text that differs where name, data or the model's parameters differ."""
        digest = hashlib.sha256(self.name.encode())
        for array in (self.x_train, self.y_train, self.x_valid, self.y_valid):
            digest.update(repr((array.shape, array.dtype)).encode())
            digest.update(array.tobytes())
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), self.x_train[:1])
        leaves = jax.tree_util.tree_leaves_with_path(shapes)
        digest.update(repr([(jax.tree_util.keystr(p), s) for p, s in leaves]).encode())
        return digest.hexdigest()[:16]


def make_task(
    model: Any,
    train: tuple[Any, Any],
    valid: tuple[Any, Any],
    *,
    target: float,
    name: str = "custom",
) -> Task:
    """A task from one's own model and data.

    Args:
        model: a Linen or NNX module, a function from `nnx.Rngs` to an NNX module, or
            a pair `(init, apply)`; it maps inputs (batch, ...) to logits
            (batch, classes).
        train: `(inputs, labels)`, arrays of equal length; labels are integers from 0.
        valid: the same, for validation.
        target: validation accuracy in (0, 1] at which a run counts as converged.
        name: the name that results carry.

    Returns:
        A `Task` for `jaxinit.compare.compare`.

    Raises:
        ValueError: lengths differ, inputs hold NaN or infinity, labels are out of
            range, or the model's outputs do not fit the labels.

    Example:
        >>> import numpy as np
        >>> from flax import linen as nn
        >>> x, y = np.eye(4, dtype=np.float32), np.arange(4)
        >>> make_task(nn.Dense(4), (x, y), (x, y), target=0.9).name
        'custom'
    """
    use_all_cores()
    if not 0 < target <= 1:
        raise ValueError(f"target={target!r} must be an accuracy in (0, 1].")
    x_train, y_train = _checked_split("train", *train)
    x_valid, y_valid = _checked_split("valid", *valid)
    if x_train.shape[1:] != x_valid.shape[1:]:
        raise ValueError(
            f"train inputs have shape {x_train.shape[1:]} each and valid inputs "
            f"{x_valid.shape[1:]}; they must be the same."
        )
    task = Task(name, as_model(model), x_train, y_train, x_valid, y_valid, target)
    _check_outputs(task)
    return task


def _checked_split(split: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if not len(x) == len(y) > 0:
        raise ValueError(
            f"{split} has {len(x)} inputs and {len(y)} labels; there must be as many "
            "of one as of the other, and at least one."
        )
    if np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32)
        bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{split} inputs hold NaN or infinity in {bad.sum()} of {len(x)} "
                f"examples, the first at index {bad.argmax()}; clean them first."
            )
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{split} labels have shape {y.shape} and dtype {y.dtype}; a vector of "
            "integer classes is needed."
        )
    if y.min() < 0:
        raise ValueError(
            f"{split} labels start at {y.min()}; classes are numbered from 0."
        )
    return x, y.astype(np.int32)


def _check_outputs(task: Task) -> None:
    key, x = jax.random.key(0), task.x_train[:2]

    def outputs(key: Any) -> Any:
        params, state = task.model.init(key, x)
        return task.model.apply(params, state, x, key, False)[0]

    shape = jax.eval_shape(outputs, key).shape
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(
            f"the model maps 2 inputs to shape {shape}; logits of shape (2, classes) "
            "are needed."
        )
    highest = max(task.y_train.max(), task.y_valid.max())
    if highest >= shape[1]:
        raise ValueError(
            f"labels reach {highest}, but the model has {shape[1]} outputs, so labels "
            f"from 0 to {shape[1] - 1} are in range."
        )


ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    name: meanfield.ACTIVATIONS[name]
    for name in ("relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "softplus")
}
"""Activations that built-in tasks offer by name."""


class MLP(linen.Module):
    """A plain multilayer perceptron: no normalisation, no shortcuts.

    Attributes:
        depth: number of hidden layers.
        width: units in each.
        classes: number of outputs.
        activation: name of the activation after each hidden layer.
    """

    depth: int
    width: int
    classes: int
    activation: str

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map inputs (batch, ...) to logits (batch, classes)."""
        x = x.reshape(len(x), -1)
        for _ in range(self.depth):
            x = ACTIVATIONS[self.activation](linen.Dense(self.width)(x))
        return linen.Dense(self.classes)(x)


def digits_mlp(
    depth: int = 20, width: int = 64, activation: str = "relu", target: float = 0.9
) -> Task:
    """Handwritten digits, 8 x 8 pixels, by a deep plain multilayer perceptron.

    1,797 images of scikit-learn, split once into 1,437 for training and 360 for
    validation, standardised by the mean and deviation of all training pixels.

    Args:
        depth: number of hidden layers.
        width: units in each.
        activation: a name of `ACTIVATIONS`.
        target: validation accuracy that counts as converged.

    Returns:
        The task.
    """
    _checks.integer("digits-mlp", depth=depth, width=width)
    _checks.choice("digits-mlp", "activation", activation, ACTIVATIONS)
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    train, valid = slice(0, 1437), slice(1437, None)
    x = (x - x[train].mean()) / x[train].std()
    return make_task(
        MLP(depth, width, 10, activation),
        (x[train], y[train]),
        (x[valid], y[valid]),
        target=target,
        name=f"digits-mlp(depth={depth}, width={width}, activation={activation!r})",
    )


TASKS: Mapping[str, Callable[..., Task]] = {"digits-mlp": digits_mlp}
"""The built-in tasks by name."""
