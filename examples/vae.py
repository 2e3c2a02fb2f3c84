"""A variational autoencoder of digits: the objective draws, and has no labels."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from sklearn.datasets import load_digits

from jaxinit.compare import as_model, compare, make_task

CODE = 4


class VAE(nn.Module):
    """Pixels (batch, 64) and noise (batch, 4) to logits, mean and log-variance."""

    @nn.compact
    def __call__(self, x, noise):
        """Encode, draw a code, decode."""
        for width in (128, 128, 64):
            x = nn.relu(nn.Dense(width)(x))
        mean, log_var = jnp.split(nn.Dense(2 * CODE)(x), 2, axis=-1)
        x = mean + jnp.exp(log_var / 2) * noise
        for width in (64, 128, 128):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(64)(x), mean, log_var


model = as_model(VAE())


def negative_elbo(params, state, x, key, train):
    """Minus the evidence lower bound, in nats an image, and its two parts."""
    noise = jax.random.normal(key, (len(x), CODE))
    (logits, mean, log_var), state = model.apply(params, state, (x, noise), key, train)
    log_likelihood = x * nn.log_sigmoid(logits) + (1 - x) * nn.log_sigmoid(-logits)
    reconstruction = -log_likelihood.sum(-1).mean()
    kl = (jnp.exp(log_var) + mean**2 - 1 - log_var).sum(-1).mean() / 2
    return reconstruction + kl, (state, {"reconstruction": reconstruction, "kl": kl})


pixels, _ = load_digits(return_X_y=True)
x = (pixels / 16).astype("float32")
task = make_task(
    VAE(),
    x[:1400],
    x[1400:],
    objective=negative_elbo,
    inputs=(x[:8], x[:8, :CODE]),  # what the model takes; here for their shapes
    target=27.0,
    name="vae",
)
result = compare(
    task,
    ["he_normal", "lecun_normal", "normal(0.01)"],
    learning_rates=[1e-3, 3e-3, 1e-2],
    seeds=4,
    tuning_seeds=1,
    steps=150,
    optimizers="adam",
    quiet=True,
)
result.show()
