"""A whole model by one scheme: what will happen, then the parameters, then the head."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxinit


class Block(nn.Module):
    """A block of a transformer."""

    @nn.compact
    def __call__(self, x):
        """Map (batch, time, width) to the same."""
        width = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(8, name="attention")(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(4 * width, name="up")(nn.LayerNorm()(x)))
        return x + nn.Dense(width, name="down")(y)


class GPT(nn.Module):
    """A small language model."""

    @nn.compact
    def __call__(self, tokens):
        """Map tokens (batch, time) to logits."""
        x = nn.Embed(1000, 256, name="embed")(tokens)
        x = x + nn.Embed(64, 256, name="places")(jnp.arange(tokens.shape[1]))
        for layer in range(2):
            x = Block(name=f"block_{layer}")(x)
        return nn.Dense(1000, name="head")(nn.LayerNorm(name="norm")(x))


def apply(params, tokens):
    """The model as a function of its parameters."""
    return GPT().apply({"params": params}, tokens)


key, tokens = jax.random.key(0), jax.ShapeDtypeStruct((1, 16), jnp.int32)
scheme = jaxinit.tree.gpt2()

shapes = jax.eval_shape(GPT().init, key, tokens)["params"]
print(jaxinit.describe(shapes, scheme, apply, (tokens,)))

params = jaxinit.init(GPT(), key, tokens, scheme=scheme)["params"]

scheme = [("head/*", jaxinit.zeros)]
finetune = jaxinit.reinit(jax.random.key(1), params, scheme, apply, (tokens,))
assert finetune["embed"]["embedding"] is params["embed"]["embedding"]
