"""The verdict and its sentences, on made-up runs with numbers known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sweeps import EVERY, FAST, SLOW, STEPS, of_rows, result, run, settings, two_rates

from jaxinit.compare.report import words
from jaxinit.compare.stats import inference
from jaxinit.compare.stats import power as powers


def test_the_verdict_has_ratio_and_interval():
    swept = result({"slow": SLOW, "fast": FAST})
    found = swept.judge()
    assert (
        words.sentence(found, swept.settings)
        == swept.sentence()
        == (
            "On this task fast reaches the target 2.94 times sooner than slow "
            "(95 % interval 2.01 to 4.31)."
        )
    )
    assert found.baseline == "slow"  # the first that reaches the target
    first, second = found.rows
    assert (first.summary.scheme, first.against) == ("fast", "faster")
    assert first.rank == (1, 1, 1) and second.rank == (2, 2, 2)
    assert first.mean == 15 and second.mean == 42.5
    ratio = first.ratio
    assert ratio is not None and second.ratio is None
    logs = np.log([3, 2.5, 4, 2.5])
    assert ratio.ratio == pytest.approx(math.exp(logs.mean()))
    spread = math.sqrt(
        sum((EVERY / np.array(t)) ** 2 @ np.ones(4) for t in (FAST, SLOW)) / 48
    )
    assert logs.std(ddof=1) < spread  # which the clock alone may make
    margin = 3.182446 * spread / 2
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
    ({"a": [10, 20], "b": [10, 20]}, "1.00 times sooner than a, 95 % interval 0"),
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


def test_equal_times_differ_by_what_the_clock_allows():
    found = result({"a": [40] * 6, "b": [20] * 6}).judge()
    (pair,) = found.pairs
    deviation = EVERY * math.sqrt((1 / 40**2 + 1 / 20**2) / 12)
    assert pair.ratio.spread == pytest.approx(deviation)
    assert found.is_shown("b", "a") and pair.ratio.low > 1.5


def test_no_difference_says_what_could_have_been_shown():
    a, b = [20, 30, 40, 50] * 2, [30, 20, 60, 40] * 2
    swept = result({"a": a, "b": b, "c": [None] * 8})
    found = swept.judge()
    assert found.level_with_first == ["b"]
    power = found.power
    # Of three pairs that could show anything one is left: it is tested at 5 %.
    assert power == powers.of_pair(found.pair("a", "b").ratio.spread, 8, 0.05)
    sentence = swept.sentence()
    assert f"8 seeds show a difference of {power.factor:g} times in" in sentence
    assert f"about {power.needed} seeds show {power.factor:g} times in 80%." in sentence
    assert result({"slow": SLOW, "fast": FAST}).judge().power is None


def test_the_baseline_reaches_the_target_in_most_of_its_runs():
    lucky = {"a": [10, None, None, None], "b": [30] * 4, "c": [20] * 4}
    assert result(lucky).judge().baseline == "b"
    assert result(lucky).judge("a").baseline == "a"
    rare = {"a": [10, None, None, None], "b": [30, 20, None, None], "c": [None] * 4}
    assert result(rare).judge().baseline == "b"
    assert result({"a": [None] * 2, "b": [None] * 2}).judge().baseline is None


def test_a_target_that_is_too_easy_is_told():
    swept = result({"a": [0, 0, 10, 10], "b": [10, 10, 10, 40], "c": [40, 50, 60, 50]})
    notes = " ".join(swept.notes())
    assert "a met the target before the first step, which counts as step 10" in notes
    assert "Most runs of b are at the target at the first evaluation, step 10" in notes
    rows = {row.summary.scheme: row for row in swept.judge().rows}
    assert (rows["a"].before, rows["a"].at_first, rows["c"].at_first) == (2, 4, 0)
    assert rows["a"].times.tolist() == [10] * 4  # and not 1: nothing finer is known


def test_runs_that_miss_stand_beside_the_ratio():
    swept = result({"a": [20, 30, 20, None], "b": [60, 50, 60, 70]})
    (note,) = [each for each in swept.notes() if "Not every run" in each]
    low, high = inference.proportion(3, 4)
    assert f"a in 3 of 4 ({low:.0%} to {high:.0%})" in note and "b in" not in note


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
