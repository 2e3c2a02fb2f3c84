"""Models of the kinds that people have, small: for tests of whole trees."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


class Block(nn.Module):
    """A transformer's block: norm "pre", "post" or "none", branches scaled or not."""

    heads: int = 4
    norm: str = "pre"
    alpha: float = 1.0
    multipliers: bool = False

    @nn.compact
    def __call__(self, x, _=None):
        width = x.shape[-1]
        for name in ("attention", "mlp"):
            y = nn.LayerNorm()(x) if self.norm == "pre" else x
            if name == "attention":
                y = nn.MultiHeadDotProductAttention(self.heads, name=name)(y)
            else:
                y = nn.gelu(nn.Dense(4 * width, name="up")(y))
                y = nn.Dense(width, name="down")(y)
            if self.multipliers:
                y = y * self.param(f"{name}_scale", nn.initializers.ones, (width,))
            x = self.alpha * x + y
            if self.norm == "post":
                x = nn.LayerNorm()(x)
        return x, None


class GPT(nn.Module):
    """A language model: tied embedding, learned positions, blocks listed or scanned."""

    layers: int = 3
    width: int = 64
    scan: bool = False
    tied: bool = True
    block: Any = Block()

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(50, self.width, name="embed")
        places = nn.Embed(16, self.width, name="places")
        x = embed(tokens) + places(jnp.arange(tokens.shape[1]))
        if self.scan:
            scanned = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers,
            )
            x, _ = scanned(self.block.heads, self.block.norm, name="blocks")(x, None)
        else:
            for layer in range(self.layers):
                x, _ = self.block.copy(name=f"block_{layer}")(x)
        if self.block.norm == "pre":
            x = nn.LayerNorm(name="last_norm")(x)
        return embed.attend(x) if self.tied else nn.Dense(50, name="readout")(x)


class ResNet(nn.Module):
    """A residual network without normalisation, with Fixup's scalars or not."""

    blocks: int = 3
    scalars: bool = True

    @nn.compact
    def __call__(self, x):
        def scalar(name, start):
            return self.param(name, nn.initializers.constant(start), ())

        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        for k in range(self.blocks):
            width, stride = (16, 2) if k == self.blocks - 1 else (8, 1)
            y = x + scalar(f"bias_{k}", 0.0) if self.scalars else x
            y = nn.Conv(width, (3, 3), stride, use_bias=False, name=f"first_{k}")(y)
            y = nn.Conv(width, (3, 3), use_bias=False, name=f"last_{k}")(nn.relu(y))
            if self.scalars:
                y = y * scalar(f"scale_{k}", 1.0) + scalar(f"after_{k}", 0.0)
            if stride > 1:
                x = nn.Conv(width, (1, 1), stride, use_bias=False, name="shortcut")(x)
            x = nn.relu(x + y)
        return nn.Dense(10, name="head")(x.mean(axis=(1, 2)))


class ViT(nn.Module):
    """An image cut in patches, a class token, and the blocks of a transformer."""

    layers: int = 2
    width: int = 32

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), (4, 4), name="patches")(x)
        x = x.reshape(len(x), -1, self.width)
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x = x + self.param(
            "places", nn.initializers.normal(0.02), (1, x.shape[1], self.width)
        )
        for layer in range(self.layers):
            x, _ = Block(name=f"block_{layer}")(x)
        return nn.Dense(10, name="head")(nn.LayerNorm()(x)[:, 0])


class LSTM(nn.Module):
    """A recurrent network of Linen."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.RNN(nn.OptimizedLSTMCell(32))(x)
        return nn.Dense(4, name="head")(hidden[:, -1])


class CNN(nn.Module):
    """A plain deep convolutional network."""

    depth: int = 4
    window: int = 3

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.tanh(nn.Conv(16, (self.window, self.window))(x))
        return nn.Dense(10)(x.mean(axis=(1, 2)))


class NNXLSTM(nnx.Module):
    """The same recurrent network of NNX."""

    def __init__(self, rngs: nnx.Rngs):
        self.cell = nnx.RNN(nnx.OptimizedLSTMCell(8, 32, rngs=rngs))
        self.head = nnx.Linear(32, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.cell(x)[:, -1])


class NNXTransformer(nnx.Module):
    """A transformer's block of NNX between two layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 32, rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
        self.up = nnx.Linear(32, 128, rngs=rngs)
        self.down = nnx.Linear(128, 32, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        x = x + self.attention(self.norm(x))
        return x + self.down(nnx.gelu(self.up(x)))


class NNXScanned(nnx.Module):
    """A language model of NNX: a tied embedding around scanned blocks."""

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.norms = nnx.List([nnx.LayerNorm(32, rngs=rngs) for _ in range(2)])
            self.attention = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
            self.up = nnx.Linear(32, 128, rngs=rngs)
            self.down = nnx.Linear(128, 32, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norms[0](x))
            return x + self.down(nnx.gelu(self.up(self.norms[1](x))))

    def __init__(self, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs):
            return NNXScanned.Block(rngs)

        self.embed = nnx.Embed(50, 32, rngs=rngs)
        self.blocks = blocks(rngs)

    def __call__(self, tokens):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return self.embed.attend(run(self.embed(tokens), self.blocks))
