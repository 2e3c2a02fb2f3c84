"""Whole models from a key: `jaxinit.init` against Flax's own `model.init`, cold.

Run from the root of the repository: `python benchmarks/whole_model.py`. Every
measurement is a process of its own, since a program is compiled once a process; the
contenders take turns. A ratio above 1 says how many times as fast jaxinit is.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinit

ROUNDS = timing.sized(3, 1)
TOKENS = jax.ShapeDtypeStruct((1, 16), jnp.int32)


class Transformer(nn.Module):
    """A decoder of Flax's own layers, learned positions, tied embedding."""

    layers: int
    width: int
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        """Map tokens (batch, time) to logits (batch, time, vocabulary)."""
        embed = nn.Embed(1024, self.width)
        places = self.param("places", nn.initializers.normal(0.02), (16, self.width))
        x = embed(tokens) + places
        for _ in range(self.layers):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(y)
            y = nn.Dense(4 * self.width)(nn.LayerNorm()(x))
            x = x + nn.Dense(self.width)(nn.gelu(y))
        return embed.attend(nn.LayerNorm()(x))


def by_jaxinit(layers: int, width: int) -> Any:
    """The variables by `jaxinit.init`."""
    model = Transformer(layers, width)
    scheme = jaxinit.lecun_normal()
    return jaxinit.init(model, jax.random.key(0), TOKENS, scheme=scheme)


def by_eager(layers: int, width: int) -> Any:
    """The variables by `model.init`."""
    tokens = jnp.zeros(TOKENS.shape, TOKENS.dtype)
    return Transformer(layers, width).init(jax.random.key(0), tokens)


def by_jit(layers: int, width: int) -> Any:
    """The variables by `jit(model.init)`."""
    tokens = jnp.zeros(TOKENS.shape, TOKENS.dtype)
    return jax.jit(Transformer(layers, width).init)(jax.random.key(0), tokens)


def seconds(make: str, layers: int, width: int) -> dict[str, float]:
    """Seconds from a fresh process's first call to the arrays."""
    jax.block_until_ready(jnp.zeros(8) + jax.random.normal(jax.random.key(1), (8,)))
    start = time.perf_counter()
    jax.block_until_ready(globals()[make](layers, width))
    return {"seconds": time.perf_counter() - start}


def peak(make: str, layers: int, width: int) -> dict[str, float]:
    """Peak memory beyond a tiny model's, in units of the parameters' bytes."""
    jax.block_until_ready(globals()[make](layers, 64))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    variables = jax.block_until_ready(globals()[make](layers, width))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sizes = [x.nbytes for x in jax.tree.leaves(variables)]
    return {"peak": (after - before) / sum(sizes), "leaf": max(sizes) / sum(sizes)}


def share(init: str) -> dict[str, float]:
    """The greatest part of any of eight devices, in units of an eighth.

    Arguments, results and what a program holds beside them, of the leaf's own program.
    """
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    scheme = jaxinit.parse(init)
    shape = (4096, 1024)
    draw = jax.jit(
        lambda key: scheme(key, shape, jnp.float32, NamedSharding(mesh, P("x")))
    )
    memory = draw.lower(jax.random.key(0)).compile().memory_analysis()
    assert memory is not None
    params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    rules = [("w", scheme)]
    placing = (mesh, [("w", P("x"))])
    drawn = jaxinit.reinit(jax.random.key(0), params, rules, out_shardings=placing)
    held = [shard.data.nbytes for shard in drawn["w"].addressable_shards]
    eighth = 4 * math.prod(shape) / 8
    held_and_beside = max(held) + memory.temp_size_in_bytes
    return {"held": max(held) / eighth, "with_temporaries": held_and_beside / eighth}


def fresh(*arguments: Any) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def turns(**contenders: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, arguments in contenders.items():
            spent[name].append(fresh("seconds", *arguments)["seconds"])
    return {name: np.array(times) for name, times in spent.items()}


def main() -> None:
    """Print the ratios and write the results."""
    rows: list[dict[str, Any]] = []
    layers, widths = timing.sized((48, (128, 1024)), (2, (16,)))
    for width in widths:
        times = turns(
            jaxinit=("by_jaxinit", layers, width),
            eager=("by_eager", layers, width),
            jit=("by_jit", layers, width),
        )
        rows.append(
            {
                "model": f"{layers} layers, width {width}",
                "seconds": {k: round(float(np.median(v)), 2) for k, v in times.items()},
                "times_as_fast_as_eager": timing.ratio(times, "eager", "jaxinit"),
                "times_as_fast_as_jit": timing.ratio(times, "jit", "jaxinit"),
            }
        )
        print(rows[-1], flush=True)
    deep, shallow, wide = timing.sized((96, 12, 2048), (8, 1, 64))
    width = round(wide / math.sqrt(8) / 4) * 4  # so that both have as many parameters
    times = turns(
        deep=("by_jaxinit", deep, width), shallow=("by_jaxinit", shallow, wide)
    )
    rows.append(
        {
            "model": f"{deep} layers against {shallow} of as many parameters",
            "seconds": {k: round(float(np.median(v)), 2) for k, v in times.items()},
            "times_as_long": timing.ratio(times, "deep", "shallow"),
        }
    )
    print(rows[-1], flush=True)
    for make in ("by_jaxinit", "by_eager"):
        rows.append({"peak memory": make, **fresh("peak", make, shallow, wide)})
        print(rows[-1], flush=True)
    for init in ("he_normal", "orthogonal"):
        rows.append({"part of a device of eight": init, **fresh("share", init)})
        print(rows[-1], flush=True)
    timing.write("whole_model", rows)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not timing.SMOKE:
        function, *rest = json.loads(sys.argv[1])
        print(json.dumps(globals()[function](*rest)))
    else:
        main()
