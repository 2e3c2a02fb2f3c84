"""Initializers in Flax NNX, and as values: compared, printed, parsed."""

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinit

init = jaxinit.he_normal(gain=1.0, distribution="normal")
print(init, "->", jaxinit.parse(repr(init)) == init)

layer = nnx.Linear(256, 512, kernel_init=init, rngs=nnx.Rngs(0))
print(f"linear     std {float(layer.kernel[...].std()):.4f}, wanted {256**-0.5:.4f}")

cell = nnx.LSTMCell(
    64, 128, recurrent_kernel_init=jaxinit.orthogonal(), rngs=nnx.Rngs(1)
)
gate = cell.hf.kernel[...]
print(f"recurrent  W'W = I within {float(abs(gate.T @ gate - jnp.eye(128)).max()):.1e}")

attention = nnx.MultiHeadAttention(
    4, 64, kernel_init=jaxinit.xavier_uniform(), decode=False, rngs=nnx.Rngs(2)
)
x = jax.random.normal(jax.random.key(3), (2, 10, 64))
print(f"attention  {x.shape} -> {attention(x).shape}")
