"""Models of the kinds that people have, small: for tests of whole trees."""

from __future__ import annotations

from typing import Any

import jax
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


class EncoderDecoder(nn.Module):
    """A translator: the decoder reads the encoder's memory, embeddings are separate."""

    encoders: int = 3
    decoders: int = 3
    width: int = 64

    @nn.compact
    def __call__(self, source, target):
        memory = nn.Embed(50, self.width, name="source")(source)
        for k in range(self.encoders):
            memory, _ = Block(name=f"encoder_{k}")(memory)
        memory = nn.LayerNorm()(memory)
        x = nn.Embed(50, self.width, name="target")(target)
        for k in range(self.decoders):
            x = DecoderBlock(name=f"decoder_{k}")(x, memory)
        return nn.Dense(50, name="readout")(nn.LayerNorm()(x))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a memory, and two layers."""

    heads: int = 4

    @nn.compact
    def __call__(self, x, memory):
        attention = nn.MultiHeadDotProductAttention
        x = x + attention(self.heads, name="self")(nn.LayerNorm()(x))
        x = x + attention(self.heads, name="cross")(nn.LayerNorm()(x), memory)
        y = nn.gelu(nn.Dense(4 * x.shape[-1], name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], name="down")(y)


class Mamba(nn.Module):
    """A selective state space model in one residual branch."""

    states: int = 4
    rank: int = 2

    @nn.compact
    def __call__(self, x):
        inner = 2 * x.shape[-1]
        u = nn.Dense(2 * inner, use_bias=False, name="in_proj")(nn.LayerNorm()(x))
        u, z = jnp.split(u, 2, axis=-1)
        conv = nn.Conv(
            inner, (4,), feature_group_count=inner, padding="CAUSAL", name="conv"
        )
        u = nn.silu(conv(u))
        rates = jnp.arange(1.0, self.states + 1)
        log_a = self.param("A_log", lambda _: jnp.tile(jnp.log(rates), (inner, 1)))
        skip = self.param("D", nn.initializers.ones, (inner,))
        parts = nn.Dense(self.rank + 2 * self.states, use_bias=False, name="x_proj")(u)
        step, b, c = jnp.split(parts, [self.rank, self.rank + self.states], axis=-1)
        step = nn.softplus(nn.Dense(inner, name="dt_proj")(step))
        decay = jnp.exp(jnp.einsum("bld,dn->bldn", step, -jnp.exp(log_a)))
        put = jnp.einsum("bld,bln,bld->bldn", step, b, u)

        def turn(h, at):
            decay, put, c = at
            h = decay * h + put
            return h, jnp.einsum("bdn,bn->bd", h, c)

        times = [jnp.moveaxis(a, 1, 0) for a in (decay, put, c)]
        _, y = jax.lax.scan(turn, jnp.zeros_like(put[:, 0]), tuple(times))
        y = (jnp.moveaxis(y, 0, 1) + skip * u) * nn.silu(z)
        return x + nn.Dense(x.shape[-1], use_bias=False, name="out_proj")(y)


class Experts(nn.Module):
    """A block whose second half is one of several layers, two for each token.

    How the chosen experts are computed: "dispatched" by a one-hot product, "gathered",
    "switched" among by `lax.switch`, "scanned" over, or "listed" as separate leaves.
    """

    how: str = "gathered"
    experts: int = 4
    width: int = 16

    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(nn.LayerNorm()(x))
        y = nn.LayerNorm()(x).reshape(-1, x.shape[-1])
        return x + self.mixture(y).reshape(x.shape)

    def mixture(self, x):
        init, d, n = nn.initializers.lecun_normal(), x.shape[-1], self.experts
        gates = nn.softmax(nn.Dense(n, use_bias=False, name="router")(x))
        if self.how == "listed":
            out = jnp.zeros_like(x)
            for e in range(n):
                y = nn.gelu(nn.Dense(self.width, use_bias=False, name=f"up_{e}")(x))
                y = nn.Dense(d, use_bias=False, name=f"down_{e}")(y)
                out = out + gates[:, e, None] * y
            return out
        up = self.param("up", init, (n, d, self.width))
        down = self.param("down", init, (n, self.width, d))
        if self.how == "dispatched":
            chosen = jax.nn.one_hot(jnp.argmax(gates, -1), n)
            y = nn.gelu(jnp.einsum("te,td,edf->tef", chosen, x, up))
            return jnp.einsum("te,ted->td", gates, jnp.einsum("tef,efd->ted", y, down))
        if self.how == "gathered":
            weights, index = jax.lax.top_k(gates, 2)
            y = nn.gelu(jnp.einsum("td,tkdf->tkf", x, up[index]))
            return jnp.einsum(
                "tk,tkd->td", weights, jnp.einsum("tkf,tkfd->tkd", y, down[index])
            )
        if self.how == "switched":
            paths = [lambda x, e=e: nn.gelu(x @ up[e]) @ down[e] for e in range(n)]
            return jax.lax.switch(jnp.argmax(gates.sum(0)), paths, x)

        def turn(total, at):
            up, down, gate = at
            return total + gate[:, None] * (nn.gelu(x @ up) @ down), None

        return jax.lax.scan(turn, jnp.zeros_like(x), (up, down, gates.T))[0]


class Critic(nn.Module):
    """Value of a state and an action."""

    @nn.compact
    def __call__(self, state, action):
        x = jnp.concatenate([state, action], -1)
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(32)(x)))
        return nn.Dense(1)(x)[..., 0]


class Twins(nn.Module):
    """Two critics on one input, the smaller of whose values counts."""

    members: int = 2

    @nn.compact
    def __call__(self, state, action):
        critics = nn.vmap(
            Critic,
            in_axes=None,
            out_axes=0,
            axis_size=self.members,
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        return critics(name="critics")(state, action).min(0)


class Quantised(nn.Module):
    """A layer whose kernel is rounded to steps that state holds."""

    features: int = 16
    straight: bool = False

    @nn.compact
    def __call__(self, x):
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features)
        )
        step = self.variable("steps", "step", lambda: jnp.full(self.features, 0.1))
        rounded = jnp.clip(jnp.round(kernel / step.value), -8, 7) * step.value
        if self.straight:
            rounded = kernel + jax.lax.stop_gradient(rounded - kernel)
        return x @ rounded


class Modulated(nn.Module):
    """StyleGAN2's layer: a style scales what comes in, and the norm is put right."""

    features: int = 8

    @nn.compact
    def __call__(self, x, latent):
        style = nn.Dense(x.shape[-1], name="style")(latent)
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = kernel[None] * style[:, None, None, :, None]
        norm = jax.lax.rsqrt(jnp.sum(kernel**2, axis=(1, 2, 3)) + 1e-8)
        kernel = kernel * norm[:, None, None, None, :]

        def conv(x, kernel):
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x[None], kernel, (1, 1), "SAME", dimension_numbers=numbers
            )[0]

        x = jax.vmap(conv)(x, kernel)
        return nn.leaky_relu(x + self.param("bias", nn.initializers.zeros, (8,)), 0.2)


