"""Sweeps for tests: made up, with numbers known by hand, and of a small network."""

from __future__ import annotations

import html.parser
import math

import numpy as np
import pyarrow as pa
from flax import linen as nn

from jaxinit.compare import compare, make_task
from jaxinit.compare.report.result import Result
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep

RNG = np.random.default_rng(0)
Y = RNG.integers(3, size=96)
X = (RNG.normal(size=(96, 5)) + 2 * np.eye(5)[Y]).astype(np.float32)
TRAIN, VALID = (X[:64], Y[:64]), (X[64:], Y[64:])


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))


def task(**options):
    """Three classes of five features by a small network."""
    return make_task(Net(), TRAIN, VALID, **{"target": 0.9, **options})


def sweep(
    schemes=("he_normal", "normal(1)"),
    rates=(0.01, 0.1),
    seeds=2,
    target=0.9,
    **options,
):
    """A short sweep of that task."""
    short = {"steps": 20, "eval_every": 5, "batch_size": 16}
    short |= {"tuning_seeds": 0, "quiet": True}
    return compare(task(target=target), schemes, rates, seeds, **short | options)


STEPS, EVERY = 100, 10
"""Of the sweeps that are made up."""


def settings(schemes, rates=(0.1,), seeds=4, **more):
    """Settings of a sweep with so many seeds in all."""
    more = {
        "task": "linear(depth=2, width=4)",
        "parts": {"model": "m"},
        "loss_name": "cross_entropy",
        "metric_name": "accuracy",
        "direction": "max",
        "target": 0.9,
        "steps": STEPS,
        "eval_every": EVERY,
        "batch_size": 16,
        "optimizers": ("sgd()",),
        "versions": {"python": "3", "jax": "0"},
        "device": "1 x cpu",
        "tuning_seeds": 0,
        **more,
    }
    seeds -= more["tuning_seeds"]
    return Settings(
        schemes=tuple(schemes), learning_rates=tuple(rates), seeds=seeds, **more
    )


def of_rows(rows, settings, seconds=1.0):
    """The result of runs that are made up."""
    return Result(Sweep(pa.Table.from_pylist(rows, SCHEMA), settings, seconds))


def run(
    scheme, seed, steps, rate=0.1, task=None, final=0.95, version="0", loss=0.1,
    costs=(None, None), optimizer="sgd()",
):  # fmt: skip
    """A run that reaches the target at `steps`; None misses it, "diverged" diverges."""
    gone = steps == "diverged"
    when = list(range(0, STEPS + 1, EVERY))
    bad = math.nan if gone else None
    return {
        "run_id": f"{scheme}-{rate}-{seed}-{task}-{version}{optimizer}",
        "task": task or "linear(depth=2, width=4)",
        "scheme": scheme,
        "optimizer": optimizer,
        "learning_rate": rate,
        "seed": seed,
        "status": "diverged" if gone else "finished",
        "steps_to_target": None if gone else steps,
        "final_train_loss": math.nan if gone else loss,
        "final_valid_loss": math.nan if gone else 0.2,
        "final_valid_metric": math.nan if gone else final,
        "best_valid_metric": math.nan if gone else final,
        "eval_steps": when,
        "train_loss": [2.0, *(bad or 0.1 + 1 / (1 + step) for step in when[1:])],
        "valid_loss": [2.0, *(bad or 0.2 + 1 / (1 + step) for step in when[1:])],
        "valid_metric": [0.1, *(bad or final for _ in when[1:])],
        "init_seconds": costs[0],
        "step_seconds": costs[1],
    }


def result(times, rate=0.1, inits=(), **more):
    """A sweep from scheme -> times by seed, at one rate; `inits` are their seconds."""
    inits = dict(inits)
    costs = {scheme: (inits.get(scheme), 0.001 if inits else None) for scheme in times}
    rows = [
        run(scheme, seed, steps, rate, more.get("task"), costs=costs[scheme])
        for scheme, each in times.items()
        for seed, steps in enumerate(each)
    ]
    seeds = max(map(len, times.values()))
    return of_rows(rows, settings(times, [rate], seeds, **more), 1.5)


FAST, SLOW = [10, 20, 10, 20], [30, 50, 40, 50]
# Logs of the ratios 3, 2.5, 4, 2.5: mean 1.0794, deviation 0.2220, which a clock of 10
# steps makes 0.2395; t(3) = 3.1824.


def two_rates(missing=False):
    rows = [run("a", seed, 20, 0.1) for seed in range(3)]
    rows += [run("a", seed, None, 0.2) for seed in range(3)]
    rows += [run("b", seed, 40 + 10 * seed, 0.1) for seed in range(3)]
    rows += [] if missing else [run("b", seed, 10, 0.2) for seed in range(3)]
    return of_rows(rows, settings(["a", "b"], [0.1, 0.2], 3), math.nan)


EVIL = "<script>alert(1)</script>\"'&amp;"


def store_of(folder, swept):
    swept.save(folder)
    return str(folder)


class Page(html.parser.HTMLParser):
    """A page read by a parser that keeps what tests ask for."""

    VOID = {"meta", "link", "br", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.sorts, self.marks = [], [], [], [], []
        self.ids = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.sorts += [attrs["data-sort"]] if "data-sort" in attrs else []
        self.marks += [attrs["data-hover"]] if "data-hover" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
