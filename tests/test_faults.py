"""Files that are damaged, gone or of something else: a sentence, and it goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sweeps import FAST, SLOW, result, settings, sweep

from jaxinit.compare import cli, data_task, load_result, read_runs
from jaxinit.compare.report import result as report
from jaxinit.compare.store import folder
from jaxinit.compare.store.sweep import SCHEMA
from jaxinit.compare.sweep import checkpoints, chunks, make
from jaxinit.compare.sweep.plan import Plan
from jaxinit.compare.train.trainer import Run


@pytest.fixture(autouse=True)
def no_figures_and_one_device(monkeypatch, tmp_path):
    monkeypatch.setattr(report.Result, "write", lambda *_: None)
    monkeypatch.setattr(make, "signal_of", lambda *_: {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)


@pytest.fixture
def store(tmp_path):
    """A folder with the runs of two schemes."""
    result({"a": FAST, "b": SLOW}).save(tmp_path / "store")
    return tmp_path / "store"


def told(path, capsys, command="report"):
    """What the command says of a folder, in one sentence."""
    capsys.readouterr()
    assert cli.run([command, str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxinit: ") and said.count("\n") == 1 and len(said) < 600
    return said


NO_SETTINGS = [
    "[]", "null", "{}", '{"task": 5}', "5", '"text"', "", "{", "\0", "[" * 100_000,
    '{"a":' * 100_000, "NaN", "\ufeff{}", "1" * 10_000, '{"\x1b[31m": 1}', "true",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_SETTINGS, ids=lambda text: repr(text)[:20])
def test_a_sweep_json_of_anything_is_a_sentence(text, store, capsys):
    (store / "sweep.json").write_text(text)
    assert "sweep.json" in told(store, capsys)
    with pytest.raises((ValueError, FileExistsError)):
        folder.claim(store, settings(["a"]))
    assert (store / "sweep.json").read_text() == text  # nothing is touched


WRONG = [
    ("task", 5), ("task", None), ("task", ["a"]), ("schemes", "a"), ("schemes", [1]),
    ("schemes", {"a": 1}), ("learning_rates", ["0.1"]), ("learning_rates", [math.nan]),
    ("learning_rates", [[0.1]]), ("seeds", 2.5), ("seeds", "4"), ("seeds", True),
    ("seeds", -1), ("steps", 0), ("steps", math.inf), ("eval_every", 0),
    ("batch_size", -4), ("batch_size", None), ("target", None), ("target", math.nan),
    ("direction", "up"), ("strategy", "fast"), ("settled", 1), ("made_for", "x"),
    ("versions", []), ("versions", {"jax": 1}), ("parts", {"model": None}),
    ("stop_at_target", 0), ("code", 7), ("untraced", "a"), ("dtype", ["float32"]),
    ("rounds", 0), ("targets", 0.9), ("own_schemes", None), ("device", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_setting_of_another_type_is_a_sentence(name, value, store, capsys):
    content = json.loads((store / "sweep.json").read_text())
    (store / "sweep.json").write_text(json.dumps({**content, name: value}))
    said = told(store, capsys)
    assert f"has {name}=" in said and "damaged" in said


def damaged(file, how):
    """A file of runs that somebody else might have written."""
    table = pq.read_table(file, partitioning=None)
    column = {
        "text": lambda t: pa.array(["x"] * len(t)),
        "null": lambda t: pa.nulls(len(t), pa.string()),
    }
    changes = {
        **{f"without {n}": lambda t, n=n: t.drop_columns([n]) for n in SCHEMA.names},
        "other columns": lambda t: pa.table({"x": [1, 2]}),
        "no columns": lambda t: pa.table({}),
        "texts for seeds": lambda t: _set(t, "seed", column["text"](t)),
        "texts for curves": lambda t: _set(t, "train_loss", column["text"](t)),
        "no names": lambda t: _set(t, "run_id", column["null"](t)),
        "no schemes": lambda t: _set(t, "scheme", column["null"](t)),
        "a short curve": lambda t: _set(
            t, "valid_loss", pa.array([x[:-1] for x in t["valid_loss"].to_pylist()])
        ),
        "no curve": lambda t: _set(t, "eval_steps", pa.array([None] * len(t))),
    }
    pq.write_table(changes[how](table), file.with_name("other.parquet"))
    file.unlink()


def _set(table, name, column):
    return table.set_column(table.schema.get_field_index(name), name, column)


HOW = [
    *(f"without {name}" for name in SCHEMA.names), "other columns", "no columns",
    "texts for seeds", "texts for curves", "no names", "no schemes", "a short curve",
    "no curve",
]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
def test_a_file_of_other_columns_is_a_sentence(how, store, capsys):
    (file,) = (store / "runs").iterdir()
    damaged(file, how)
    said = told(store, capsys)
    assert "other.parquet" in said and "move it away" in said
    assert file.with_name("other.parquet").exists()  # it is nobody's to remove


def test_runs_whose_columns_stand_in_another_order_or_type_are_read(store):
    (file,) = (store / "runs").iterdir()
    before = read_runs(store)
    table = pq.read_table(file, partitioning=None)
    more = table.append_column("note", pa.array(["x"] * len(table)))
    more = _set(more, "seed", more["seed"].cast(pa.int32()))
    other = file.with_name("other.parquet")
    pq.write_table(more.select(sorted(more.column_names)), other)
    file.unlink()
    assert read_runs(store).equals(before)


def test_a_folder_whose_name_says_something_to_arrow(tmp_path):
    path = tmp_path / "seed=9" / "scheme=x"
    path.mkdir(parents=True)
    result({"a": FAST}).save(path / "out")
    assert load_result(path / "out").sweep.schemes == ["a"]


@pytest.mark.parametrize("name", ["summary.json", "signal.json"])
@pytest.mark.parametrize(
    "text",
    ["[]", "null", '{"seconds": 1' + "0" * 400 + "}", "[" * 99_999, '{"seconds": []}',
     '{"paths": [1], "forward": {"a": ["x"]}, "backward": {"a": [2]}}',
     '{"paths": 5, "forward": {"a": []}, "backward": {}}', "\0"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_follows_from_runs_may_be_damaged(name, text, store):
    (store / name).write_text(text)
    said = pytest.warns(UserWarning, match="signal.json cannot be read")
    with said if name == "signal.json" else contextlib.nullcontext():
        found = load_result(store).sweep
    assert not any(found.signals.values()) or name != "signal.json"


GOOD = {"x": np.arange(80.0).reshape(20, 4), "y": np.arange(20) % 2}


def of_bytes(path, content):
    path.write_bytes(content)


def flipped(path):
    np.savez_compressed(path, **GOOD)
    content = bytearray(path.read_bytes())
    for place in range(80, len(content) // 2):
        content[place] ^= 255
    path.write_bytes(content)


def with_header(path, header):
    """An archive of one array whose header says what is not so."""
    with zipfile.ZipFile(path, "w") as file:
        for name in ("x", "y"):
            text = header.encode().ljust(117) + b"\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00v\x00" + text)


OTHER = {
    "one array": lambda path: (np.save(path.with_suffix(".npy"), np.ones(3)),
                               path.with_suffix(".npy").rename(path)),
    "a pickle": lambda path: of_bytes(path, b"\x80\x04K\x05."),
    "objects": lambda path: np.savez(path, x=np.array([{}, 1], object), y=np.ones(2)),
    "texts": lambda path: np.savez(path, x=np.array(["a", "b"]), y=np.ones(2)),
    "complex": lambda path: np.savez(path, x=np.ones(9) * 1j, y=np.ones(9)),
    "times": lambda path: np.savez(path, x=np.zeros(9, "M8[s]"), y=np.ones(9)),
    "records": lambda path: np.savez(path, x=np.zeros(9, "f4,i4"), y=np.ones(9)),
    "no axis": lambda path: np.savez(path, x=np.float64(1), y=np.float64(2)),
    "other names": lambda path: np.savez(path, a=np.ones(3), b=np.ones(3)),
    "two lengths": lambda path: np.savez(path, x=np.ones(3), y=np.ones(4)),
    "nothing": lambda path: np.savez(path, x=np.ones((0, 3)), y=np.ones(0)),
    "no features": lambda path: np.savez(path, x=np.ones((9, 0)), y=np.ones(9)),
    "too large": lambda path: np.savez(path, x=np.full(9, 1e300), y=np.ones(9)),
    "no bytes": lambda path: of_bytes(path, b""),
    "a text": lambda path: of_bytes(path, b"hello"),
    "half": lambda path: (np.savez(path, **GOOD),
                          of_bytes(path, path.read_bytes()[:300])),
    "flipped": flipped,
    "no arrays": lambda path: zipfile.ZipFile(path, "w").close(),
    "other files": lambda path: zipfile.ZipFile(path, "w").writestr("x", "hello"),
    "a huge array": lambda path: with_header(
        path, "{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,), }"),
    "a huge number": lambda path: with_header(
        path, "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 30 + ",)}"),
    "a false header": lambda path: with_header(path, "{'descr': '<f8', 'shape': x}"),
    "a folder": lambda path: path.mkdir(),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER)
def test_an_npz_of_another_kind_is_a_sentence(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OTHER[kind](tmp_path / "own.npz")
    with pytest.raises(ValueError) as caught:
        data_task("own.npz")
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 400
    assert cli.run(["compare", "--data", "own.npz"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# Parts.


@pytest.mark.parametrize(("parts", "seeds"), [(3, 3), (5, 1), (64, 1), (7, 2)])
def test_parts_are_of_equal_size_and_make_the_whole(
    parts, seeds, tmp_path, monkeypatch
):
    whole = sweep(seeds=seeds).runs
    rows = {row["run_id"]: row for row in whole.to_pylist()}
    trained = []

    def train(self, programs, settings, pending):
        trained.append(list(pending))
        self._keep(pa.Table.from_pylist([rows[n] for n in pending], SCHEMA), 0.0)

    monkeypatch.setattr(make.Maker, "_train", train)
    monkeypatch.setattr(make.Maker, "_made", lambda self, *given: _Map())
    for i in range(parts):
        made = sweep(seeds=seeds, out=tmp_path / str(i), shard=(i, parts))
        assert made.runs.num_rows == folder.finished(tmp_path / str(i)).__len__()
    sizes = [read_settings_and_count(tmp_path / str(i)) for i in range(parts)]
    assert sum(sizes) == whole.num_rows and max(sizes) - min(sizes) <= 1
    assert sorted(sum(trained, [])) == sorted(rows)
    merged = folder.merge([tmp_path / str(i) for i in range(parts)], tmp_path / "all")
    assert merged.runs.equals(whole.select(SCHEMA.names))


class _Map:
    strategy, block, initial = "map", None, None


def read_settings_and_count(path):
    assert folder.read_settings(path).schemes
    return len(folder.finished(path))


def test_parts_spread_rates_and_schemes_and_stay_when_seeds_are_added():
    names = {
        hashlib.sha256(f"{scheme} {rate} {seed}".encode()).hexdigest(): Run(
            scheme, "momentum()", rate, seed
        )
        for scheme in "abcdef" for rate in range(6) for seed in range(5)
    }  # fmt: skip
    few = {name: run for name, run in names.items() if run.seed < 4}

    plan = Plan(None, {}, {}, settings(["a"]), (0, 6))
    for i in range(6):
        part = plan._replace(part=(i, 6))
        ours, before = part.ours(names), part.ours(few)
        assert before <= ours and len(ours) == 30 and len(before) == 24
        assert (
            len({(names[name].scheme, names[name].learning_rate) for name in ours}) > 20
        )
    schemes, asked = dict.fromkeys("abcdef"), settings(["a"], tuning_seeds=1)
    tuned = Plan(None, schemes, {}, asked, (1, 4))
    assert {names[name].scheme for name in tuned.ours(names)} == {"b", "f"}


def test_an_empty_part_alone_is_a_part(tmp_path, capsys):
    made = sweep(["he_normal"], [0.1], 1, out=tmp_path / "a", shard=(63, 64))
    assert made.runs.num_rows == 0 and made.runs.schema == SCHEMA
    again = sweep(["he_normal"], [0.1], 1, out=tmp_path / "a", shard=(63, 64))
    assert again.runs.num_rows == 0
    assert sweep(["he_normal"], [0.1], 1, shard=(1, 2)).runs.num_rows == 0
    assert "holds no finished runs" in told(tmp_path / "a", capsys)
    assert cli.run(["merge", str(tmp_path / "a"), "-o", str(tmp_path / "b")]) == 2
    assert "no finished run in" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


# A sweep.json that is gone.


@pytest.mark.parametrize("gone", ["sweep.json", "runs", "."])
def test_what_is_taken_away_in_mid_run_is_there_at_the_end(gone, tmp_path, monkeypatch):
    out, real = tmp_path / "out", make.Maker._train

    def train(self, programs, settings, pending):
        real(self, programs, settings, pending)
        path = out / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    whole = sweep(seeds=1, out=tmp_path / "whole")
    monkeypatch.setattr(make.Maker, "_train", train)
    made = sweep(seeds=1, out=out)
    assert made.runs["run_id"].equals(whole.runs["run_id"])
    assert load_result(out).settings == whole.settings
    assert load_result(out).runs["train_loss"].equals(made.runs["train_loss"])


def test_a_sweep_json_that_is_gone_is_made_again_of_the_runs(tmp_path, capsys):
    out = tmp_path / "out"
    before = sweep(seeds=2, out=out)
    (out / "sweep.json").unlink()
    assert "it has no sweep.json" in told(out, capsys)
    after = sweep(["he_normal"], [0.1], 1, out=out)
    assert after.runs.equals(before.runs)
    assert after.settings.schemes == before.settings.schemes
    assert after.settings.learning_rates == before.settings.learning_rates
    assert after.settings.seeds == 2
    (out / "sweep.json").unlink()
    with pytest.raises(FileExistsError, match="holds no sweep of jaxinit"):
        sweep(["he_normal"], [0.1], 1, out=out, steps=25)
    assert not (out / "sweep.json").exists()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 99, None])
def test_a_folder_of_others_is_left_as_it_is(content, tmp_path):
    (tmp_path / "out" / "runs").mkdir(parents=True)
    file = tmp_path / "out" / "runs" / "a.parquet"
    if content is None:
        pq.write_table(pa.table({"run_id": ["a"], "seed": ["x"]}), file)
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(FileExistsError, match="holds no sweep of jaxinit"):
        folder.claim(tmp_path / "out", settings(["a"]))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["a.parquet"]


# A disk that is full.


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED\nmore"),
     MemoryError()],
    ids=repr,
)  # fmt: skip
def test_a_sweep_goes_on_without_checkpoints(error, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(chunks._Clock, "is_due", lambda self: True)

    def full(self, chunk, runs):
        left = self._folder / f"{chunk}-5.orbax-checkpoint-tmp-9"
        left.mkdir(parents=True)
        raise error

    whole = sweep(seeds=1)
    monkeypatch.setattr(checkpoints.Checkpoints, "_save", full)
    made = sweep(seeds=1, out=tmp_path / "out")
    assert made.runs["run_id"].equals(whole.runs["run_id"])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "the sweep goes on" in said[0] and "\n" not in said[0]
    assert not (tmp_path / "out" / "checkpoints").exists()


FULL = """
import resource, signal, sys
from jaxinit.compare import cli
from jaxinit.compare.sweep import chunks
chunks.SAVE_EVERY, chunks.SAVE_SHARE = 0.0, 1.0
from jaxinit.compare.sweep import checkpoints
real = checkpoints.Checkpoints._save

