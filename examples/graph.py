"""A graph network: a graph is a named tuple, and that is one input of the model."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxinit.compare import compare, make_task


class Graphs(NamedTuple):
    """Graphs of 12 nodes, padded; each field has a leading axis of graphs.

    Attributes:
        edges: (graphs, 12, 12), 1 between neighbours.
        nodes: (graphs, 12), 1 where there is a node.
    """

    edges: np.ndarray
    nodes: np.ndarray


def random_graphs(count: int, seed: int) -> tuple[Graphs, np.ndarray]:
    """Random graphs, and how many triangles each has, of four classes."""
    rng = np.random.default_rng(seed)
    nodes = (np.arange(12) < rng.integers(6, 13, (count, 1))).astype(np.float32)
    upper = np.triu(rng.random((count, 12, 12)) < 0.3, 1)
    edges = (upper | upper.transpose(0, 2, 1)) * nodes[:, :, None] * nodes[:, None]
    triangles = np.trace(edges @ edges @ edges, axis1=1, axis2=2) / 6
    return Graphs(edges, nodes), np.digitize(triangles, [0.5, 2.5, 5.5])


class GraphNetwork(nn.Module):
    """Rounds of messages along edges, and a sum over nodes."""

    @nn.compact
    def __call__(self, graphs):
        """Graphs to logits (graphs, 4)."""
        x = jnp.eye(12) * graphs.nodes[..., None]  # nodes know each other apart
        for _ in range(4):
            heard = graphs.edges @ nn.Dense(32)(x)
            x = nn.relu(nn.Dense(32)(x) + heard) * graphs.nodes[..., None]
        return nn.Dense(4)(nn.relu(nn.Dense(32)(x.mean(axis=1))))


task = make_task(
    GraphNetwork(),
    random_graphs(2000, 0),
    random_graphs(500, 1),
    target=0.7,
    name="triangles",
    eval_every=5,
)
result = compare(
    task,
    ["he_normal", "lecun_normal", "normal(0.01)"],
    learning_rates=[3e-3, 1e-2, 3e-2],
    seeds=4,
    tuning_seeds=1,
    steps=100,
    optimizers="adam",
    quiet=True,
)
result.show()
