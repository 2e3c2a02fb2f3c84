"""The table in the terminal and its cells."""

from __future__ import annotations

import math

import pytest
from sweeps import FAST, SLOW, result

from jaxinit.compare.report import protocol
from jaxinit.compare.report import table as tables


def test_cells():
    swept = result({"slow": [30, 50, 40, None], "fast": FAST, "dead": ["diverged"] * 4})
    found = swept.judge()
    fast, slow, dead = tables.cells(found, swept.settings)
    texts = {name: cell.text for name, cell in slow.items()}
    assert texts == {
        "rank": "2 (2-3)", "scheme": "slow", "rate": "0.1", "steps": "45 (35->100)",
        "x faster": "baseline", "loss": "0.100", "acc.": "95.0%", "div.": "0/4",
    }  # fmt: skip
    assert fast["steps"].text == "15 (10-20)" and fast["steps"].value == 15
    assert fast["x faster"].text.startswith("3.") and "-" in fast["x faster"].text
    assert dead["steps"].text == ">100" and dead["steps"].value == math.inf
    assert dead["rate"].text == dead["loss"].text == dead["acc."].text == "-"
    assert dead["div."].text == "4/4" and dead["x faster"].text.startswith("≤0.")


def test_times_count_the_initialization_and_say_where_they_turn_the_order():
    swept = result({"slow": SLOW, "fast": FAST}, inits={"slow": 0.002, "fast": 1.5})
    found = swept.judge()
    first, second = (row["time"] for row in tables.cells(found, swept.settings))
    assert (first.text, first.value) == ("1.51 s", pytest.approx(1.515))
    assert second.text == "47.0 ms"  # 45 steps of 1 ms and 2 ms for the initialization
    assert (
        "With the time to draw the initialization counted, slow reaches the target "
        "after 47.0 ms and fast after 1.51 s (medians), which is not their order in "
        "steps."
    ) in swept.notes()
    assert found.rows[0].summary.scheme == "fast"  # ratio and rank are of steps
    (text,) = [w for w in protocol.paragraphs(swept.sweep) if "Times:" in w]
    assert "for every step 1.00 ms" in text and "on 1 x cpu" not in text
    assert swept.summary()["ranking"][1]["seconds_to_target"]["low"] == pytest.approx(
        0.037
    )
    assert '<th scope="col"><button type="button">time' in swept._repr_html_()


def test_times_that_keep_the_order_or_are_not_known_need_no_word():
    cheap = result({"slow": SLOW, "fast": FAST}, inits={"slow": 0.01, "fast": 0.01})
    assert not any("counted" in note for note in cheap.notes())
    old = result({"slow": SLOW, "fast": FAST})
    cells = tables.cells(old.judge(), old.settings)[0]
    assert "time" not in cells
    assert "Times:" not in str(protocol.paragraphs(old.sweep))


def test_ranks_show_their_intervals():
    swept = result({"a": [10, 20, 30, 40], "b": [20, 10, 40, 30]})
    first, _ = tables.cells(swept.judge(), swept.settings)
    assert first["rank"].text == "1 (1-2)"
    one = result({"a": [10], "b": [20]})
    assert tables.cells(one.judge(), one.settings)[0]["rank"].text == "1"


@pytest.mark.parametrize(
    ("direction", "worst"), [("min", math.inf), ("max", -math.inf)]
)
def test_a_diverged_runs_metric_is_the_worst_there_is(direction, worst):
    swept = result(
        {"a": ["diverged"] * 3, "b": [10, 20, 10]}, metric_name="miss",
        direction=direction,
    )  # fmt: skip
    found = {s.scheme: s.final_valid_metric.median for s in swept.ranking()}
    assert found == {"a": worst, "b": 0.95}
    cell = tables.cells(swept.judge(), swept.settings)[1]
    assert cell["valid. miss"].value == worst


@pytest.mark.parametrize("width", [72, 80, 100, 140])
@pytest.mark.parametrize("timed", [False, True])
def test_the_table_fits_the_screen(width, timed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "orthogonal(scale=1.4142)"
    inits = {name: 12.3456, "he_normal()": 0.00123} if timed else {}
    result({name: [50, 60, None, None], "he_normal()": FAST}, inits=inits).show()
    lines = capsys.readouterr().out.splitlines()
    assert timed == any(" time " in line for line in lines)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert width < 80 or any(name in line for line in lines)


def test_the_screen_obeys_no_name(capsys):
    result({"[bold]x[/]": FAST, "y": SLOW}, metric_name="[red]m").show()
    out = capsys.readouterr().out
    assert out.count("[bold]x[/]") >= 2 and "valid. [red]m" in out