def save(self, chunk, runs):
    # A disk on which no file has more than 100 bytes, while a checkpoint is written.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        real(self, chunk, runs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

checkpoints.Checkpoints._save = save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_disk_that_is_full_for_checkpoints_is_a_sentence(tmp_path):
    words = (
        "compare --depth 2 --width 8 --steps 15 --eval-every 5 --seeds 2 --quiet "
        "--learning-rates 0.05 --schemes he_normal --strategy map"
    )
    done = subprocess.run(
        [sys.executable, "-c", FULL, *words.split(), "--out", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "the sweep goes on" in done.stderr
    assert read_runs(tmp_path / "out").num_rows == 4  # of them two tune
    assert not (tmp_path / "out" / "checkpoints").exists()


# Programs that are kept.

KEPT = """
import sys, jax
from jaxinit.compare import cli
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_damaged_program_is_told_once_and_made_again(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_C")}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    words = (
        "compare --depth 1 --width 4 --steps 4 --eval-every 2 --seeds 1 --quiet "
        "--learning-rates 0.1 --schemes normal --strategy map --shard 0/1 --out"
    )

    def command(name):
        done = subprocess.run(
            [sys.executable, "-c", KEPT, *words.split(), str(tmp_path / name)],
            capture_output=True, text=True, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert command("a") == ""
    entries = sorted((tmp_path / "jaxinit" / "programs").glob("*-cache"))
    assert len(entries) > 3
    for place, entry in enumerate(entries):
        content = entry.read_bytes()
        damages = (content[: len(content) // 2], b"", b"x" * 99)
        entry.write_bytes(damages[place % 3])
    said = command("b")
    assert "made again" in said and said.count("\n") == 1
    assert command("c") == ""
