"""The built-in tasks: from a name and options to a `Task`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxinit import _checks
from jaxinit.compare.task import data
from jaxinit.compare.task.networks import (
    ACTIVATIONS,
    CNN,
    MLP,
    NORMS,
    Autoencoder,
    ResNet,
    Transformer,
)
from jaxinit.compare.task.task import Task, make_task


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
    name = _checked_name("digits-mlp", depth=depth, width=width, activation=activation)
    model = MLP(depth, width, 10, activation)
    return make_task(model, *data.digits(), target=target, name=name)


def digits_cnn(
    depth: int = 12, width: int = 16, activation: str = "relu", target: float = 0.9
) -> Task:
    """The digits of `digits_mlp` by a deep plain convolutional network.

    Args:
        depth: number of 3 x 3 convolutions, the first of stride 2.
        width: channels of each.
        activation: a name of `ACTIVATIONS`.
        target: validation accuracy that counts as converged.

    Returns:
        The task.
    """
    name = _checked_name("digits-cnn", depth=depth, width=width, activation=activation)
    model = CNN(depth, width, 10, activation)
    return make_task(model, *_images(data.digits()), target=target, name=name)


def digits_resnet(
    depth: int = 10, width: int = 16, activation: str = "relu", target: float = 0.9
) -> Task:
    """The digits of `digits_mlp` by a residual network without normalisation.

    The setting of Fixup (Zhang et al. 2019, arXiv:1901.09321): each block adds to the
    signal's variance, so that a start which ignores depth lets it grow
    exponentially.

    Args:
        depth: number of blocks of two 3 x 3 convolutions.
        width: channels.
        activation: a name of `ACTIVATIONS`.
        target: validation accuracy that counts as converged.

    Returns:
        The task.
    """
    name = _checked_name(
        "digits-resnet", depth=depth, width=width, activation=activation
    )
    model = ResNet(depth, width, 10, activation)
    return make_task(model, *_images(data.digits()), target=target, name=name)


def mnist1d_mlp(
    depth: int = 2, width: int = 100, activation: str = "relu", target: float = 0.55
) -> Task:
    """MNIST-1D, ten strokes hidden in signals of 40 points, by a perceptron.

    4,000 examples for training and 1,000 for validation; see `data.mnist1d`.

    Args:
        depth: number of hidden layers.
        width: units in each.
        activation: a name of `ACTIVATIONS`.
        target: validation accuracy that counts as converged.

    Returns:
        The task.
    """
    name = _checked_name("mnist1d-mlp", depth=depth, width=width, activation=activation)
    model = MLP(depth, width, 10, activation)
    return make_task(model, *data.mnist1d(), target=target, name=name)


def mnist1d_cnn(
    depth: int = 3, width: int = 25, activation: str = "relu", target: float = 0.8
) -> Task:
    """MNIST-1D by a convolutional network.

    Args:
        depth: number of convolutions of windows of 3, the first three of stride 2.
        width: channels of each.
        activation: a name of `ACTIVATIONS`.
        target: validation accuracy that counts as converged.

    Returns:
        The task.
    """
    name = _checked_name("mnist1d-cnn", depth=depth, width=width, activation=activation)
    (x, y), (x_valid, y_valid) = data.mnist1d()
    model = CNN(depth, width, 10, activation, halvings=3)
    signals = (x[..., None], y), (x_valid[..., None], y_valid)
    return make_task(model, *signals, target=target, name=name)


def autoencoder(
    depth: int = 4,
    width: int = 128,
    code: int = 8,
    activation: str = "tanh",
    target: float = 0.2,
) -> Task:
    """A deep autoencoder of the digits, on whose kind starts have been compared.

    After Hinton and Salakhutdinov 2006, Martens 2010 and Sutskever et al. 2013, with
    digits of 64 pixels: 64-128-64-32-16-8-16-32-64-128-64. The loss is the squared
    error of a pixel, in units of the pixels' variance; 8 principal components leave
    0.174.

    Args:
        depth: hidden layers of the encoder, and of the decoder, around a linear code.
        width: units of the outermost hidden layers; inwards they halve.
        code: units of the code; no layer has fewer.
        activation: a name of `ACTIVATIONS`.
        target: validation loss that counts as converged.

    Returns:
        The task.
    """
    sizes = {"depth": depth, "width": width, "code": code}
    name = _checked_name("autoencoder", **sizes, activation=activation)
    (x, _), (x_valid, _) = data.digits()
    model = Autoencoder(depth, width, code, activation)
    pairs = (x, x), (x_valid, x_valid)
    return make_task(model, *pairs, target=target, name=name, loss="squared_error")


def text_transformer(
    depth: int = 2,
    width: int = 64,
    heads: int = 4,
    activation: str = "gelu",
    norm: str = "pre",
    target: float = 2.4,
) -> Task:
    """The next character of Python's reference manual by a small transformer.

    English text that Python ships, in pieces of 32 characters, the last tenth for
    validation. The loss is in nats a character: the frequencies of characters alone
    give 3.24, those of pairs 2.32.

    Args:
        depth: number of blocks.
        width: features of the residual stream, a multiple of `heads`.
        heads: attention heads.
        activation: a name of `ACTIVATIONS`.
        norm: where layers are normalised: "pre", "post" or "none".
        target: validation loss that counts as converged.

    Returns:
        The task.
    """
    sizes = {"depth": depth, "width": width, "heads": heads}
    _checks.choice("text-transformer", "norm", norm, NORMS)
    name = _checked_name("text-transformer", **sizes, activation=activation)
    name = f"{name[:-1]}, norm={norm!r})"
    if width % heads:
        raise ValueError(
            f"text-transformer: width={width} must be a multiple of heads={heads}."
        )
    model = Transformer(depth, width, heads, len(data.CHARACTERS), activation, norm)
    return make_task(model, *data.text(), target=target, name=name, metric="loss")


def regression_mlp(
    depth: int = 4, width: int = 64, activation: str = "relu", target: float = 0.6
) -> Task:
    """The progress of diabetes from ten features, by a perceptron.

    442 patients of scikit-learn, 353 for training and 89 for validation, features and
    progress standardised. The loss is the squared error; linear least squares leave
    0.527 of the validation data's 0.805.

    Args:
        depth: number of hidden layers.
        width: units in each.
        activation: a name of `ACTIVATIONS`.
        target: validation loss that counts as converged.

    Returns:
        The task.
    """
    name = _checked_name(
        "regression-mlp", depth=depth, width=width, activation=activation
    )
    model = MLP(depth, width, 1, activation)
    return make_task(
        model, *data.diabetes(), target=target, name=name, loss="squared_error"
    )


def linear(depth: int = 4, width: int = 32, target: float = 0.02) -> Task:
    """A random matrix learned by a deep linear network, whose optimum is known.

    Inputs have 32 dimensions and outputs 8; see `data.teacher`. The best matrix is
    x^T y / n, which leaves the noise: a squared error of 0.0097 on the training data
    and 0.0103 on the validation data.

    Args:
        depth: number of hidden layers, without biases.
        width: units in each; at least 8, or the optimum is out of reach.
        target: validation loss that counts as converged.

    Returns:
        The task.

    References:
        Saxe, McClelland and Ganguli 2014, arXiv:1312.6120.
    """
    name = _checked_name("linear", depth=depth, width=width)
    model = MLP(depth, width, 8, "linear", use_bias=False)
    return make_task(
        model, *data.teacher(32, 8), target=target, name=name, loss="squared_error"
    )


def data_task(
    source: str,
    depth: int = 4,
    width: int = 64,
    activation: str = "relu",
    target: float | None = None,
) -> Task:
    """Data from elsewhere, by a perceptron: classes by cross-entropy, else regression.

    Inputs are standardised by the training data, a table's feature by feature; so are
    labels that are no integers, whose squared error is then a part of their variance.

    Args:
        source: a file of arrays, `sklearn:NAME` or `hf:NAME`; see `data.load`.
        depth: number of hidden layers.
        width: units in each.
        activation: a name of `ACTIVATIONS`.
        target: validation accuracy, or squared error, that counts as converged; by
            default 0.9, or 0.5.

    Returns:
        The task.
    """
    name = _checked_name("data", depth=depth, width=width, activation=activation)
    name = name.replace("(", f"({source!r}, ", 1)
    (x, y), (x_valid, y_valid) = data.load(source)
    x, x_valid = data.standardised(x, x_valid, axis=0 if x.ndim == 2 else None)
    if y.dtype == np.int32 and y.ndim == 1:
        classes = int(max(y.max(), y_valid.max())) + 1
        return make_task(
            MLP(depth, width, classes, activation),
            (x, y),
            (x_valid, y_valid),
            target=0.9 if target is None else target,
            name=name,
        )
    y, y_valid = y.reshape(len(y), -1), y_valid.reshape(len(y_valid), -1)
    y, y_valid = data.standardised(y, y_valid, axis=0)
    return make_task(
        MLP(depth, width, y.shape[1], activation),
        (x, y),
        (x_valid, y_valid),
        target=0.5 if target is None else target,
        name=name,
        loss="squared_error",
    )


TASKS: Mapping[str, Callable[..., Task]] = {
    "digits-mlp": digits_mlp,
    "digits-cnn": digits_cnn,
    "digits-resnet": digits_resnet,
    "mnist1d-mlp": mnist1d_mlp,
    "mnist1d-cnn": mnist1d_cnn,
    "autoencoder": autoencoder,
    "text-transformer": text_transformer,
    "regression-mlp": regression_mlp,
    "linear": linear,
}
"""The built-in tasks by name."""


def parse_task(text: str, **options: Any) -> Task:
    """The built-in task that a text such as `digits-mlp(depth=8, width=128)` names.

    Args:
        text: a name of `TASKS`, alone or called with literal keyword arguments;
            nothing is evaluated.
        options: further arguments.

    Returns:
        The task; `parse_task(task.name)` makes it again, but for its target.

    Raises:
        ValueError: the text has another form, or names an unknown task or option.

    Example:
        >>> parse_task("linear(depth=2)", width=16).name
        'linear(depth=2, width=16)'
    """
    name, bracket, rest = text.strip().partition("(")
    if name not in TASKS:
        raise ValueError(
            f"task={text!r} is unknown; use one of {', '.join(TASKS)}, or a task from "
            "make_task."
        )
    given = _keywords(text, bracket + rest) if bracket else {}
    known = inspect.signature(TASKS[name]).parameters
    for option in (*given, *options):
        _checks.choice(name, "option", option, known)
    twice = given.keys() & options.keys()
    if twice:
        raise ValueError(
            f"{text!r}: {', '.join(sorted(twice))} is given in the text and beside it; "
            "leave one out."
        )
    return TASKS[name](**given, **options)


def _keywords(text: str, arguments: str) -> dict[str, Any]:
    """The values of `(key=literal, ...)`."""
    try:
        call = ast.parse(f"_{arguments}", mode="eval").body
        match call:
            case ast.Call(ast.Name(), [], keywords) if all(k.arg for k in keywords):
                return {str(k.arg): ast.literal_eval(k.value) for k in keywords}
    except (SyntaxError, ValueError):
        pass
    raise ValueError(
        f"{text!r} is no task; use a name or a call with named options, such as "
        "'digits-mlp(depth=8, width=128)'."
    )


def _checked_name(task: str, *, activation: str | None = None, **sizes: int) -> str:
    """A built-in task's name, the text that makes it again, once its options hold."""
    _checks.integer(task, **sizes)
    options: dict[str, Any] = dict(sizes)
    if activation is not None:
        _checks.choice(task, "activation", activation, ACTIVATIONS)
        options["activation"] = activation
    listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{task}({listed})"


def _images(splits: tuple[data.Split, data.Split]) -> tuple[data.Split, data.Split]:
    (x, y), (x_valid, y_valid) = splits
    return (x.reshape(-1, 8, 8, 1), y), (x_valid.reshape(-1, 8, 8, 1), y_valid)
