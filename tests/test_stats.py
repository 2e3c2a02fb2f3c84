"""Statistics on small cases worked out by hand."""

from __future__ import annotations

import dataclasses
import doctest
import math
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import trim_mean

from jaxinit.compare.report import table as tables
from jaxinit.compare.stats import across_tasks as across
from jaxinit.compare.stats import measures
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep

SETTINGS = Settings(
    task="t", parts={"model": "m"}, loss_name="loss", metric_name="accuracy",
    direction="max", target=0.9, runoff_seeds=0, optimizers=("sgd()",),
)  # fmt: skip

INF, NAN = math.inf, math.nan


def runs(*rows, seconds=(), step_seconds=(), tuning_seeds=0):
    """Rows (scheme, rate, seed, steps or None, final loss), an inf loss diverged.

    `seconds` are a scheme's to draw an initialization, `step_seconds` a run's.
    """
    columns = {name: [] for name in SCHEMA.names}
    seconds, step_seconds = dict(seconds), list(step_seconds)
    for scheme, rate, seed, steps, loss in rows:
        values = {
            "run_id": f"{scheme}{rate}{seed}",
            "task": "t",
            "scheme": scheme,
            "optimizer": "sgd()",
            "learning_rate": rate,
            "seed": seed,
            "status": "finished" if math.isfinite(loss) else "diverged",
            "steps_to_target": steps,
            "final_train_loss": loss,
            "final_valid_loss": loss + 1,
            "final_valid_metric": 0.5,
            "best_valid_metric": 0.6,
            **{name: [] for name in SCHEMA.names[12:16]},
            "init_seconds": seconds.get(scheme),
            "step_seconds": None if not seconds else step_seconds.pop(0),
            "other_metrics": None,
        }
        for name, value in values.items():
            columns[name].append(value)
    settings = dataclasses.replace(SETTINGS, tuning_seeds=tuning_seeds)
    return Sweep(pa.table(columns, schema=SCHEMA), settings)


def test_rank_by_steps_then_by_loss():
    table = runs(
        *[("slow", 0.1, seed, steps, 0.1) for seed, steps in enumerate((50, 60, 90))],
        *[("slow", 0.3, seed, steps, 0.1) for seed, steps in enumerate((40, 80, 99))],
        *[("fast", 0.1, seed, steps, 0.2) for seed, steps in enumerate((30, 10, 20))],
        *[("never", 0.1, seed, None, 0.9) for seed in range(3)],
        *[("lower", 0.1, seed, None, 0.8) for seed in range(3)],
        *[("dead", 0.1, seed, None, INF) for seed in range(3)],
    )
    ranking = stats.rank(table)
    assert [s.scheme for s in ranking] == ["fast", "slow", "lower", "never", "dead"]
    fast, slow = ranking[:2]
    assert fast.steps_to_target == (10, 20, 30)
    assert (slow.learning_rate, slow.steps_to_target.median) == (0.1, 60)
    assert slow.at_edge and not fast.at_edge  # one rate has no edge
    assert ranking[3].steps_to_target.median == INF and ranking[3].reached == 0
    assert ranking[4].diverged == 3 and ranking[4].final_train_loss.median == INF


def test_a_miss_counts_as_never_and_a_diverged_run_as_worst():
    table = runs(
        ("a", 0.1, 0, 10, 0.1),
        ("a", 0.1, 1, None, 0.5),
        ("a", 0.1, 2, None, INF),
        ("a", 0.2, 0, 30, 0.2),
        ("a", 0.2, 1, 30, 0.2),
        ("a", 0.2, 2, None, 0.2),
        ("a", 0.4, 0, None, 9.0),
        ("a", 0.4, 1, None, 9.0),
        ("a", 0.4, 2, None, 9.0),
    )
    (a,) = stats.rank(table)
    assert a.learning_rate == 0.2 and not a.at_edge
    assert a.steps_to_target == (30, 30, INF)
    assert (a.reached, a.seeds, a.diverged, a.runs) == (2, 3, 1, 9)
    assert a.final_train_loss == (0.2, 0.2, 0.2)
    assert a.final_valid_loss.median == pytest.approx(1.2)


