"""The ladder of sizes: made-up sweeps with numbers known by hand, and real ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from sweeps import STEPS, of_rows, result, run, settings, task

from jaxinit.compare import Ladder, Task, cli, ladder, load_result
from jaxinit.compare.stats.ladder import climb, tau

A, B, C = [10, 20, 10, 20, 10], [40, 50, 40, 50, 40], [90, 80, 90, 80, 80]


def made(*orders, option="width"):
    """A ladder of sizes 8, 16, ... with the times of a, b, c at each of them."""
    sizes = [8 * 2**k for k in range(len(orders))]
    results = {
        size: result(dict(zip("abc", order, strict=True)))
        for size, order in zip(sizes, orders, strict=True)
    }
    return Ladder(results, option)


SAID = {
    "the winner stays": (
        (A, B, C), (A, B, C),
        "The winner at width 8, a, is the winner at 16, too; rank correlation 1.00 "
        "(1.00 to 1.00).",
    ),
    "the winner loses": (
        (A, B, C), (C, B, A),
        "The winner at width 8, a, is not the winner at 16, where c is faster: "
        "choosing it costs 6.36 times the steps (95 % interval 3.75 to 10.8); rank "
        "correlation -1.00 (-1.00 to -1.00).",
    ),
    "nothing is shown": (
        ([10, 60, 10, 60], [20, 20, 40, 30], [90] * 4),
        ([60, 10, 50, 20], [20, 30, 40, 30], [90] * 4),
        "Not enough seeds to tell whether a, the first at width 8, is the winner at "
    ),
    "one seed": (
        ([10], [20], [30]), ([10], [20], [30]),
        "Not enough seeds to tell whether a, the first at width 8, is the winner at "
        "16; rank correlation 1.00, too few seeds for an interval, and choosing it "
        "costs 1.00 times the steps.",
    ),
    "all level": (
        (A, B, C), ([10] * 5,) * 3,
        "the schemes are level at a size, so that ranks tell nothing",
    ),
    "never": ((A, B, C), ([None] * 5,) * 3, "No scheme reaches the target at width 16"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID)
def test_whether_the_winner_stays_is_said(kind, capsys):
    *orders, said = SAID[kind]
    found = made(*orders)
    sentence = found.sentence()
    assert said in sentence and sentence.endswith("."), sentence
    found.show()
    assert said in " ".join(capsys.readouterr().out.split())


def test_regret_is_the_ratio_at_the_large_size():
    (step,) = made((A, B, C), (B, A, C)).rungs.steps
    logs = np.log(B) - np.log(A)
    assert (step.small, step.large, step.winner, step.ahead) == (8, 16, "a", "b")
    assert step.regret.ratio == pytest.approx(math.exp(logs.mean()))
    assert step.kept is False and step.correlation.value == pytest.approx(1 / 3)
    steps = made((A, B, C), (A, B, C), (B, A, C)).rungs.steps
    assert [(s.small, s.large) for s in steps] == [(8, 16), (16, 32), (8, 32)]
    assert [s.kept for s in steps] == [True, False, False]
    assert steps[0].regret[:3] == (1, 1, 1)  # the others are slower, and shown to be


def test_tau_is_kendalls():
    rng = np.random.default_rng(0)
    a, b = rng.integers(4, size=(2, 20, 6)).astype(float)
    ours = tau(a, b)
    for mine, x, y in zip(ours, a, b, strict=True):
        assert mine == pytest.approx(stats.kendalltau(x, y).statistic, nan_ok=True)
    assert math.isnan(tau(np.ones(3), np.arange(3.0)))


def test_the_best_rates_drift_by_more_than_a_step_of_the_grid():
    def at(best_of):
        rows = []
        for scheme, best in best_of.items():
            for rate in (0.01, 0.03, 0.1):
                steps = 20 if rate == best else None if best is None else 60
                rows += [run(scheme, seed, steps, rate) for seed in range(3)]
        return of_rows(rows, settings("abc", (0.01, 0.03, 0.1), 3)).sweep

    sweeps = {
        64: at({"a": 0.1, "b": 0.1, "c": None}),
        256: at({"a": 0.01, "b": 0.03, "c": None}),
    }
    drifts = climb(sweeps).drifts
    assert drifts["a"].rates == (0.1, 0.01) and drifts["a"].moves is True
    assert drifts["a"].factor == pytest.approx(10**-0.5)  # over two doublings
    assert drifts["b"].moves is False  # one step of the grid may be chance
    assert drifts["c"].moves is None and math.isnan(drifts["c"].factor)
    notes = Ladder({64: of(sweeps[64]), 256: of(sweeps[256])}).notes()
    said = "Best rates of a: 0.1 and 0.01; it is multiplied by 0.32 when the width doub"
    assert any(said in note for note in notes)
    assert "Whether the best rate of c drifts is not known." in notes


def of(sweep):
    from jaxinit.compare import Result

    return Result(sweep)


SHORT = {
    "schemes": ["he_normal", "zeros"], "learning_rates": [0.1], "seeds": 3,
    "steps": 20, "eval_every": 5, "batch_size": 16, "tuning_seeds": 0,
}  # fmt: skip


def test_a_ladder_is_sweeps_in_folders(tmp_path, capsys, pyplot):
    sizes = []

    def task_of(size):
        sizes.append(size)
        return task(target=0.7)

    found = ladder(task_of, depths=[4, 2], out=tmp_path, **SHORT)
    assert sizes == [2, 4]  # all tasks, before anything is trained
    assert found.sentence() in " ".join(capsys.readouterr().out.split())
    data = json.loads((tmp_path / "ladder.json").read_text())
    assert data["sizes"] == [2, 4] and data["verdict"] == found.sentence()
    assert data["times"]["zeros()"] == pytest.approx([20, 20])
    assert {path.name for path in tmp_path.iterdir()} == {
        "depth=2", "depth=4", "ladder.json", "ladder.png",
    }  # fmt: skip
    axes = found.plot()
    assert [each.get_xlabel() for each in axes] == ["depth", "depth"]
    assert len(axes[0].get_lines()) == 3 and STEPS == 100


def test_the_command_climbs(tmp_path, capsys):
    words = "compare --task linear(depth=1) --schemes he_normal zeros --seeds 1"
    words += " --learning-rates 0.1 --steps 4 --eval-every 2 --tuning-seeds 0 --out"
    words = [*words.split(), str(tmp_path / "out"), "--quiet"]
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import optax\n\ndef halved(rate):\n    return optax.sgd(rate / 2)\n"
    )
    own = ["--optimizers", f"{mine}:halved"]
    assert cli.run([*words, *own, "--widths", "2", "4"]) == 0
    assert json.loads((tmp_path / "out" / "ladder.json").read_text())["sizes"] == [2, 4]
    assert load_result(tmp_path / "out" / "width=2").settings.optimizers == ("halved",)
    assert cli.run([*words, "--widths", "2", "4", "--width", "3"]) == 2
    assert "--width and --widths exclude each other" in capsys.readouterr().err
    assert cli.run([*words, "--widths", "2"]) == 2
    assert "widths=[2] must be two or more different sizes." in capsys.readouterr().err


BAD = {
    "give two or more sizes as widths= or as depths=": {},
    "as depths=, one of the two": {"widths": [2, 4], "depths": [2, 4]},
    "widths=[2, 2] must be two or more different sizes": {"widths": [2, 2]},
    "width=0 must be at least 1": {"widths": [0, 2]},
    "task_of gives a int for width 2": {"widths": [2, 4], "task_of": lambda size: size},
    "task='mnist' is unknown": {"depths": [2, 4], "task_of": "mnist"},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_sizes_in_one_sentence(said):
    with pytest.raises((ValueError, TypeError)) as caught:
        ladder(**{"quiet": True, **SHORT, **BAD[said]})
    message = str(caught.value)
    assert said in message and "\n" not in message and message.endswith(".")
    assert Task  # whose makers say what else is wrong


def test_sizes_need_schemes_in_common():
    one, other = result({"a": A, "b": B}).sweep, result({"c": A, "d": B}).sweep
    with pytest.raises(ValueError, match="2 sizes with 0 schemes in common; it takes"):
        climb({1: one, 2: other})
