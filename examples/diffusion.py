"""A diffusion model of digits: noise and its time are drawn in the objective."""

import jax
import jax.numpy as jnp
from flax import nnx
from sklearn.datasets import load_digits

from jaxinit.compare import as_model, compare, make_task


class Denoiser(nnx.Module):
    """Noisy pixels (batch, 64) and their times (batch, 1) to the noise."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Make the layers."""
        sizes = [64 + 16, 128, 128, 128, 64]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairs])

    def __call__(self, x, time):
        """Tell the noise."""
        waves = time * jnp.exp2(jnp.arange(8.0))
        x = jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], axis=-1)
        *hidden, last = self.layers
        for layer in hidden:
            x = nnx.silu(layer(x))
        return last(x)


def make(rngs):
    """Make the model."""
    return Denoiser(rngs)


model = as_model(make)


def denoising(params, state, x, key, train):
    """The squared error of the noise, at times drawn uniformly (Ho et al. 2020)."""
    of_time, of_noise = jax.random.split(key)
    time = jax.random.uniform(of_time, (len(x), 1))
    noise = jax.random.normal(of_noise, x.shape)
    noisy = jnp.cos(time * jnp.pi / 2) * x + jnp.sin(time * jnp.pi / 2) * noise
    told, state = model.apply(params, state, (noisy, time), key, train)
    return jnp.square(told - noise).mean(), (state, {})


pixels, _ = load_digits(return_X_y=True)
x = (pixels / 8 - 1).astype("float32")
task = make_task(
    make,
    x[:1400],
    x[1400:],
    objective=denoising,
    inputs=(x[:64], x[:64, :1]),
    target=0.38,
    name="diffusion",
)
result = compare(
    task,
    ["he_normal", "lecun_normal", "orthogonal"],
    learning_rates=[1e-3, 3e-3, 1e-2],
    seeds=4,
    tuning_seeds=1,
    steps=200,
    optimizers="adam",
    quiet=True,
)
result.show()
