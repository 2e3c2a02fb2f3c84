"""Spectra of state-space models: finite, and inside the unit circle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jaxinit as ji


@pytest.mark.parametrize(("r_min", "r_max"), [(0.0, 1.0), (0.9, 1.0), (0.999, 1.0)])
@pytest.mark.parametrize("scheme", [ji.lru_nu_log, ji.lru_gamma_log])
def test_a_ring_that_touches_the_circle_stays_inside_it(scheme, r_min, r_max):
    # Of 2**22 moduli near 1 some round up to it, whose logarithm of a logarithm is
    # infinite: 67 of them at r_min = 0.999 unless they are held below.
    draw = jax.jit(lambda key: scheme(r_min, r_max)(key, (2**22,)))(jax.random.key(1))
    assert jnp.isfinite(draw).all()


def test_gamma_belongs_to_the_moduli_of_the_same_key(key):
    nu = ji.lru_nu_log(0.5, 0.9)(key, (4096,))
    gamma = jnp.exp(ji.lru_gamma_log(0.5, 0.9)(key, (4096,)))
    modulus = jnp.exp(-jnp.exp(nu))
    assert jnp.allclose(gamma**2 + modulus**2, 1, atol=1e-6)
