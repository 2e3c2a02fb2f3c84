"""The coordinate check: do activations keep their size as the width grows?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._types import Array, Key
from jaxinit.trace import outputs
from jaxinit.tree._combine import SchemeLike
from jaxinit.tree._reinit import reinit
from jaxinit.tree.schemes.mup import MuP


class CoordinateCheck(NamedTuple):
    """Sizes of activations over widths and steps.

    Attributes:
        widths: the widths, ascending.
        sizes: for each kernel's path the root mean square of its output, over all
            layers of a scan, an array (steps + 1, widths), the geometric mean over
            seeds.
    """

    widths: tuple[int, ...]
    sizes: dict[str, np.ndarray]

    def slopes(self) -> dict[str, np.ndarray]:
        """Slope of log size over log width for each kernel, one per step.

        Near 0 where sizes hold; under the standard parametrization the outputs of
        hidden layers grow after the first step. NaN where an output is zero, as a
        readout's is at first.
        """
        x = np.log(np.array(self.widths, float))
        x = x - x.mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = {path: np.log(size) for path, size in self.sizes.items()}
            return {path: (y @ x) / (x @ x) for path, y in logs.items()}

    def plot(self) -> Any:
        """Sizes over widths, a panel per step and a line per kernel; matplotlib's."""
        from matplotlib.figure import Figure

        steps = len(next(iter(self.sizes.values())))
        figure = Figure(figsize=(2.6 * steps, 3.4), layout="constrained")
        panels = figure.subplots(1, steps, sharey=True, squeeze=False)[0]
        for step, axes in enumerate(panels):
            for path, size in self.sizes.items():
                axes.plot(self.widths, size[step], "o-", ms=3, lw=1.2, label=path)
            axes.set(xscale="log", yscale="log", xlabel="width", title=f"step {step}")
            axes.grid(alpha=0.25, lw=0.6)
        panels[0].set_ylabel("root mean square of the output")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3,
            fontsize=7,
            frameon=False,
        )
        return figure


def coordinate_check(
    build: Callable[[int], tuple[Any, Callable[..., Any]]],
    widths: Sequence[int],
    inputs: Sequence[Any],
    scheme: SchemeLike,
    *,
    loss: Callable[[Any], Array] | None = None,
    optimizer: Any = None,
    steps: int = 4,
    seeds: int = 3,
    key: Key | None = None,
) -> CoordinateCheck:
    """Train a model at several widths for a few steps, and watch its activations.

    Args:
        build: `build(width) -> (params, apply)`: parameters of any kind that
            `jaxinit.reinit` takes, and `apply(params, *inputs)`.
        widths: two widths or more.
        inputs: the inputs of every step.
        scheme: as in `jaxinit.reinit`; a `MuP` brings its learning rates.
        loss: `loss(outputs) -> scalar`; the mean square distance from a fixed normal
            draw if None.
        optimizer: an Optax transform; `optax.adam(1e-2)` if None.
        steps: optimizer steps.
        seeds: initializations over which sizes are averaged.
        key: one PRNG key; `jax.random.key(0)` if None.

    Returns:
        The `CoordinateCheck`.

    Raises:
        ValueError: fewer than two widths, or a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> def build(width):
        ...     params = {"w": jnp.ones((4, width)), "v": jnp.ones((width, 2))}
        ...     return params, lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> x = jax.random.normal(jax.random.key(1), (8, 4))
        >>> scheme = jaxinit.tree.mup(build(32)[0])
        >>> check = coordinate_check(build, [64, 256], (x,), scheme)
        >>> bool(abs(check.slopes()["w"]).max() < 0.2)
        True

    References:
        Yang et al. 2022, arXiv:2203.03466, appendix D.1.
    """
    import optax

    if len(set(widths)) < 2:
        raise ValueError(
            f"coordinate_check: widths={list(widths)} must be two or more numbers."
        )
    _checks.integer("coordinate_check", steps=steps, seeds=seeds)
    first_key = jax.random.key(0) if key is None else key
    optimizer = optax.adam(1e-2) if optimizer is None else optimizer
    columns = []
    for width in sorted(set(widths)):
        params, apply = build(width)
        chain = optimizer
        if isinstance(scheme, MuP):
            chain = optax.chain(optimizer, scheme.transform(params, apply, inputs))

        def run(key: Key, params=params, apply=apply, chain=chain) -> dict[str, Array]:
            draw_key, target_key = jax.random.split(key)
            params = reinit(draw_key, params, scheme, apply, inputs)

            def objective(params: Any) -> Array:
                out = apply(params, *inputs)
                if loss is not None:
                    return loss(out)
                return jnp.mean((out - jax.random.normal(target_key, out.shape)) ** 2)

            def step(carry: Any, _: None) -> tuple[Any, dict[str, Array]]:
                params, state = carry
                seen = outputs(apply, params, *inputs)
                sizes = {k: jnp.sqrt(jnp.mean(v**2)) for k, v in seen.items()}
                updates, state = chain.update(
                    jax.grad(objective)(params), state, params
                )
                return (optax.apply_updates(params, updates), state), sizes

            carry = (params, chain.init(params))
            return jax.lax.scan(step, carry, length=steps + 1)[1]

        sizes = jax.jit(jax.vmap(run))(jax.random.split(first_key, seeds))
        columns.append({path: np.asarray(size) for path, size in sizes.items()})
    with np.errstate(divide="ignore"):
        means = [
            {path: np.exp(np.log(size).mean(axis=0)) for path, size in column.items()}
            for column in columns
        ]
    return CoordinateCheck(
        tuple(sorted(set(widths))),
        {path: np.stack([m[path] for m in means], axis=1) for path in means[0]},
    )
