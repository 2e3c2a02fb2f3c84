"""Curves for TensorBoard and Weights & Biases, read back from what is written."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest

from jaxinit.compare import Metrics, cli, read_runs
from jaxinit.compare.sweep import live
from jaxinit.compare.train.trainer import Run

RUNS = [
    Run("he_normal()", "sgd()", 0.1, 0),
    Run("he_normal()", "sgd()", 0.1, 1),
    Run("he_normal()", "sgd()", 0.03, 0),
    Run("tree/rules(*)", "sgd()", 0.1, 0),
]


def metrics(step, runs=4, dead=()):
    """Values that say which run, step and metric they are; NaN where dead."""
    values = np.arange(runs, dtype=np.float32) + step
    values[list(dead)] = np.nan
    return Metrics(values, values + 0.25, np.full(runs, 0.5, np.float32))


def logged(writer):
    """Two chunks: four runs of which the last diverges, and then one more seed."""
    writer.log(0, RUNS, metrics(0))
    writer.log(10, RUNS, metrics(10, dead=[3]))
    writer.log(20, RUNS, metrics(20, dead=[3])._replace(valid_loss=np.full(4, np.inf)))
    writer.log(0, [Run("he_normal()", "sgd()", 0.1, 2)], metrics(0, 1))
    writer.close()
    writer.close()  # does no harm


def events(folder):
    """{(run, tag): [(step, value), ...]} of all event files below a folder."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        data = file.read_bytes()
        while data:
            length, _ = struct.unpack("<QI", data[:12])
            record, data = data[12 : 12 + length], data[12 + length :]
            (check,), data = struct.unpack("<I", data[:4]), data[4:]
            crc = crc32c(record)
            masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert check == masked
            event = Event.FromString(record)
            for value in event.summary.value:
                run = str(file.parent.relative_to(folder))
                points = found.setdefault((run, value.tag), [])
                points.append((event.step, value.simple_value))
    return found


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    logged(live.tensorboard(tmp_path / "new" / "board"))
    found = events(tmp_path / "new" / "board")
    he = "he_normal()/sgd()/lr=0.1"
    assert found[he, "train_loss/seed_0"] == [(0, 0), (10, 10), (20, 20)]
    assert found[he, "train_loss/seed_1"] == [(0, 1), (10, 11), (20, 21)]
    assert found[he, "valid_loss/seed_1"] == [(0, 1.25), (10, 11.25)]
    assert found[he, "valid_metric/seed_2"] == [(0, 0.5)]
    assert found["he_normal()/sgd()/lr=0.03", "train_loss/seed_0"][-1] == (20, 22)
    (odd,) = {run for run, _ in found if "rules" in run}
    assert odd.startswith("tree_rules(_)-") and odd.endswith("/sgd()/lr=0.1")
    assert found[odd, "train_loss/seed_0"] == [(0, 3)]  # and no NaN after
    assert len({run for run, _ in found}) == 3


def test_tensorboard_goes_on_in_a_folder(tmp_path):
    pytest.importorskip("tensorboardX")
    for step in (0, 10):
        writer = live.tensorboard(tmp_path)
        writer.log(step, RUNS[:1], metrics(step, 1))
        writer.close()
    points = events(tmp_path)["he_normal()/sgd()/lr=0.1", "train_loss/seed_0"]
    assert points == [(0, 0), (10, 10)]


def test_tensorboard_is_written_while_it_trains(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = live.tensorboard(tmp_path)
    writer.log(0, RUNS, metrics(0))
    assert len(events(tmp_path)) == 4 * 3
    writer.close()


def test_folders_of_schemes_differ():
    names = ["a/b", "a_b", "a*b", "a b", "x" * 300, "x" * 301, "normal(stddev=0.01)"]
    folders = [live._file_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and len(folder) < 200 for folder in folders)
    assert folders[-1] == names[-1]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    library = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    return library


def log_records(data, block=32768):
    """The records of a log in LevelDB's format, after W&B's header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last of its parts
            yield whole
            whole = b""


def records(folder):
    """By run name: its group, config, summary and history of all offline files."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for file in sorted(folder.rglob("*.wandb")):
        run = {"config": {}, "summary": {}, "history": []}
        for data in log_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                run["name"], run["group"] = (
                    record.run.display_name,
                    record.run.run_group,
                )
                for item in record.run.config.update:
                    run["config"][item.key] = json.loads(item.value_json)
            for item in record.summary.update:
                name = item.key or item.nested_key[0]
                run["summary"][name] = json.loads(item.value_json)
            if record.HasField("history"):
                items = record.history.item
                run["history"].append(
                    {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
                )
        found[run["name"]] = run
    return found


def test_wandb(tmp_path, offline):
    logged(live.wandb("starts", {"task": "mine", "steps": 20, "scheme": "hidden"}))
    offline.teardown()  # and so all is on disk
    found = records(tmp_path)
    assert len(found) == 5
    one = found["he_normal() sgd() lr=0.1 seed=1"]
    assert one["group"] == "he_normal() sgd() lr=0.1"
    assert one["config"] | {"_wandb": None} == {
        "_wandb": None,
        "task": "mine",
        "steps": 20,
        "scheme": "he_normal()",
        "optimizer": "sgd()",
        "learning_rate": 0.1,
        "seed": 1,
    }
    points = [(p["_step"], p.get("train_loss")) for p in one["history"]]
    assert points == [(0, 1), (10, 11), (20, 21)]
    assert "valid_loss" not in one["history"][-1]
    dead = found["tree/rules(*) sgd() lr=0.1 seed=0"]
    assert [p.get("train_loss") for p in dead["history"]] == [3, None, None]
    assert dead["summary"]["diverged"] and one["summary"]["diverged"]
    assert not found["he_normal() sgd() lr=0.1 seed=2"]["summary"]["diverged"]


@pytest.mark.parametrize(
    ("make", "library"),
    [
        (lambda: live.tensorboard("x"), "tensorboardX"),
        (lambda: live.wandb("p", {}), "wandb"),
    ],
)
def test_a_missing_library_is_named(make, library, monkeypatch, tmp_path):
    words = rf"needs {library}; run: pip install 'jaxinit\[{library.lower()[:11]}\]'"
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=words):
        make()
    monkeypatch.delitem(sys.modules, library)
    (tmp_path / library).mkdir()  # a folder of logs in the place of the package
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [n for n in sys.modules if n.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=words):
        make()
    monkeypatch.delitem(sys.modules, library, raising=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sweep_is_logged_by_both(tmp_path, offline):
    pytest.importorskip("tensorboardX")
    command = [
        *"compare --task linear(depth=1,width=4) --steps 4 --eval-every 2".split(),
        *"--schemes he_normal --learning-rates 0.1 --seeds 2 --quiet".split(),
        *("--tuning-seeds", "0"),
        *("--out", str(tmp_path / "out"), "--wandb", "starts"),
        *("--tensorboard", str(tmp_path / "board")),
    ]
    assert cli.run(command) == 0
    offline.teardown()
    rows = {row["seed"]: row for row in read_runs(tmp_path / "out").to_pylist()}
    board = events(tmp_path / "board")
    for seed, row in rows.items():
        points = board["he_normal()/momentum()/lr=0.1", f"train_loss/seed_{seed}"]
        assert [step for step, _ in points] == row["eval_steps"] == [0, 2, 4]
        np.testing.assert_allclose([v for _, v in points], row["train_loss"], rtol=1e-6)
    assert set(records(tmp_path)) == {
        f"he_normal() momentum() lr=0.1 seed={k}" for k in rows
    }
