"""Schemes of one's own, as a module of their own has them."""

import jax

import jaxinit


@jaxinit.initializer(entrywise=True)
def signs(scale: float = 1.0, dtype=None):
    return lambda key, shape, dtype: scale * jax.random.rademacher(key, shape, dtype)


@jaxinit.tree.tree_scheme
def quiet_heads(scale: float = 0.0):
    def assign(structure):
        return {head.path: jaxinit.constant(scale) for head in structure.heads}

    return assign
