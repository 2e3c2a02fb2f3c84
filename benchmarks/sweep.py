"""The sweep engine against the loops that people write: ratios of time a run.

Run from the root of the repository: `python benchmarks/sweep.py`. The contenders take
turns in one process; all are compiled before. A ratio above 1 says how many times as
fast jaxinit is. PyTorch is compared where it is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing

from jaxinit.compare import machine
from jaxinit.compare.task import builtin
from jaxinit.compare.task.training import Hparams
from jaxinit.compare.train.engine import Engine
from jaxinit.compare.train.runners import STRATEGIES
from jaxinit.compare.train.trainer import Config, make_trainer, source_of

WORK: dict[str, tuple[Callable[[], Any], int, int]] = {
    "digits MLP 2 x 32, 160 runs": (lambda: builtin.digits_mlp(2, 32), 160, 100),
    "digits MLP 8 x 128, 64 runs": (lambda: builtin.digits_mlp(8, 128), 64, 50),
    "digits CNN, 32 channels, 32 runs": (lambda: builtin.digits_cnn(3, 32), 32, 10),
    "text transformer, 16 runs": (lambda: builtin.text_transformer(), 16, 10),
}
"""Task, runs of the sweep, and optimizer steps to time of each run."""

SMALL = "digits MLP 2 x 32, 160 runs"

BATCH = 64


def arguments(task: Any, runs: int) -> tuple[Any, ...]:
    """The arguments of `Engine.train`: the model's own start, one key a run."""
    keys = jax.random.split(jax.random.key(0), runs)
    params, state = jax.vmap(lambda k: task.model.init(k, task.x_train[:1]))(keys)
    return params, state, keys, Hparams(jnp.full(runs, 0.01, jnp.float32))


def by_engine(task: Any, runs: int, steps: int, strategy: Any) -> Callable[[], float]:
    """Seconds a run by the engine, without start and evaluation at step 0."""
    config = Config(2 * steps, steps, BATCH, "momentum")
    engine = Engine(
        make_trainer(task, config), config, source_of(task, config), strategy
    )
    given = arguments(task, runs)

    def run() -> float:
        moments = []
        for _ in engine.train(*given):
            moments.append(time.perf_counter())
        return (moments[2] - moments[1]) / runs

    return run


def by_jitted_loop(task: Any, runs: int, steps: int) -> Callable[[], float]:
    """Seconds a run of a jitted step in a Python loop, one run after another."""
    config = Config(2 * steps, steps, BATCH, "momentum")
    trainer = make_trainer(task, config)
    data = jax.tree.map(jnp.asarray, next(source_of(task, config)(0)))
    start, plan = jax.jit(trainer.start), jax.jit(trainer.plan)
    step = jax.jit(trainer.step, donate_argnums=1)
    finish = jax.jit(trainer.finish)
    given = jax.tree.map(lambda x: x[0], arguments(task, 1))

    def run() -> float:
        state, _ = start(data, *given)
        jax.block_until_ready(state)
        began = time.perf_counter()
        batches = plan(data, state)
        for i in range(steps):
            state = step(data, state, batches, i)
        jax.block_until_ready(finish(data, state))
        return time.perf_counter() - began

    return run


