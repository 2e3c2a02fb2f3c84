"""The networks of the built-in tasks, small ones in which initialization matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen

from jaxinit import meanfield

ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    name: meanfield.ACTIVATIONS[name]
    for name in (
        "relu",
        "tanh",
        "sigmoid",
        "gelu",
        "silu",
        "elu",
        "selu",
        "softplus",
        "linear",
    )
}
"""Activations that built-in tasks offer by name."""


class MLP(linen.Module):
    """A plain multilayer perceptron: no normalisation, no shortcuts.

    Attributes:
        depth: number of hidden layers.
        width: units in each.
        outputs: number of outputs.
        activation: name of the activation after each hidden layer.
        use_bias: whether layers have biases.
    """

    depth: int
    width: int
    outputs: int
    activation: str
    use_bias: bool = True

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map inputs (batch, ...) to outputs (batch, outputs)."""
        x = x.reshape(len(x), -1)
        for _ in range(self.depth):
            x = linen.Dense(self.width, use_bias=self.use_bias)(x)
            x = ACTIVATIONS[self.activation](x)
        return linen.Dense(self.outputs, use_bias=self.use_bias)(x)


class CNN(linen.Module):
    """A plain convolutional network in any number of dimensions.

    Attributes:
        depth: number of convolutions, of windows of 3.
        width: channels of each.
        outputs: number of outputs.
        activation: name of the activation after each convolution.
        halvings: how many convolutions, from the first on, have stride 2.
    """

    depth: int
    width: int
    outputs: int
    activation: str
    halvings: int = 1

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map inputs (batch, *spatial, channels) to outputs (batch, outputs)."""
        window = (3,) * (x.ndim - 2)
        for layer in range(self.depth):
            stride = 2 if layer < self.halvings else 1
            x = linen.Conv(self.width, window, stride)(x)
            x = ACTIVATIONS[self.activation](x)
        return linen.Dense(self.outputs)(x.reshape(len(x), -1))


class ResNet(linen.Module):
    """A residual network without normalisation: initialization alone keeps its scale.

    Blocks are x + conv(activation(conv(x))), after one convolution of stride 2 and
    before a mean over space and a linear readout.

    Attributes:
        depth: number of blocks.
        width: channels.
        outputs: number of outputs.
        activation: name of the activation.
    """

    depth: int
    width: int
    outputs: int
    activation: str

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map inputs (batch, height, width, channels) to outputs (batch, outputs)."""
        x = linen.Conv(self.width, (3, 3), 2)(x)
        for _ in range(self.depth):
            x = x + self.branch(x)
        x = ACTIVATIONS[self.activation](x)
        return linen.Dense(self.outputs)(x.mean(axis=(1, 2)))

    def branch(self, x: Any) -> Any:
        """What a block adds."""
        hidden = ACTIVATIONS[self.activation](linen.Conv(self.width, (3, 3))(x))
        return linen.Conv(self.width, (3, 3))(hidden)


class Scale(linen.Module):
    """A parameter that multiplies, 1 at first: one number, or one a channel.

    Attributes:
        channels: whether there is one for each channel.
    """

    channels: bool = False

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Multiply."""
        shape = (x.shape[-1],) if self.channels else ()
        scale = self.param("scale", linen.initializers.ones, shape)
        return x * (jnp.broadcast_to(scale, x.shape) if self.channels else scale)


class Shift(linen.Module):
    """A number that is added, 0 at first."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Add."""
        return x + self.param("bias", linen.initializers.zeros, ())


class ScaledResNet(ResNet):
    """A residual network whose branches have multipliers, as Fixup and SkipInit ask.

    Blocks are x + scale * conv(activation(conv(x + b) + b) + b) + b, scale and every b
    one number each; beside them it is a `ResNet`.
    """

    def branch(self, x: Any) -> Any:
        """What a block adds."""

        def convolved(x: Any) -> Any:
            return linen.Conv(self.width, (3, 3), use_bias=False)(Shift()(x))

        hidden = ACTIVATIONS[self.activation](Shift()(convolved(x)))
        return Shift()(Scale()(convolved(hidden)))


