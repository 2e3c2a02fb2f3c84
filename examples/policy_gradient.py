"""A policy gradient agent: the training loop is one's own, and so are its data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxinit.compare import Training, compare, training_task

EPISODES, STEPS = 16, 100


class Policy(nn.Module):
    """Where and how fast cart and pole are (..., 4), to logits of left and right."""

    @nn.compact
    def __call__(self, x):
        """Choose."""
        for _ in range(2):
            x = nn.tanh(nn.Dense(32)(x))
        return nn.Dense(2)(x)


def act(params, x) -> Any:
    """The logits of a policy."""
    return Policy().apply({"params": params}, x)


def pushed(x, action):
    """The cart and the pole 20 ms after a push (Barto et al. 1983)."""
    _, speed, angle, spin = x
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    push = (20.0 * action - 10 + 0.05 * spin**2 * sin) / 1.1
    turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    change = jnp.stack([speed, push - 0.05 * turn * cos / 1.1, spin, turn])
    return x + 0.02 * change


def episode(params, key):
    """Observations, actions and whether the pole still stands, step by step."""
    start, key = jax.random.split(key)

    def step(carry, key):
        x, stands = carry
        action = jax.random.categorical(key, act(params, x))
        after = pushed(x, action)
        still = stands & (jnp.abs(after[0]) < 2.4) & (jnp.abs(after[2]) < 0.2)
        return (jnp.where(still, after, x), still), (x, action, stands)

    begin = jax.random.uniform(start, (4,), minval=-0.05, maxval=0.05), True
    return jax.lax.scan(step, begin, jax.random.split(key, STEPS))[1]


def played(params, key):
    """Some episodes at once: arrays (episodes, steps, ...)."""
    keys = jax.random.split(key, EPISODES)
    return jax.vmap(lambda key: episode(params, key))(keys)


class State(NamedTuple):
    """All that a training carries from step to step."""

    params: Any
    opt_state: Any
    key: jax.Array
    learning_rate: jax.Array


def init(key):
    """The policy as Flax initializes it."""
    return Policy().init(key, jnp.zeros(4))["params"]


def begin(params, key, hparams):
    """The state before the first step."""
    opt_state = optax.adam(hparams.learning_rate).init(params)
    return State(params, opt_state, key, hparams.learning_rate)


def step(state):
    """REINFORCE (Williams 1992): play, and make what went well more likely."""
    key, own = jax.random.split(state.key)
    x, actions, stands = played(state.params, own)
    to_go = jnp.cumsum(stands[:, ::-1], axis=1)[:, ::-1].astype(jnp.float32)
    advantage = (to_go - to_go.mean()) / (to_go.std() + 1e-6)

    def loss(params):
        cost = optax.softmax_cross_entropy_with_integer_labels(act(params, x), actions)
        return (cost * advantage * stands).sum() / stands.sum()

    value, grads = jax.value_and_grad(loss)(state.params)
    optimizer = optax.adam(state.learning_rate)
    updates, opt_state = optimizer.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return State(params, opt_state, key, state.learning_rate), value


def evaluate(state):
    """How long the pole stands, in steps, at most 100."""
    _, _, stands = played(state.params, jax.random.key(0))
    return {"length": stands.sum(axis=1).mean()}


task = training_task(
    Training(init, begin, step, evaluate),
    metric="length",
    direction="max",
    target=80.0,
    name="cart pole",
    apply=act,
    inputs=jnp.zeros((8, 4)),
    eval_every=5,
)
result = compare(
    task,
    ["orthogonal", "lecun_normal", "normal(0.01)"],
    learning_rates=[0.003, 0.01, 0.03],
    seeds=4,
    tuning_seeds=1,
    steps=100,
    quiet=True,
)
result.show()
