"""The page: whole, alone, obeying no text of the user, and read in a browser."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess

import pytest
from sweeps import EVIL, FAST, SLOW, Page, of_rows, result, run, settings, store_of

from jaxinit.compare import cli
from jaxinit.compare.report import page
from jaxinit.compare.report.result import Result
from jaxinit.compare.report.study import Study
from jaxinit.compare.train.signal import LayerSignal


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    result({EVIL: SLOW, "he_normal()": FAST, "z": ["diverged"] * 4}).save(folder)
    return folder


def test_the_page_is_whole_and_needs_no_network(saved):
    text = (saved / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert page.tags.count("svg") == 6 and page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)


def test_the_page_obeys_no_text_of_the_user(saved):
    text = (saved / "report.html").read_text()
    assert "alert(1)" in text and "<script>alert" not in text
    assert EVIL in Page(text).sorts


def test_the_page_says_everything(saved):
    text = (saved / "report.html").read_text()
    page = Page(text)
    assert any(mark.startswith("he_normal(), step ") for mark in page.marks)
    assert {"15.0", "inf"} <= set(page.sorts)
    for words in ("times sooner than", "1 x cpu", "jax 0", "{he2015", "Protocol"):
        assert words in text
    assert (
        "is defined in a program" in text
    )  # EVIL is no scheme that a command can name


def test_the_page_says_what_step_0_shows_of_the_slower():
    swept = result({"a": FAST, EVIL: SLOW, "z": SLOW}).sweep
    assert "Why slower" not in page.page(Result(swept).page_part())
    rows = {
        "a": [LayerSignal("w", 1.0, 1.0, "not told of the fastest")],
        EVIL: [LayerSignal("w", 1.0, 1.0), LayerSignal("v", 0.1, 1.0, "v <dies>.")],
        "z": [LayerSignal("w", 1.0, 1.0)],
    }
    swept = dataclasses.replace(swept, signals=rows)
    text = page.page(Result(swept).page_part())
    assert "v &lt;dies&gt;." in text and "not told of" not in text
    assert "Nothing at step 0 shows why z is slower." in text


def test_the_page_names_the_code():
    swept = result({"a": FAST}, code="commit 1a2b, with uncommitted changes")
    text = page.page(swept.page_part())
    assert "<dt>code</dt><dd>commit 1a2b, with uncommitted changes</dd>" in text
    assert "<p>Code: commit 1a2b, with uncommitted changes.</p>" in text


def test_html_for_notebooks():
    text = result({"a": FAST, "b": SLOW})._repr_html_()
    assert Page(text).open == [] and "times sooner" in text and "<script" not in text


def cut_short(row):
    return row | {
        name: row[name][:3]
        for name in ("eval_steps", "train_loss", "valid_loss", "valid_metric")
    }


ODD = {
    "all diverged": [run("a", 0, "diverged"), run("b", 0, "diverged")],
    "negative losses": [run("a", s, None, loss=-1.0 - s) for s in range(3)],
    "reached at once": [run(n, s, 0) for n in "ab" for s in range(2)],
    "one run": [run("a", 0, 10)],
    "interrupted": [cut_short(run("a", 0, "diverged")), run("a", 1, 20)],
    "a long name": [run("tree.mup(" + 20 * "base={'Dense_0': 4}, ", 0, 10)],
    "many rates": [run("a", 0, 10 * i, 0.01 * i) for i in range(1, 10)],
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_sweeps_are_saved_too(kind, tmp_path):
    rows = ODD[kind]
    named = dict.fromkeys(row["scheme"] for row in rows)
    rates = sorted({row["learning_rate"] for row in rows})
    of_rows(rows, settings(named, rates)).save(tmp_path / "out")
    assert Page((tmp_path / "out" / "report.html").read_text()).open == []


def test_one_seed_is_a_report_without_intervals(tmp_path, capsys):
    folder = store_of(tmp_path / "one", result({"a": [10], "b": [30]}))
    assert cli.run(["report", folder]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "One seed: no interval is possible" in out and "nan" not in out
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", (tmp_path / "one/report.html")
                               .read_text(), flags=re.DOTALL)  # fmt: skip


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one sweep with targets and times, and one of several tasks."""
    folder = tmp_path_factory.mktemp("pages")
    times = {EVIL: SLOW, "he_normal()": FAST, "z": ["diverged"] * 4}
    inits = {EVIL: 0.5, "he_normal()": 1.5}
    code = {"code": "commit 1a2b, with uncommitted changes"}
    found = [result(times, inits=inits, task=f"t({i})", **code) for i in range(2)]
    more = [swept.with_targets([0.5, 0.9, 0.95]) for swept in found]
    (folder / "one").mkdir()
    more[0].write(folder / "one")
    (folder / "all").mkdir()
    Study(tuple(more)).write(folder / "all")
    return [(folder / name / "report.html").read_text() for name in ("one", "all")]


