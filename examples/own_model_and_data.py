"""Compare schemes on one's own model and data: here, two spirals and a NNX network."""

import numpy as np
from flax import nnx

import jaxinit
from jaxinit.compare import compare, make_task


def spirals(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (examples, 2) on two noisy interleaved spirals, and which of the two."""
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=examples)
    turn = np.sqrt(rng.uniform(0.05, 1, examples)) * 3 * np.pi
    angle = turn + np.pi * label
    x = np.stack([turn * np.cos(angle), turn * np.sin(angle)], axis=1) / 5
    return x + rng.normal(scale=0.05, size=x.shape), label


class Net(nnx.Module):
    """Six hidden layers of tanh."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Make the layers."""
        sizes = [2, *[64] * 6, 2]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairs])

    def __call__(self, x):
        """Map points (batch, 2) to logits (batch, 2)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.tanh(layer(x))
        return last(x)


def as_it_comes(key, params, apply, batch):
    """A scheme may be any function of the parameters: this one changes nothing."""
    return params


task = make_task(
    lambda rngs: Net(rngs),
    spirals(2000, 0),
    spirals(500, 1),
    target=0.95,
    name="spirals",
)
result = compare(
    task,
    [jaxinit.glorot_normal(), jaxinit.orthogonal(1.1), "normal(0.01)", as_it_comes],
    learning_rates=[0.003, 0.01, 0.03, 0.1, 0.3],
    seeds=5,
    steps=600,
    quiet=True,
)
result.show()
best = result.ranking()[0]
print(
    f"{best.scheme} first reaches the target, at learning rate {best.learning_rate:g}"
)
