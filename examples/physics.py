"""A physics-informed network: derivatives of the model by its inputs are the loss."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxinit
from jaxinit.compare import compare, make_task

WIDTHS = [2, 32, 32, 32, 1]


def init(key):
    """Kernels and biases of four layers."""
    keys = jax.random.split(key, len(WIDTHS) - 1)
    draw, pairs = jaxinit.glorot_normal(), zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
    return [
        {"w": draw(key, pair), "b": jnp.zeros(pair[1])}
        for key, pair in zip(keys, pairs, strict=True)
    ]


def apply(params, points):
    """Places and times (..., 2) to temperatures (...,)."""
    *hidden, last = params
    for layer in hidden:
        points = jnp.tanh(points @ layer["w"] + layer["b"])
    return (points @ last["w"] + last["b"])[..., 0]


def heat_equation(params, state, points, key, train):
    """u_t = u_xx / 10 inside, u = sin(pi x) at first and 0 at both ends."""

    def residual(point):
        u_t = jax.grad(apply, argnums=1)(params, point)[1]
        u_xx = jax.hessian(apply, argnums=1)(params, point)[0, 0]
        return u_t - 0.1 * u_xx

    x, t = points.T
    at = lambda x, t: apply(params, jnp.stack([x, t], axis=-1))  # noqa: E731
    first = at(x, jnp.zeros_like(t)) - jnp.sin(jnp.pi * x)
    ends = at(jnp.zeros_like(x), t) ** 2 + at(jnp.ones_like(x), t) ** 2
    loss = jnp.mean(jax.vmap(residual)(points) ** 2 + 10 * (first**2 + ends))
    true = jnp.exp(-0.1 * jnp.pi**2 * t) * jnp.sin(jnp.pi * x)
    error = jnp.sqrt(jnp.mean((at(x, t) - true) ** 2) / jnp.mean(true**2))
    return loss, (state, {"error": error})


points = np.random.default_rng(0).uniform(size=(1200, 2))
task = make_task(
    (init, apply),
    points[:1000],
    points[1000:],
    objective=heat_equation,
    metric="error",
    direction="min",
    target=0.1,
    name="heat equation",
)
result = compare(
    task,
    ["glorot_normal", "he_normal", "normal(0.01)"],
    learning_rates=[3e-3, 1e-2, 3e-2],
    seeds=4,
    tuning_seeds=1,
    steps=150,
    optimizers="adam",
    quiet=True,
)
result.show()