def by_torch(task: Any, steps: int) -> Callable[[], float]:
    """Seconds a run of the usual PyTorch loop on a model of the same layers."""
    torch = importlib.import_module("torch")
    shapes = jax.eval_shape(task.model.init, jax.random.key(0), task.x_train[:1])[0]
    x = torch.tensor(task.x_train)
    if task.name.startswith("text-transformer"):
        model, x = torch_transformer(torch, shapes, x.shape[1]), x.long()
    else:
        model, x = torch_sequential(torch, shapes, x)
    y = torch.tensor(task.y_train, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loss = torch.nn.CrossEntropyLoss()

    def run() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            batch = torch.randint(len(x), (BATCH,))
            optimizer.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        return time.perf_counter() - began

    return run


def torch_sequential(torch: Any, shapes: Any, x: Any) -> tuple[Any, Any]:
    """The perceptron or convolutional network, and its inputs."""
    layers: list[Any] = []
    for name in sorted(shapes, key=lambda n: (n.startswith("Dense"), n)):
        kernel = shapes[name]["kernel"].shape
        if len(kernel) == 4:
            stride = 1 if layers else 2
            size = kernel[2], kernel[3], kernel[0], stride
            layers.append(torch.nn.Conv2d(*size, padding=1))
        else:
            if layers and isinstance(layers[-2], torch.nn.Conv2d):
                layers.append(torch.nn.Flatten())
            layers.append(torch.nn.Linear(*kernel))
        layers.append(torch.nn.ReLU())
    if isinstance(layers[0], torch.nn.Conv2d):
        x = x.movedim(-1, 1) if x.ndim == 4 else x.reshape(len(x), 1, 8, 8)
    return torch.nn.Sequential(*layers[:-1]), x


def torch_transformer(torch: Any, shapes: Any, length: int) -> Any:
    """The pre-normalised causal transformer, of torch's own layers."""
    vocabulary, width = shapes["Embed_0"]["embedding"].shape
    name = "MultiHeadDotProductAttention_"
    heads = shapes[f"{name}0"]["query"]["kernel"].shape[1]
    depth = sum(each.startswith(name) for each in shapes)

    class Transformer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = torch.nn.Embedding(vocabulary, width)
            self.places = torch.nn.Embedding(length, width)
            block = torch.nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.blocks = torch.nn.TransformerEncoder(
                block, depth, torch.nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.head = torch.nn.Linear(width, vocabulary)

        def forward(self, x: Any) -> Any:
            mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
            stream = self.tokens(x) + self.places.weight
            return self.head(self.blocks(stream, mask, is_causal=True)).movedim(-1, 1)

    return Transformer()


def measured(contenders: dict[str, Callable[[], float]], rounds: int = 4) -> Any:
    """Seconds a run of each contender in each round, after one to compile."""
    for run in contenders.values():
        run()
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            spent[name].append(run())
    return {name: np.array(times) for name, times in spent.items()}


def row_of(work: str) -> dict[str, Any]:
    """One kind of work: every strategy, the loops, and their ratios."""
    make, runs, steps = WORK[work]
    runs, steps = timing.sized((runs, steps), (4, 10))
    task = make()
    convolved = "CNN" in work
    contenders: dict[str, Callable[[], float]] = {
        strategy: by_engine(task, runs, steps, strategy)
        for strategy in STRATEGIES
        if not (convolved and strategy != "loop")
    }
    contenders["jitted loop"] = by_jitted_loop(task, runs, steps)
    if importlib.util.find_spec("torch"):
        contenders["torch loop"] = by_torch(task, steps)
    times = measured(contenders)
    best = min(
        (name for name in times if name in STRATEGIES),
        key=lambda name: float(np.median(times[name])),
    )
    row: dict[str, Any] = {
        "work": work,
        "ms_a_run_and_step": {
            name: round(1e3 * float(np.median(t)) / steps, 3)
            for name, t in times.items()
        },
        "best": best,
        "times_as_fast_as_jitted_loop": timing.ratio(times, "jitted loop", best),
    }
    if "torch loop" in times:
        row["times_as_fast_as_torch"] = timing.ratio(times, "torch loop", best)
    if "8 x 128" in work:
        row["share_of_matmul_peak"] = share_of_peak(task, times[best] / steps)
    return row


def share_of_peak(task: Any, seconds: np.ndarray) -> float:
    """Arithmetic of a step against the rate of 2048-square products on all cores."""
    shapes = jax.eval_shape(task.model.init, jax.random.key(0), task.x_train[:1])[0]
    kernels = [leaf for leaf in jax.tree.leaves(shapes) if leaf.ndim == 2]
    work = 6 * BATCH * sum(leaf.size for leaf in kernels)  # forward, and twice back
    # Every device multiplies by itself, as in a sweep.
    count = jax.local_device_count()
    x = jnp.ones((count, 2048, 2048))
    product = jax.pmap(jnp.matmul)
    jax.block_until_ready(product(x, x))
    spent = []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(product(x, x))
        spent.append(time.perf_counter() - began)
    peak = count * 2 * 2048**3 / min(spent)
    return round(float(work / np.median(seconds)) / peak, 2)


def main() -> None:
    """Print a row a kind of work, and write the results."""
    machine.use_all_cores()
    rows = []
    for work in timing.sized(list(WORK), [SMALL]):
        rows.append(row_of(work))
        print(rows[-1], flush=True)
    timing.write("sweep", rows)


if __name__ == "__main__":
    main()
