"""The built-in tasks: from a name and options to a `Task`.

Their options mean the same in all of them:

    depth: hidden layers, convolutions or blocks.
    width: units, channels or features of each.
    activation: a name of `ACTIVATIONS`.
    target: value of the validation metric that counts as converged.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

import numpy as np

from jaxinit import _checks, _text
from jaxinit.compare.task import data
from jaxinit.compare.task.make import make_task
from jaxinit.compare.task.networks import (
    ACTIVATIONS,
    CNN,
    LSTM,
    MLP,
    NORMS,
    Autoencoder,
    ResNet,
    ScaledResNet,
    Sines,
    Transformer,
)
from jaxinit.compare.task.task import EVAL_EVERY, Task

Options = ParamSpec("Options")

TASKS: dict[str, Callable[..., Task]] = {}
"""The built-in tasks by name."""


class _Parts(NamedTuple):
    """What `make_task` makes a built-in task of, beside name and target."""

    model: Any
    splits: tuple[data.Split, data.Split]
    loss: str = "cross_entropy"
    metric: str | None = None


def _builtin(
    name: str, eval_every: int = EVAL_EVERY
) -> Callable[[Callable[Options, _Parts]], Callable[Options, Task]]:
    """Enter a function of options in `TASKS` as a task, named by its options.

    `eval_every` is 2 to 10 % of the steps that the fastest scheme takes to the target,
    and evaluations take at most two fifths of the time of training.
    """

    def entered(parts: Callable[Options, _Parts]) -> Callable[Options, Task]:
        signature = inspect.signature(parts)

        @functools.wraps(parts)
        def make(*args: Options.args, **kwargs: Options.kwargs) -> Task:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            options = dict(bound.arguments)
            target = options.pop("target")
            text = _checked_name(name, options)
            model, splits, loss, metric = parts(*args, **kwargs)
            return make_task(
                model,
                *splits,
                target=target,
                name=text,
                loss=loss,
                metric=metric,
                eval_every=eval_every,
            )

        make.__annotations__["return"] = Task
        TASKS[name] = make
        return make

    return entered


@_builtin("digits-mlp")
def digits_mlp(
    depth: int = 20, width: int = 64, activation: str = "relu", target: float = 0.9
) -> _Parts:
    """Handwritten digits, 8 x 8 pixels, by a deep plain multilayer perceptron.

    1,797 images of scikit-learn, split once into 1,437 for training and 360 for
    validation, standardised by the mean and standard deviation of all training pixels.
    """
    return _Parts(MLP(depth, width, 10, activation), data.digits())


@_builtin("digits-cnn")
def digits_cnn(
    depth: int = 12, width: int = 16, activation: str = "relu", target: float = 0.9
) -> _Parts:
    """The digits of `digits_mlp` by a deep plain convolutional network.

    `depth` is the number of 3 x 3 convolutions, the first of stride 2.
    """
    return _Parts(CNN(depth, width, 10, activation), _images(data.digits()))


@_builtin("digits-resnet")
def digits_resnet(
    depth: int = 10, width: int = 16, activation: str = "relu", target: float = 0.9
) -> _Parts:
    """The digits of `digits_mlp` by a residual network without normalisation.

    The setting of Fixup (Zhang et al. 2019, arXiv:1901.09321): each block adds to the
    signal's variance, so that an initialization which ignores depth lets it grow
    exponentially. A block has two 3 x 3 convolutions.
    """
    return _Parts(ResNet(depth, width, 10, activation), _images(data.digits()))


@_builtin("digits-scaled-resnet")
def digits_scaled_resnet(
    depth: int = 10, width: int = 16, activation: str = "relu", target: float = 0.9
) -> _Parts:
    """The network of `digits_resnet` with a multiplier at the end of each branch.

    The setting of SkipInit, ReZero and Fixup, which say what the multipliers are at
    first. Biases within the blocks are one number each, as Fixup has them.
    """
    return _Parts(ScaledResNet(depth, width, 10, activation), _images(data.digits()))


@_builtin("mnist1d-mlp", eval_every=20)
def mnist1d_mlp(
    depth: int = 2, width: int = 100, activation: str = "relu", target: float = 0.55
) -> _Parts:
    """MNIST-1D, ten strokes hidden in signals of 40 points, by a perceptron.

    4,000 examples for training and 1,000 for validation; see `data.mnist1d`.
    """
    return _Parts(MLP(depth, width, 10, activation), data.mnist1d())


@_builtin("mnist1d-cnn", eval_every=20)
def mnist1d_cnn(
    depth: int = 3, width: int = 25, activation: str = "relu", target: float = 0.8
) -> _Parts:
    """MNIST-1D by a convolutional network.

    The convolutions have windows of 3, the first three of them stride 2.
    """
    (x, y), (x_valid, y_valid) = data.mnist1d()
    signals = (x[..., None], y), (x_valid[..., None], y_valid)
    return _Parts(CNN(depth, width, 10, activation, halvings=3), signals)


@_builtin("autoencoder", eval_every=5)
def autoencoder(
    depth: int = 4,
    width: int = 128,
    code: int = 8,
    activation: str = "tanh",
    target: float = 0.2,
) -> _Parts:
    """A deep autoencoder of the digits, a classic comparison of initializations.

    After Hinton and Salakhutdinov 2006, Martens 2010 and Sutskever et al. 2013, with
    digits of 64 pixels: 64-128-64-32-16-8-16-32-64-128-64. `depth` counts the hidden
    layers of the encoder, and of the decoder, around a linear code of `code` units;
    `width` is that of the outermost, and inwards they halve. The loss is the squared
    error of a pixel, in units of the pixels' variance; 8 principal components leave
    0.174.
    """
    (x, _), (x_valid, _) = data.digits()
    model = Autoencoder(depth, width, code, activation)
    return _Parts(model, ((x, x), (x_valid, x_valid)), "squared_error")


@_builtin("text-transformer")
def text_transformer(
    depth: int = 2,
    width: int = 64,
    heads: int = 4,
    activation: str = "gelu",
    norm: str = "pre",
    target: float = 2.4,
) -> _Parts:
    """The next character of Python's reference manual by a small transformer.

    English text that Python ships, in pieces of 32 characters, the last tenth for
    validation. Layers are normalised by `norm`: "pre", "post" or "none"; "deep" is
    "post" around a stream that DeepNorm's constant multiplies, and "scaled" is "pre"
    with LayerScale's multipliers. `width` is a multiple of the `heads` of attention.
    The loss is in nats per character: the frequencies of characters alone give 3.24,
    those of pairs 2.32.
    """
    if width % heads:
        raise ValueError(
            f"text-transformer: width={width} must be a multiple of heads={heads}."
        )
    model = Transformer(depth, width, heads, len(data.CHARACTERS), activation, norm)
    return _Parts(model, data.text(), metric="loss")


@_builtin("adding-lstm")
def adding_lstm(
    depth: int = 1, width: int = 32, length: int = 50, target: float = 0.05
) -> _Parts:
    """The adding problem, a test of memory, by LSTMs.

    The sum of two marked numbers, one in each half of a series of `length`; see
    `data.adding`. The loss is the squared error, of which the mean leaves 0.167.
    """
    if length < 2:
        raise ValueError(f"adding-lstm: length={length} must be at least 2.")
    return _Parts(LSTM(depth, width, 1), data.adding(length), "squared_error")


@_builtin("picture-siren")
def picture_siren(
    depth: int = 3, width: int = 64, frequency: int = 30, target: float = 0.15
) -> _Parts:
    """A picture from the coordinates of its pixels, by a network of sines.

    The setting of SIREN (Sitzmann et al. 2020, arXiv:2006.09661); see `data.picture`.
    The loss is the squared error of the pixels kept for validation, as a part of their
    variance.
    """
    model = Sines(depth, width, 1, float(frequency))
    return _Parts(model, data.picture(), "squared_error")


@_builtin("regression-mlp", eval_every=2)
def regression_mlp(
    depth: int = 4, width: int = 64, activation: str = "relu", target: float = 0.6
) -> _Parts:
    """The progress of diabetes from ten features, by a perceptron.

    442 patients of scikit-learn, 353 for training and 89 for validation, features and
    progress standardised. The loss is the squared error; linear least squares leave
    0.527 of the validation data's 0.805.
    """
    return _Parts(MLP(depth, width, 1, activation), data.diabetes(), "squared_error")


@_builtin("linear", eval_every=5)
def linear(depth: int = 4, width: int = 32, target: float = 0.02) -> _Parts:
    """A random matrix learned by a deep linear network, whose optimum is known.

    Inputs have 32 dimensions and outputs 8; see `data.teacher`. With a width of at
    least 8 the best matrix is x^T y / n, which leaves the noise: a squared error of
    0.0097 on the training data and 0.0103 on the validation data.

    References:
        Saxe, McClelland and Ganguli 2014, arXiv:1312.6120.
    """
    model = MLP(depth, width, 8, "linear", use_bias=False)
    return _Parts(model, data.teacher(32, 8), "squared_error")


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

    `source` is a file of arrays, `sklearn:NAME` or `hf:NAME`; see `data.load`. The
    target is by default an accuracy of 0.9, or a squared error of 0.5.
    """
    options = {"depth": depth, "width": width, "activation": activation}
    name = _checked_name("data", options).replace("(", f"({source!r}, ", 1)
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
        TypeError: it is no text.

    Example:
        >>> parse_task("linear(depth=2)", width=16).name
        'linear(depth=2, width=16)'
    """
    if not isinstance(text, str):
        raise TypeError(
            f"task of type {type(text).__name__} must be a task from make_task, or the "
            "text of a built-in one, such as 'digits-mlp'."
        )
    name, bracket, rest = text.strip().partition("(")
    if name not in TASKS:
        raise ValueError(
            f"task={_checks.shortened(text)} is unknown; use one of "
            f"{', '.join(TASKS)}, or a task from make_task."
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
    node: ast.expr | None = None
    with contextlib.suppress(ValueError, RecursionError, MemoryError):
        node = _text.parsed(f"_{arguments}")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        kwargs = _text.taken_apart(node, text).kwargs
        with contextlib.suppress(ValueError, TypeError, RecursionError, MemoryError):
            return {name: ast.literal_eval(value) for name, value in kwargs.items()}
    raise ValueError(
        f"{_checks.shortened(text)} is no task; use a name or a call with named "
        "options, such as 'digits-mlp(depth=8, width=128)'."
    )


DEEPEST = 10_000
"""Layers whose trace ends within minutes."""

_CHOICES = {"activation": ACTIVATIONS, "norm": NORMS}


def _checked_name(task: str, options: dict[str, Any]) -> str:
    """A built-in task's name, the text that makes it again, once its options hold."""
    for name, value in options.items():
        if name in _CHOICES:
            _checks.choice(task, name, value, _CHOICES[name])
        else:
            _checks.integer(task, **{name: value})
        if name == "depth" and value > DEEPEST:
            raise ValueError(
                f"{task}: depth={value} must be at most {DEEPEST}, for a program is "
                "traced layer by layer."
            )
    listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{task}({listed})"


def _images(splits: tuple[data.Split, data.Split]) -> tuple[data.Split, data.Split]:
    (x, y), (x_valid, y_valid) = splits
    return (x.reshape(-1, 8, 8, 1), y), (x_valid.reshape(-1, 8, 8, 1), y_valid)