class LSTM(linen.Module):
    """Long short-term memory, one layer over the other, read after the last step.

    Attributes:
        depth: number of layers.
        width: cells of each.
        outputs: number of outputs.
    """

    depth: int
    width: int
    outputs: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map series (batch, steps, features) to outputs (batch, outputs)."""
        for _ in range(self.depth):
            x = linen.RNN(linen.OptimizedLSTMCell(self.width))(x)
        return linen.Dense(self.outputs)(x[:, -1])


class Sines(linen.Module):
    """An implicit network, from coordinates to values through sines.

    Attributes:
        depth: number of hidden layers, x to sin(frequency * (x w + b)).
        width: units in each.
        outputs: number of outputs.
        frequency: multiplier of the sines' arguments.
    """

    depth: int
    width: int
    outputs: int
    frequency: float

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map coordinates (batch, dimensions) to values (batch, outputs)."""
        for _ in range(self.depth):
            x = jnp.sin(self.frequency * linen.Dense(self.width)(x))
        return linen.Dense(self.outputs)(x)


class Autoencoder(linen.Module):
    """A deep autoencoder: widths halve down to a linear code, and mirror back.

    Attributes:
        depth: hidden layers of the encoder, and of the decoder.
        width: units of the outermost hidden layers.
        code: units of the code; no layer has fewer.
        activation: name of the activation of the hidden layers.
    """

    depth: int
    width: int
    code: int
    activation: str

    @linen.compact
    def __call__(self, x: Any) -> Any:
        """Map inputs (batch, features) to their reconstructions of the same shape."""
        features = x.shape[-1]
        widths = [max(self.width >> layer, self.code) for layer in range(self.depth)]
        for width in widths:
            x = ACTIVATIONS[self.activation](linen.Dense(width)(x))
        x = linen.Dense(self.code)(x)
        for width in reversed(widths):
            x = ACTIVATIONS[self.activation](linen.Dense(width)(x))
        return linen.Dense(features)(x)


NORMS = ("pre", "post", "none", "deep", "scaled")
"""Where a transformer normalises: before each branch, after each sum, nowhere; after
each sum with a stream that DeepNorm's constant multiplies; or before each branch, which
ends in LayerScale's multipliers."""


class Transformer(linen.Module):
    """A causal transformer over tokens.

    Attributes:
        depth: number of blocks, each of attention and a two-layer perceptron.
        width: features of the residual stream; the perceptron has four times as many.
        heads: attention heads; they divide `width`.
        vocabulary: number of different tokens.
        activation: name of the activation of the perceptron.
        norm: one of `NORMS`, of layer normalisation.
    """

    depth: int
    width: int
    heads: int
    vocabulary: int
    activation: str
    norm: str

    @linen.compact
    def __call__(self, tokens: Any) -> Any:
        """Map tokens (batch, length) to logits of the next (batch, length, tokens)."""
        length = tokens.shape[1]
        x = linen.Embed(self.vocabulary, self.width)(tokens)
        x = x + linen.Embed(length, self.width)(jnp.arange(length))[None]
        mask = linen.make_causal_mask(tokens)
        for _ in range(self.depth):
            attention = linen.MultiHeadDotProductAttention(self.heads)
            x = self.add(x, lambda y, attend=attention: attend(y, mask=mask))
            x = self.add(x, self.perceptron)
        if self.norm in ("pre", "scaled"):
            x = linen.LayerNorm()(x)
        return linen.Dense(self.vocabulary)(x)

    def add(self, x: Any, branch: Callable[[Any], Any]) -> Any:
        """The stream plus what a branch makes of it."""
        if self.norm == "pre":
            return x + branch(linen.LayerNorm()(x))
        if self.norm == "scaled":
            return x + Scale(channels=True)(branch(linen.LayerNorm()(x)))
        alpha = (2 * self.depth) ** 0.25 if self.norm == "deep" else 1
        x = alpha * x + branch(x)
        return x if self.norm == "none" else linen.LayerNorm()(x)

    def perceptron(self, x: Any) -> Any:
        """The branch that acts on each place alone."""
        hidden = ACTIVATIONS[self.activation](linen.Dense(4 * self.width)(x))
        return linen.Dense(self.width)(hidden)
