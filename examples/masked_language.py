"""A masked language model: inputs by name, and labels with weights."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from jaxinit.compare import compare, make_task
from jaxinit.compare.task.data import CHARACTERS, text

LENGTH, HIDDEN, MASK = 32, 5, len(CHARACTERS)


def masked(tokens: np.ndarray, seed: int):
    """Hide five tokens of each piece; ask for these."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(tokens.shape).argsort(axis=1) < HIDDEN
    inputs = {"tokens": np.where(hidden, MASK, tokens), "hidden": hidden}
    weights = hidden.astype(np.float32) * LENGTH / HIDDEN
    return inputs, {"tokens": tokens, "weights": weights}


class Encoder(nn.Module):
    """A block of a transformer that looks both ways."""

    @nn.compact
    def __call__(self, tokens, hidden):
        """Tokens and which are hidden (batch, 32), to logits (batch, 32, tokens)."""
        x = nn.Embed(MASK + 1, 64)(tokens) + nn.Embed(2, 64)(hidden.astype(jnp.int32))
        x = x + nn.Embed(LENGTH, 64)(jnp.arange(LENGTH))
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        x = x + nn.Dense(64)(nn.gelu(nn.Dense(128)(nn.LayerNorm()(x))))
        return nn.Dense(MASK)(nn.LayerNorm()(x))


def of_hidden(logits, labels):
    """Cross-entropy in nats, whose mean is that of the hidden tokens."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels["tokens"])
    return losses * labels["weights"]


(train, _), (valid, _) = text(LENGTH)
task = make_task(
    Encoder(),
    masked(train[:4000], 0),
    masked(valid[:200], 1),
    loss=of_hidden,
    target=3.36,
    name="masked language",
)
result = compare(
    task,
    ["lecun_normal", "tree.gpt2", "normal(0.3)"],
    learning_rates=[3e-3, 1e-2],
    seeds=3,
    tuning_seeds=1,
    steps=60,
    batch_size=32,
    optimizers="adam",
    quiet=True,
)
result.show()