def test_seconds_are_of_the_start_and_of_steps_that_cost_every_scheme_alike():
    table = runs(
        *[("a", 0.1, seed, steps, 0.1) for seed, steps in enumerate((10, 20, None))],
        *[("b", 0.1, seed, 40, 0.1) for seed in range(3)],
        ("c", 0.1, 0, 0, 0.1),
        seconds={"a": 5.0, "b": 0.25},
        step_seconds=[0.1, 0.1, NAN, 0.2, 0.3, 0.3, None],
    )
    assert stats.costs(table) == {"a": (5.0, 0.2), "b": (0.25, 0.2)}
    for c, a, b in (stats.rank(table), stats.fixed(table, 0.1)):
        assert a.seconds_to_target == (7, 9, INF)
        assert b.seconds_to_target == pytest.approx((8.25, 8.25, 8.25))
        assert c.seconds_to_target is None  # nobody noted it
    assert stats.rank(tuning_table())[0].seconds_to_target is None


def test_quartiles_are_observed_values():
    assert measures.quartiles(np.array([4.0, 1.0, INF, 2.0, 3.0])) == (2.0, 3.0, 4.0)
    assert measures.quartiles(np.array([7.0])) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("module", [stats, measures, across])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def tuning_table(swap=False, **more):
    """Rate .1 suits the tuning seeds 0 and 1, rate .2 the seeds 2 and 3."""
    first, second = (10, 10, 90, 90), (20, 20, 5, 5)
    if swap:
        first, second = first[::-1], second[::-1]
    return runs(
        *[("a", 0.1, seed, steps, 0.1) for seed, steps in enumerate(first)],
        *[("a", 0.2, seed, steps, 0.1) for seed, steps in enumerate(second)],
        *[("a", 0.4, seed, None, INF) for seed in range(4)],
        *[("b", 0.1, seed, 80, 0.1) for seed in range(4)],
        *[("b", 0.2, seed, 30, 0.1) for seed in range(3)],
        ("b", 0.2, 3, None, 0.3),
        *[("b", 0.4, seed, 50, 0.1) for seed in range(4)],
        **more,
    )


def test_a_rate_is_chosen_on_tuning_seeds_and_scored_on_the_others():
    a, b = stats.tuned(tuning_table(tuning_seeds=2))
    assert (a.scheme, a.learning_rate, a.at_edge) == ("a", 0.1, True)
    assert a.steps_to_target == (90, 90, 90)  # not 10, which chose the rate
    assert (a.seeds, a.reached, a.diverged, a.runs) == (2, 2, 4, 12)
    assert (b.scheme, b.learning_rate, b.at_edge) == ("b", 0.2, False)
    assert (b.seeds, b.reached) == (2, 1)
    swapped = stats.tuned(tuning_table(swap=True, tuning_seeds=2))
    assert swapped[0].steps_to_target.median == 20


def test_a_run_off_decides_together_with_the_seeds_that_tune():
    # The mean logs of 10, 10, 90 and of 20, 20, 5: with seed 2 the rate 0.2 is better.
    table = tuning_table(tuning_seeds=2)
    held = dataclasses.replace(table.settings, runoff_seeds=1)
    a, _ = stats.tuned(dataclasses.replace(table, settings=held))
    assert a.learning_rate == 0.2 and a.steps_to_target == (5, 5, 5)


def test_finalists_are_the_best_rate_and_its_better_neighbour():
    grid = {0.01: 60, 0.03: 30, 0.1: 40, 0.3: 35}
    rows = [("a", rate, seed, steps, 0.1) for rate, steps in grid.items()
            for seed in (0, 1)]  # fmt: skip
    assert stats.finalists(runs(*rows)) == [0.03, 0.1]  # and not 0.3
    assert stats.finalists(runs(*rows[:4])) == [0.03, 0.01]
    assert stats.finalists(runs(*rows[:2])) == [0.01]
    never = [("a", rate, 0, None, loss) for rate, loss in ((0.1, 0.5), (0.2, 0.4))]
    assert stats.finalists(runs(*never)) == [0.2]  # steps cannot tell


def test_a_miss_is_the_budget_where_rates_are_chosen():
    rows = [("a", 0.1, 0, 20, 0.1), ("a", 0.1, 1, None, 0.1)]
    rows += [("a", 0.2, seed, 90, 0.1) for seed in (0, 1)]
    assert stats.best_first(runs(*rows)) == [0.2, 0.1]  # sqrt(20 * 500) is 100


def test_one_rate_for_all_is_the_other_view():
    a, b = stats.fixed(tuning_table(), 0.2)
    assert (a.scheme, a.learning_rate, a.at_edge, a.seeds) == ("a", 0.2, False, 4)
    assert (b.scheme, b.reached, b.runs) == ("b", 3, 12)


