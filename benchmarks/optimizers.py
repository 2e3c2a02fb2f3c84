"""Does the best initialization depend on the optimizer? Three of them on three tasks.

Run from the root of the repository: `python benchmarks/optimizers.py`. Every scheme is
tuned under every optimizer at rates of its own, and no run goes on beyond twice the
fastest time of its optimizer (`stop_at`). Then the ladder: is the winner at a small
width the winner at a larger one, and how do the best rates of the standard start and
of muP go with the width? Results are `results/optimizers-cpu.json`.
"""

from __future__ import annotations

from typing import Any

import jax
import timing

from jaxinit import tree
from jaxinit.compare import compare, digits_mlp, ladder

TASKS = timing.sized(
    ("digits-mlp(depth=8)", "mnist1d-mlp", "regression-mlp"), ("linear(depth=1)",)
)
OPTIMIZERS = ("momentum", "adam", "muon")
SCHEMES = ("glorot_normal", "he_normal", "orthogonal(1.4142)", "normal(0.02)")
SEEDS, STEPS = timing.sized((10, 300), (2, 10))
WIDTHS = timing.sized((32, 64, 128, 256), (4, 8))
RATES = timing.sized(tuple(2.0**-k for k in range(12, 3, -1)), (0.01,))


def by_optimizer(task: str) -> dict[str, Any]:
    """What a task shows under each optimizer."""
    found = compare(
        task, SCHEMES, seeds=SEEDS, steps=STEPS, optimizers=OPTIMIZERS, runoff_seeds=4,
        stop_at=2, quiet=True,
    )  # fmt: skip
    summary = found.summary()
    across = found.across_optimizers()
    assert across is not None
    within = {
        name: {
            "verdict": part["verdict"],
            "notes": found.under(name).notes(),
            "steps at rates": {
                each["scheme"]: (each["steps_to_target"], each["learning_rate"])
                for each in part["ranking"]
            },
        }
        for name, part in summary["optimizers"].items()
    }
    row = {"task": task, "verdict": summary["verdict"], "runs": summary["runs"]}
    print(task, summary["verdict"], sep=": ")
    return {**row, "turned": len(across.turned), "within": within}


def climb() -> dict[str, Any]:
    """The ladder of widths, of the standard start and muP, by Adam."""
    base = digits_mlp(depth=2, width=WIDTHS[0], activation="tanh")
    shapes = jax.eval_shape(base.model.init, jax.random.key(0), base.x_train[:1])[0]
    schemes = ["lecun_normal", "orthogonal", "normal(0.02)", tree.mup(shapes)]
    found = ladder(
        "digits-mlp(depth=2, activation='tanh')", widths=WIDTHS, schemes=schemes,
        learning_rates=RATES, seeds=SEEDS, steps=STEPS, optimizers="adam",
        runoff_seeds=4, stop_at=2, eval_every=timing.sized(5, 2), quiet=True,
    )  # fmt: skip
    print(found.sentence(), *found.notes(), sep="\n")
    return {**found.summary(), "notes": found.notes()}


def main() -> None:
    """Print what each task shows, and write the results."""
    content = {
        "by optimizer": [by_optimizer(task) for task in TASKS],
        "by width": climb(),
    }
    timing.write("optimizers", content)


if __name__ == "__main__":
    main()