SAID = """
  const said = {};
  const press = (name) => {
    const button = [...document.querySelectorAll("table th button")]
      .find((each) => each.textContent === name);
    button.click();
    const place = [...button.closest("tr").children].indexOf(button.closest("th"));
    return [...button.closest("table").tBodies[0].rows]
      .map((row) => row.children[place].textContent);
  };
  const rgb = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = (color) => {
    const [r, g, b] = color.map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (each) => {
    for (; each; each = each.parentElement) {
      const color = rgb(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const contrasts = () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const each = walk.currentNode.parentElement;
      const skip = "script, [aria-hidden], title, #said";
      if (!walk.currentNode.textContent.trim() || each.closest(skip)) continue;
      const style = getComputedStyle(each);
      const drawn = each.closest("svg");
      const color = rgb(drawn ? style.fill : style.color);
      // The numbers on cells of a heat map stand on colours, and have their own test.
      if (drawn && [0, 1, 255].includes(color[0]) && color[1] === color[0]) continue;
      const [a, b] = [light(color.slice(0, 3)), light(paper(each).slice(0, 3))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      found.push([ratio, walk.currentNode.textContent.trim().slice(0, 40)]);
    }
    return found.sort((a, b) => a[0] - b[0]);
  };
  said.up = press("steps"); said.down = press("steps");
  said.names = press("scheme");
  said.times = press("time");
  const mark = document.querySelector("[data-hover]");
  mark.dispatchEvent(new MouseEvent("click", {bubbles: true}));
  said.mark = mark.closest("figure").querySelector("output").textContent;
  said.width = window.innerWidth;
  const all = contrasts();
  said.texts = all.length; said.contrast = all[0];
  said.scroll = document.documentElement.scrollWidth;
  said.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  parent.postMessage([name, said], "*");
"""


SIZES = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]


def in_browser(pages, folder):
    """What pages say of themselves at each size and theme, from one browser."""
    frames, names = "", []
    for number, text in enumerate(pages):
        (folder / f"{number}.html").write_text(
            text.replace("</body>", f"<script>{SAID}</script></body>")
        )
        for width, theme in SIZES:
            names.append(f"{number} {width} {theme}")
            frames += (
                f'<iframe name="{names[-1]}" src="{number}.html" width="{width}" '
                f'height="900" style="border: 0; color-scheme: {theme}"></iframe>'
            )
    outer = (
        '<!doctype html><html><head><link rel="icon" href="data:,"><script>'
        "const said = {}; addEventListener('message', (e) => {"
        "said[e.data[0]] = e.data[1];"
        "document.querySelector('pre').textContent = JSON.stringify(said); });"
        f'</script></head><body><pre id="said"></pre>{frames}</body></html>'
    )
    path = folder / "outer.html"
    path.write_text(outer)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update"
    flags += " --window-size=1400,900 --virtual-time-budget=8000 --dump-dom"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'user'}",
         "--enable-logging=stderr", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said is not None
    found = json.loads(html.unescape(said[1]))
    assert list(sorted(found)) == sorted(names)
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_pages_in_a_browser(pages, tmp_path):
    found, console = in_browser(pages, tmp_path)
    assert console == []
    for name, said in found.items():
        _, width, theme = name.split()
        assert (said["width"], said["dark"]) == (int(width), theme == "dark"), name
        assert said["scroll"] <= said["width"], name
        assert said["texts"] > 100 and said["contrast"][0] >= 4.5, (name, said)
        assert "step 0: " in said["mark"] or "tasks within" in said["mark"], name
        assert said["up"] == ["20 (10-20)", "50 (40-50)", ">100"], name
        assert said["down"] == said["up"][::-1], name
        assert said["times"] == ["550 ms", "1.52 s", "-"], name
        schemes = [each.removeprefix("■") for each in said["names"]]
        assert schemes == sorted(schemes, key=str.lower) and len(schemes) >= 2, name