def test_times_are_paired_by_seed():
    table = tuning_table(tuning_seeds=2)
    times = stats.times(table.scoring, stats.tuned(table))
    assert list(times) == ["a", "b"]
    assert times["a"].tolist() == [90, 90] and times["b"].tolist() == [30, INF]
    ragged = runs(("a", 0.1, 7, 0, 0.1), ("a", 0.1, 3, 50, INF), ("b", 0.1, 5, 40, 0.1))
    times = stats.times(ragged, stats.rank(ragged))
    # Seeds 3, 5, 7: a diverged run missed, whatever it had reached; step 0 counts as
    # the first evaluation after it.
    first = SETTINGS.eval_every
    np.testing.assert_array_equal(times["a"], [INF, NAN, first])
    np.testing.assert_array_equal(times["b"], [NAN, 40, NAN])


def test_missing_rates_are_named():
    table = runs(("a", 0.1, 0, 1, 0.1), ("a", 0.2, 0, 1, 0.1), ("b", 0.2, 0, 1, 0.1))
    assert stats.missing_rates(table) == {"b": [0.1]}
    assert stats.missing_rates(tuning_table()) == {}


def test_area_under_curve_holds_diverged_runs_at_the_worst():
    values = [[3.0, 1.0, 1.0], [3.0, NAN, INF]]
    areas = measures.area_under_curve([0, 10, 40], values, worst=5.0)
    assert areas.tolist() == [(20 + 30) / 40, (40 + 150) / 40]


def test_interquartile_mean_as_rliable_defines_it():
    scores = np.arange(20.0).reshape(4, 5) ** 2
    assert measures.iqm(scores) == pytest.approx(np.mean(np.arange(5.0, 15) ** 2))
    assert measures.iqm([1, 2, 3, INF]) == 2.5 and measures.iqm([1, INF]) == INF


def test_probability_of_improvement_counts_pairs():
    a, b = np.array([10, 20, 30, INF]), np.array([20, INF, 25])
    wins = (a[:, None] < b) + (a[:, None] == b) / 2
    assert measures.probability_of_improvement(a, b) == pytest.approx(wins.mean())
    assert measures.probability_of_improvement([INF], [INF, INF]) == 0.5
    assert measures.probability_of_improvement([1, 2], [3, 4]) == 1


def test_sensitivity_is_the_range_around_the_best_rate():
    rates = [1.0, 0.001, 0.01, 0.1, 0.0001]
    medians = [INF, 150, 300, 100, 90]
    twice = measures.learning_rate_sensitivity(rates, medians)
    assert (twice.low, twice.high, twice.at_edge) == (0.0001, 0.001, True)
    reached = measures.learning_rate_sensitivity(rates, medians, factor=INF)
    assert reached.decades == pytest.approx(3) and reached.high == 0.1
    alone = measures.learning_rate_sensitivity([0.1, 0.2, 0.4], [90, 20, 90])
    assert alone == (0, 0.2, 0.2, False)
    none = measures.learning_rate_sensitivity([0.1, 0.2], [INF, INF])
    assert math.isnan(none.decades) and not none.at_edge


def test_a_share_of_no_run_is_not_certain_to_be_none():
    share, low, high = measures.share_of([False] * 10)
    assert share == 0 and low == pytest.approx(0, abs=1e-12) and 0.2 < high < 0.35
    assert measures.share_of([True, False]).share == 0.5


def test_profile_leaves_out_misses_and_tasks_that_all_miss():
    times = [[10, 40, INF], [30, 20, INF]]
    profile = measures.performance_profile(times, [1, 2, 3, 1e9])
    np.testing.assert_allclose(profile * 3, [[1, 2, 2, 2], [1, 1, 2, 2]])


def twice(sweep, change=lambda runs: runs):
    runs = pa.concat_tables([sweep.runs, change(sweep.runs)])
    return dataclasses.replace(sweep, runs=runs)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: runs(("b", 0.1, 9, 1, 0.1), tuning_seeds=2).tuning, "none of the"),
        (lambda: tuning_table(tuning_seeds=4).scoring, "all of the runs are at the 4"),
        (lambda: stats.fixed(tuning_table(), 0.3), "no run to score at the learning"),
        (
            lambda: stats.tuned(
                runs(("b", 0.1, 1, 1, 0.1), ("a", 0.1, 0, 1, 0.1), tuning_seeds=1)
            ),
            "b has no run on the tuning seeds",
        ),
        (
            lambda: stats.times(twice(tuning_table()), stats.rank(tuning_table())),
            "two runs at the learning rate 0.2 and one seed",
        ),
        (lambda: measures.area_under_curve([0, 0], [1, 2]), "must ascend"),
        (lambda: measures.iqm([1, NAN]), "no NaN"),
        (lambda: measures.probability_of_improvement([], [1]), "must hold numbers"),
        (lambda: measures.learning_rate_sensitivity([1, 1], [1, 2]), "distinct"),
        (lambda: measures.learning_rate_sensitivity([1], [1], 0.5), "at least 1"),
        (lambda: measures.share_of([]), "there is no run"),
        (lambda: measures.performance_profile([1, 2], [1]), "must be (schemes, tasks)"),
        (lambda: measures.performance_profile([[1]], [0.5]), "at least 1, the fastest"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=r"^\w+: .*\.$") as error:
        call()
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_mixed_tasks_are_refused():
    other = pa.array(["u"] * tuning_table().runs.num_rows)
    mixed = twice(tuning_table(), lambda runs: runs.set_column(1, "task", other))
    for rate in (None, 0.1):
        with pytest.raises(ValueError, match="tasks t, u; a table is of one"):
            stats.ranking(mixed, rate)


