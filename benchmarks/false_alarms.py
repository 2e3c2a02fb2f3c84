"""How often does the audit find something wrong with a model that is well?

Run from the root of the repository: `python benchmarks/false_alarms.py`. Healthy
models, each drawn from 200 keys and audited on its first batch: the built-in tasks
under a scheme that is right for them, Flax's own modules as Flax draws them, and six
architectures as their authors draw them, small. Each finding is a false alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from flax import linen as nn

import jaxinit
from jaxinit._models import Inputs, as_model
from jaxinit.compare import parse_task
from jaxinit.diagnosis._audit import judged
from jaxinit.diagnosis._prepare import prepare

KEYS = timing.sized(range(200), range(2))
"""The audit's thresholds for what is a notice were settled on these keys, so that their
count is kinder than that of others would be."""

RNG = np.random.default_rng(0)
LABELS = jnp.asarray(RNG.integers(0, 10, 32))
VECTORS = jnp.asarray(RNG.normal(size=(32, 24)), jnp.float32)
IMAGES = jnp.asarray(RNG.normal(size=(32, 16, 16, 3)), jnp.float32)
SERIES = jnp.asarray(RNG.normal(size=(32, 10, 16)), jnp.float32)
TOKENS = jnp.asarray(RNG.integers(0, 64, (32, 12)))
NEXT = jnp.asarray(RNG.integers(0, 64, (32, 12)))

relu_conv = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")


class MLP(nn.Module):
    """Flax's dense layers."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, in) to logits (batch, 10)."""
        for _ in range(3):
            x = nn.gelu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    """Flax's convolutions and its normalization by the batch."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, height, width, in) to logits (batch, 10)."""
        for width in (16, 32):
            x = nn.Conv(width, (3, 3))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.mean((1, 2)))


class Attention(nn.Module):
    """Flax's attention between two norms."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, time, in) to logits (batch, 10)."""
        x = nn.Dense(32)(x)
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class Recurrent(nn.Module):
    """A cell of Flax over time."""

    cell: Callable[[int], Any]
    layers: int = 1

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, time, in) to logits (batch, 10)."""
        for _ in range(self.layers):
            x = nn.RNN(self.cell(32))(x)
        return nn.Dense(10)(x[:, -1])


class ResNet(nn.Module):
    """He et al.'s, whose last norms of branches begin at zero."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, height, width, in) to logits (batch, 10)."""

        def norm(x: Any, **options: Any) -> Any:
            return nn.BatchNorm(use_running_average=False, **options)(x)

        def conv(x: Any, width: int, size: int, stride: int = 1) -> Any:
            options = {"use_bias": False, "kernel_init": relu_conv}
            return nn.Conv(width, (size, size), stride, **options)(x)

        x = nn.relu(norm(conv(x, 16, 3)))
        for width, stride in ((16, 1), (32, 2), (32, 1), (64, 2)):
            y = nn.relu(norm(conv(x, width, 3, stride)))
            y = norm(conv(y, width, 3), scale_init=nn.initializers.zeros)
            if stride > 1:
                x = norm(conv(x, width, 1, stride))
            x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


class Block(nn.Module):
    """A transformer's block with norms before its branches."""

    mask: bool
    depth: int
    init: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, time, width) to the same."""
        seen = nn.make_causal_mask(x[..., 0]) if self.mask else None
        end = self.init(1 / (2 * self.depth) ** 0.5)
        dense = self.init(1.0)
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(
            4, kernel_init=dense, out_kernel_init=end
        )(y, mask=seen)
        y = nn.gelu(nn.Dense(4 * x.shape[-1], kernel_init=dense)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1], kernel_init=end)(y)


def normal_of(factor: float) -> Any:
    """GPT-2's law, its last kernels of branches smaller."""
    return nn.initializers.normal(0.02 * factor)


def glorot_of(_: float) -> Any:
    """ViT's law in JAX."""
    return nn.initializers.xavier_uniform()


class GPT(nn.Module):
    """Radford et al.'s: tied embedding, learned positions."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        """Map (batch, time) to logits (batch, time, 64)."""
        embed = nn.Embed(64, 64, embedding_init=nn.initializers.normal(0.02))
        places = nn.Embed(12, 64, embedding_init=nn.initializers.normal(0.01))
        x = embed(tokens) + places(jnp.arange(12))[None]
        for _ in range(4):
            x = Block(True, 4, normal_of)(x)
        return embed.attend(nn.LayerNorm()(x))


class ViT(nn.Module):
    """Dosovitskiy et al.'s, as big_vision draws it."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, height, width, in) to logits (batch, 10)."""
        x = nn.Conv(48, (4, 4), (4, 4))(x).reshape(len(x), -1, 48)
        places = nn.initializers.normal(48**-0.5)
        x = x + self.param("places", places, (1, x.shape[1], 48))
        for _ in range(4):
            x = Block(False, 4, glorot_of)(x)
        x = nn.LayerNorm()(x).mean(1)
        return nn.Dense(10, kernel_init=nn.initializers.zeros)(x)


