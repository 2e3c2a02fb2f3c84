"""Does the best learning rate hold as the width grows? muP against the standard start.

Run from the root of the repository: `python benchmarks/mup.py`. A multilayer perceptron
with two hidden layers learns the digits by Adam at widths from 64 to 1024, over a grid
of rates of factors 2, each with three seeds (Yang et al. 2022, arXiv:2203.03466, figure
1: under muP the best rate stays, under the standard parametrization it falls with the
width).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
from flax import linen as nn
from sklearn.datasets import load_digits

import jaxinit

WIDTHS = timing.sized((64, 128, 256, 512, 1024), (64, 128))
RATES = 2.0 ** np.arange(-13, -2, timing.sized(1, 5))
SEEDS, STEPS, BATCH = 3, timing.sized(200, 60), 64


class MLP(nn.Module):
    """Two hidden layers of tanh."""

    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Map (batch, 64) to logits (batch, 10)."""
        for _ in range(2):
            x = nn.tanh(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


def losses(width: int, scheme: Any) -> np.ndarray:
    """Mean training loss of the last 50 steps, (rates, seeds)."""
    x, y = load_digits(return_X_y=True)
    x = jnp.asarray((x - x.mean()) / x.std(), jnp.float32)
    y = jnp.asarray(y, jnp.int32)
    model = MLP(width)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x[:1])["params"]

    def apply(params: Any, x: Any) -> Any:
        return model.apply({"params": params}, x)

    transform = optax.identity()
    if isinstance(scheme, jaxinit.tree.MuP):
        transform = scheme.transform(shapes, apply, (x[:1],))

    def run(rate: Any, key: Any) -> Any:
        variables = jaxinit.init(model, key, x[:1], scheme=scheme)
        optimizer = optax.chain(optax.scale_by_adam(), transform)

        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            batch = jax.random.randint(key, (BATCH,), 0, len(x))

            def loss(params: Any) -> Any:
                logits = apply(params, x[batch])
                return optax.softmax_cross_entropy_with_integer_labels(
                    logits, y[batch]
                ).mean()

            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state, params)
            updates = jax.tree.map(lambda u: -rate * u, updates)
            return (optax.apply_updates(params, updates), state), value

        params = variables["params"]
        carry = (params, optimizer.init(params))
        _, curve = jax.lax.scan(step, carry, jax.random.split(key, STEPS))
        return curve[-50:].mean()

    keys = jax.random.split(jax.random.key(0), SEEDS)
    grid = jax.vmap(lambda rate: jax.vmap(lambda key: run(rate, key))(keys))
    return np.asarray(jax.jit(grid)(jnp.asarray(RATES, jnp.float32)))


def main() -> None:
    """Print the best rate at each width, and write the results."""
    base = jax.eval_shape(MLP(64).init, jax.random.key(0), jnp.ones((1, 64)))["params"]
    schemes = {"muP": jaxinit.tree.mup(base), "standard": jaxinit.lecun_normal()}
    rows = []
    for name, scheme in schemes.items():
        best = {}
        for width in WIDTHS:
            loss = losses(width, scheme).mean(axis=1)
            best[width] = float(np.log2(RATES[np.nanargmin(loss)]))
            print(name, width, "best rate 2 **", best[width], flush=True)
        rows.append(
            {
                "parametrization": name,
                "log2_of_best_rate": best,
                "steps_of_the_grid_moved": best[WIDTHS[-1]] - best[WIDTHS[0]],
            }
        )
    timing.write("mup", rows)


if __name__ == "__main__":
    main()
