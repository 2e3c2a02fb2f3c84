"""Sweep the gain of a deep network's initialization in one compiled program, by `vmap`.

Numeric parameters of an initializer may be traced, so a sweep over them is a `vmap`.
"""

import jax
import jax.numpy as jnp

import jaxinit

DEPTH, WIDTH = 50, 256


def log10_growth(gain: jax.Array, key: jax.Array) -> jax.Array:
    """Decimal digits by which a signal grows through a ReLU network."""
    init = jaxinit.he_normal(gain=gain)
    x = jax.random.normal(key, (32, WIDTH))
    before = jnp.log10(x.std())
    for layer_key in jax.random.split(key, DEPTH):
        x = jax.nn.relu(x @ init(layer_key, (WIDTH, WIDTH)))
    return jnp.log10(jnp.sqrt((x**2).mean() * 2)) - before


gains = jnp.array([1.0, 1.2, 1.3, 2**0.5, 1.5, 1.6, 2.0])
keys = jax.random.split(jax.random.key(0), 8)
sweep = jax.jit(jax.vmap(jax.vmap(log10_growth, (None, 0)), (0, None)))
growth = sweep(gains, keys)
for gain, row in zip(gains, growth, strict=True):
    print(
        f"gain {gain:.3f}: the signal grows by 10^({row.mean():+.1f} ± {row.std():.1f})"
    )