TASKS = [[1.0, 2, 3, 4, 9], [10.0, 0, 8, 6, 5], [7.0, 7, 1, 2, 3]]


def test_the_interquartile_mean_over_tasks_is_scipys():
    found = across.interquartile_mean(TASKS)
    assert found.value == pytest.approx(trim_mean(np.array(TASKS), 0.25, axis=None))
    # By hand: of 15 sorted scores three are cut at each end, 1 1 0 and 8 9 10.
    assert found.value == pytest.approx((2 + 2 + 3 + 3 + 4 + 5 + 6 + 7 + 7) / 9)
    assert found.low < found.value < found.high


def test_the_bootstrap_draws_within_tasks():
    # Scores are alike within a task: then no resample differs, and drawing over all
    # runs at once would.
    same = across.interquartile_mean([[1.0] * 4, [5.0] * 4, [2.0] * 4, [9.0] * 4])
    assert same.low == same.high == same.value == 3.5
    means = [trim_mean(list(picks), 0.25) for picks in product([1.0, 2.0], repeat=2)]
    # Of one task with the scores 1 and 2, means are 1, 1.5 twice, 2, alike often.
    pair = across.interquartile_mean([[1.0, 2.0]])
    assert (pair.low, pair.high) == (min(means), max(means))


def test_the_chance_is_the_mean_over_tasks_of_pairs_won():
    a = [[10, 20, INF], [30, 30]]
    b = [[20, INF], [40, 30, 10]]
    first = (1 + 1 + 0.5 + 1 + 0 + 0.5) / 6
    second = 2 * (1 + 0.5 + 0) / 6
    found = across.chance(a, b)
    assert found.value == pytest.approx((first + second) / 2)
    assert found.low < found.value < found.high
    turned = across.chance(b, a)
    assert turned.value == pytest.approx(1 - found.value)
    sure = across.chance([[1, 2, 3]], [[4, 5, 6]])
    assert sure == (1, 1, 1)


def test_standings_are_speeds_by_the_baselines_median():
    times = [
        {"a": [10, 20, 30], "b": [20, 40, INF], "only": [1, 1, 1]},
        {"b": [100, NAN, INF, INF], "a": [50, 100, INF, INF]},
    ]
    b, a = sorted(across.standings(times, [60, 200], "b"), key=lambda s: s.scheme)[::-1]
    # b's medians are 40 and, of 100 and two misses, the budget of 200.
    speeds = [40 / 10, 40 / 20, 40 / 30, 200 / 50, 200 / 100, 0, 0]
    assert a.speed.value == pytest.approx(trim_mean(speeds, 0.25))
    assert b.sooner is None and a.sooner is not None
    pairs = [
        np.mean([(x < y) + (x == y) / 2 for x in one for y in other])
        for one, other in (
            ([10, 20, 30], [20, 40, INF]), ([50, 100, INF, INF], [100, INF, INF]),
        )
    ]  # fmt: skip
    assert a.sooner.value == pytest.approx(np.mean(pairs))
    assert {s.scheme for s in across.standings(times, [60, 200])} == {"a", "b"}


def test_another_scheme_changes_no_ones_standing():
    times = [{"a": [10.0, 20], "b": [15.0, 30]}, {"a": [5.0, 6], "b": [7.0, INF]}]
    more = [task | {"c": [1.0, 2]} for task in times]
    before = {s.scheme: s for s in across.standings(times, [50, 50])}
    after = {s.scheme: s for s in across.standings(more, [50, 50])}
    assert before.items() <= after.items()


def test_one_run_a_task_has_no_interval():
    found = across.standings([{"a": [10], "b": [20]}, {"a": [30], "b": [10]}], [50, 50])
    assert all(math.isnan(each.speed.low) for each in found)
    texts = tables.texts(tables.standing_cells(found))
    assert {"scheme": "b", "speed": "1.75", "sooner": "50%"} in texts