class Mixer(nn.Module):
    """Tolstikhin et al.'s."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, height, width, in) to logits (batch, 10)."""
        x = nn.Conv(48, (4, 4), (4, 4))(x).reshape(len(x), -1, 48)
        for _ in range(4):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            y = nn.Dense(16)(nn.gelu(nn.Dense(32)(y))).swapaxes(1, 2)
            x = x + y
            y = nn.LayerNorm()(x)
            x = x + nn.Dense(48)(nn.gelu(nn.Dense(96)(y)))
        x = nn.LayerNorm()(x).mean(1)
        return nn.Dense(10, kernel_init=nn.initializers.zeros)(x)


class UNet(nn.Module):
    """Ronneberger et al.'s, with norms of groups."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map images to images of three channels."""

        def conv(x: Any, width: int) -> Any:
            return nn.silu(nn.GroupNorm(4)(nn.Conv(width, (3, 3))(x)))

        kept = []
        for width in (16, 32):
            x = conv(x, width)
            kept.append(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
        x = conv(x, 64)
        for width in (32, 16):
            x = nn.ConvTranspose(width, (2, 2), (2, 2))(x)
            x = conv(jnp.concatenate([x, kept.pop()], axis=-1), width)
        return nn.Conv(3, (1, 1))(x)


MODELS = {
    "flax Dense": (MLP(), VECTORS, LABELS),
    "flax Conv, BatchNorm": (CNN(), IMAGES, LABELS),
    "flax attention": (Attention(), SERIES, LABELS),
    "flax GRU": (Recurrent(nn.GRUCell), SERIES, LABELS),
    "ResNet": (ResNet(), IMAGES, LABELS),
    "ViT": (ViT(), IMAGES, LABELS),
    "GPT": (GPT(), TOKENS, NEXT),
    "U-Net": (UNet(), IMAGES, IMAGES),
    "Mixer": (Mixer(), IMAGES, LABELS),
    "LSTM": (Recurrent(nn.OptimizedLSTMCell, 2), SERIES, LABELS),
}
"""As their authors draw them: model, inputs, labels."""

TASKS = {
    "digits-mlp": jaxinit.he_normal(),
    "digits-cnn": jaxinit.he_normal(),
    "digits-resnet": jaxinit.tree.fixup(),
    "mnist1d-mlp": jaxinit.he_normal(),
    "mnist1d-cnn": jaxinit.he_normal(),
    "autoencoder": jaxinit.lecun_normal(),
    "text-transformer": jaxinit.tree.gpt2(),
    "regression-mlp": jaxinit.he_normal(),
    "linear": jaxinit.lecun_normal(),
    "picture-siren": jaxinit.tree.siren(),
}
"""Built-in tasks, and a scheme that is right for each."""

Draw = Callable[[Any], tuple[Any, tuple[Any, ...]]]
"""From a key to parameters and the other arguments of a function that is ready."""


def of_model(name: str) -> tuple[Any, Draw]:
    """A model as its author draws it."""
    model, x, labels = MODELS[name]
    ready = prepare("audit", model, None, (x,), labels=labels, learning_rate=1e-3)
    init = jax.jit(lambda key: as_model(model).init(key, Inputs((x,))))

    def draw(key: Any) -> Any:
        params, state = init(key)
        return params, (state, *ready.others[1:])

    return ready, draw


def of_task(name: str) -> tuple[Any, Draw]:
    """A built-in task under its scheme."""
    ready = prepare("audit", parse_task(name), None, (), learning_rate=1e-3)
    given = ready.params, TASKS[name], ready.apply, ready.others
    draw = jax.jit(lambda key: jaxinit.reinit(key, *given))
    return ready, lambda key: (draw(key), ready.others)


def main() -> None:
    """Print the findings of each model, and write the results."""
    rows = []
    makers = {**dict.fromkeys(MODELS, of_model), **dict.fromkeys(TASKS, of_task)}
    for name, make in timing.sized(list(makers.items()), list(makers.items())[:1]):
        ready, draw = make(name)
        rules: Counter[str] = Counter()
        alarms = serious = 0
        for seed in KEYS:
            found = judged(ready, *draw(jax.random.key(seed))).findings
            rules.update({finding.rule for finding in found})
            alarms += bool(found)
            serious += any(finding.serious for finding in found)
            if found and alarms <= 2:
                print(name, seed, *map(str, found), sep="\n    ")
        print(
            name,
            f"{alarms} of {len(KEYS)} with a finding, {serious} serious",
            flush=True,
        )
        row = {"model": name, "keys": len(KEYS), "alarms": alarms, "serious": serious}
        rows.append({**row, "rules": dict(rules)})
    timing.write("false_alarms", rows)


if __name__ == "__main__":
    main()
