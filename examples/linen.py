"""Initializers in Flax Linen: straight into `kernel_init=` and `bias_init=`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxinit


class Net(nn.Module):
    """A small convolutional network with an initialization chosen for each layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images (batch, 28, 28, 1) to logits (batch, 10)."""
        x = nn.Conv(32, (3, 3), kernel_init=jaxinit.delta_orthogonal(2**0.5))(x)
        x = nn.relu(x)
        # Eight groups: the fan-out of one group's kernel is an eighth.
        grouped = jaxinit.he_normal(mode="fan_out", groups=8)
        x = nn.relu(nn.Conv(64, (3, 3), feature_group_count=8, kernel_init=grouped)(x))
        x = x.mean(axis=(1, 2))
        return nn.Dense(10, kernel_init=jaxinit.zeros, bias_init=jaxinit.zeros)(x)


model = Net()
images = jax.random.normal(jax.random.key(1), (8, 28, 28, 1))
params = model.init(jax.random.key(0), images)["params"]
for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    print(f"{name:20} {str(leaf.shape):18} std {float(jnp.std(leaf)):.4f}")
