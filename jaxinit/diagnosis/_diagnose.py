"""`diagnose`: what a function does to a signal before it is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

from jaxinit._types import Key
from jaxinit.diagnosis._prepare import prepare
from jaxinit.diagnosis._report import Report


class Options(TypedDict, total=False):
    """The keywords of `diagnose`, which `audit` takes too.

    Attributes:
        loss: a loss for each example, or their mean.
        labels: what the outputs should be.
        key: for noise, dropout and a model's own draw.
        learning_rate: of plain gradient descent.
        optimizer: an Optax transform.
        spectra: whether to measure what takes more than a gradient.
    """

    loss: Callable[..., Any] | None
    labels: Any
    key: Key | None
    learning_rate: float | None
    optimizer: Any
    spectra: bool


def diagnose(
    apply: Any, params: Any = None, *inputs: Any, **options: Unpack[Options]
) -> Report:
    r"""Measure the signal in a function, forward and backward, at every layer.

    For the product z of every kernel, inside of loops, branches and checkpoints too,
    with B examples of losses $L_1, \dots, L_B$: moments of z, and the root mean square
    of $\partial (L_1 + \dots + L_B) / \partial z$, which does not depend on B. The
    program is that of one gradient with a few sums more: nothing of the size of an
    activation is kept for it.

    Args:
        apply: `apply(params, *inputs)`, any function that JAX can trace; or a model of
            Flax, Equinox or Haiku, or a pair `(init, apply)`, which is then called as
            in training, with dropout and the batch's statistics; or a task of
            `jaxinit.compare`, with its first inputs, labels and loss.
        params: its parameters, a pytree with floating arrays; for a model None, for
            those that it has or that its own initialization draws, or what its `init`
            returns.
        inputs: its inputs, concrete; the leading axis of the first array among them is
            that of the examples.
        loss: `loss(outputs, labels)`, or `loss(outputs)` without labels: a loss for
            each example, or their mean. By default, with labels that are integers the
            cross-entropy of the outputs as logits, with others the mean squared
            error. Without labels either, gradients are those of the outputs' product
            with standard normal noise: their squares estimate without bias those of
            the Jacobian from a layer to the outputs.
        labels: what the outputs should be.
        key: for that noise, dropout and a model's own draw; `jax.random.key(0)` by
            default.
        learning_rate: of plain gradient descent, for the size of the first update.
        optimizer: an Optax transform, for the same; one or the other.
        spectra: whether to measure what takes many gradients, and concrete numbers:
            the spectral norm of each kernel, the spectra of the input-output Jacobian
            and of the tangent kernel, and quotient and cosine of gradients; see
            `jaxinit.diagnosis.Spectra`. False by default.

    Returns:
        The `Report`; printed, a table with a verdict. Under `jax.jit` a pytree of
        traced numbers.

    Raises:
        TypeError: `params` holds no floating array, or inputs are abstract.
        ValueError: no kernel is found, there are no inputs, or an update is asked for
            without a loss.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> keys = jax.random.split(jax.random.key(0), 20)
        >>> draw = jaxinit.glorot_normal()
        >>> params = {f"layer_{i}": draw(k, (256, 256)) for i, k in enumerate(keys)}
        >>> def apply(params, x):
        ...     for i in range(20):
        ...         x = jax.nn.relu(x @ params[f"layer_{i}"])
        ...     return x
        >>> x = jax.random.normal(jax.random.key(1), (64, 256))
        >>> report = jaxinit.diagnose(apply, params, x)
        >>> round(report.forward.factor, 1), len(report.rows)
        (0.7, 20)
        >>> print(report.verdict.split("`")[1])
        jaxinit.reinit(key, params, jaxinit.he_normal(), apply, inputs)
    """
    return prepare("diagnose", apply, params, inputs, **options).report()
