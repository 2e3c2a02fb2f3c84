"""The verdict and its sentences, on made-up runs with numbers known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sweeps import EVERY, FAST, SLOW, STEPS, of_rows, result, run, settings, two_rates

from jaxinit.compare.report import words
from jaxinit.compare.stats import inference


def test_the_verdict_has_ratio_and_interval():
    swept = result({"slow": SLOW, "fast": FAST})
    found = swept.judge()
    assert (
        words.sentence(found, swept.settings)
        == swept.sentence()
        == (
            "On this task fast reaches the target 2.94 times sooner than slow "
            "(95 % interval 2.07 to 4.19)."
        )
    )
    assert found.baseline == "slow"  # the first that reaches the target at all
    first, second = found.rows
    assert (first.summary.scheme, first.against) == ("fast", "faster")
    assert first.rank == (1, 1, 1) and second.rank == (2, 2, 2)
    assert first.mean == 15 and second.mean == 42.5
    ratio = first.ratio
    assert ratio is not None and second.ratio is None
    logs = np.log([3, 2.5, 4, 2.5])
    assert ratio.ratio == pytest.approx(math.exp(logs.mean()))
    margin = 3.182446 * logs.std(ddof=1) / 2
    assert ratio.low == pytest.approx(math.exp(logs.mean() - margin), rel=1e-6)


VERDICTS = [
    (
        {"a": [10, 20, 30, 40], "b": [20, 10, 40, 30]},
        "No difference is shown between a and b (b 1.00 times sooner than a, "
        "95 % interval 0.38 to 2.65).",
    ),
    ({"a": [10], "b": [30]}, "One seed: no interval is possible"),
    ({"a": [None, None], "b": [None, None]}, "no scheme reaches the target within 100"),
    ({"a": FAST, "b": [None] * 4}, "a alone reaches the target within 100 steps, in 4"),
    ({"a": [10, None], "b": [None, None]}, "in 1 of 2 runs, which shows no difference"),
    ({"a": [10, 20]}, "a reaches the target in 2 of 2 runs; there is no other scheme"),
    ({"a": [10, 20], "b": [10, 20]}, "(a and b take equally long at every seed)."),
    (
        {"a": FAST, "b": SLOW, "c": [60, 90, 80, 90]},
        ", the next of 2 that it is shown to beat.",
    ),
    (
        {name: np.random.default_rng(i).integers(1, 9, 4) * 10 for i, name in
         enumerate("abcde")},
        "and any of the 4 others (",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("times", "said"), VERDICTS, ids=[w[:30] for _, w in VERDICTS])
def test_verdicts(times, said):
    times = {
        name: [None if s is None else int(s) for s in each]
        for name, each in times.items()
    }
    sentence = result(times).sentence()
    assert said in sentence and sentence.endswith(".")


def test_equal_times_have_no_interval_but_a_ratio():
    found = result({"a": [20] * 6, "b": [10] * 6}).sentence()
    assert "2.00 times sooner than a (the same ratio at each of 6 seeds" in found


def test_schemes_without_a_common_seed_are_not_compared():
    rows = [run("a", 0, 10), run("a", 1, 20), run("b", 2, 30), run("b", 3, 30)]
    swept = of_rows(rows, settings(["a", "b"]))
    found = swept.judge()
    assert "no seed in common" in swept.sentence()
    assert all(row.rank is None and row.ratio is None for row in found.rows)


def test_the_other_view_is_of_one_rate():
    swept = two_rates()
    best, fixed = swept.judge(), swept.judge(learning_rate=0.1)
    assert [row.summary.scheme for row in best.rows] == ["b", "a"]
    assert [row.summary.scheme for row in fixed.rows] == ["a", "b"]
    best, fixed = (words.notes(each, swept.settings)[0] for each in (best, fixed))
    assert "at the learning rate 0.1" in fixed and "edge of the grid" not in fixed
    assert "b and a lies at the edge of the grid" in best


def test_missing_rates_are_named(capsys):
    swept = two_rates(missing=True)
    swept.show()
    out = " ".join(capsys.readouterr().out.split())
    assert "b was not tuned with equal budget: it has no run at 0.2." in out
    assert "Only 9 of 12 planned runs are finished." in out
    with pytest.raises(ValueError, match="b has no run to score at the learning rate"):
        swept.judge(learning_rate=0.2)


DURATIONS = {
    0.0: "0.00 us", 9.994e-6: "9.99 us", 0.0009996: "1.00 ms", 0.0457: "45.7 ms",
    0.9999: "1.00 s", 9.996: "10.0 s", 99.96: "100 s", 12345.0: "12345 s",
}  # fmt: skip


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations_have_three_digits(seconds):
    assert words.duration(seconds) == DURATIONS[seconds]


def test_measures_beside_the_steps():
    a, b = result({"a": [20, 40, 20], "b": ["diverged"] * 3}).judge().rows
    assert math.isnan(a.logrank)  # the baseline's own
    assert b.logrank == pytest.approx(
        inference.logrank([20, 40, 20], [math.inf] * 3, STEPS)
    )
    # 0.1 at step 0, and from the first evaluation on 0.95, or nothing.
    rise = EVERY * (0.1 + 0.95) / 2
    assert a.area == pytest.approx((rise + 0.95 * (STEPS - EVERY)) / STEPS)
    assert b.area == pytest.approx(EVERY * 0.1 / 2 / STEPS)
    assert (a.works.low, a.works.high, a.works.decades) == (0.1, 0.1, 0)
    assert math.isnan(b.works.decades)
    grid = [(0.01, 90), (0.1, 30), (1.0, 60)]  # twice the best works, thrice does not
    rows = [run("a", seed, steps, rate) for rate, steps in grid for seed in (0, 1)]
    (row,) = of_rows(rows, settings(["a"], [0.01, 0.1, 1.0], 2)).judge().rows
    assert (row.works.low, row.works.high) == (0.1, 1.0)