class Albert(nn.Module):
    """One block of two branches passed several times: by "list", "scan" or "fori"."""

    passes: int = 4
    width: int = 32
    how: str = "list"

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(50, self.width, name="embed")(tokens)
        block = Block(name="block")
        if self.how == "list" or self.is_initializing():
            for _ in range(self.passes if self.how == "list" else 1):
                x, _ = block(x)
        elif self.how == "scan":
            share = nn.scan(
                lambda block, x, _: block(x),
                variable_broadcast="params",
                split_rngs={"params": False},
                length=self.passes,
            )
            x, _ = share(block, x, None)
        else:
            variables = {"params": block.variables["params"]}
            free = Block(parent=None)
            x = jax.lax.fori_loop(
                0, self.passes, lambda _, x: free.apply(variables, x)[0], x
            )
        return nn.Dense(50, name="readout")(nn.LayerNorm()(x))


def maml(params, x, y, steps=3, how="scan"):
    """A network adapted by some steps of gradient descent, then used."""

    def predict(params, x):
        return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]

    def loss(params):
        return jnp.mean((predict(params, x) - y) ** 2)

    def step(params):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    if how == "scan":
        params, _ = jax.lax.scan(lambda p, _: (step(p), None), params, None, steps)
    elif how == "fori":
        params = jax.lax.fori_loop(0, steps, lambda _, p: step(p), params)
    else:
        for _ in range(steps):
            params = step(params)
    return predict(params, x)


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
