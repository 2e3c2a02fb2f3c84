"""Several processes that make one sweep, on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np

from jaxinit.compare import read_runs
from jaxinit.compare.store import folder

# Checkpoints after every segment, as hours of training would have them.
CODE = (
    "import sys; from jaxinit.compare import cli; "
    "from jaxinit.compare.sweep import chunks; "
    "chunks.SAVE_EVERY, chunks.SAVE_SHARE = 0.0, 1.0; "
    "sys.exit(cli.run(sys.argv[1:]))"
)
SWEEP = [
    *"compare --depth 2 --width 8 --eval-every 5 --batch-size 32 --seeds 3".split(),
    *"--learning-rates 0.05 0.1 --schemes he_normal normal(1e30)".split(),
    *"--strategy map --tuning-seeds 0".split(),
]


def start(out, steps, *more, devices=1):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    options = ["--steps", str(steps), "--out", str(out), *more]
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *SWEEP, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cluster(out, steps):
    """Two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = ["--distributed", "--coordinator", address, "--processes", "2"]
    return [start(out, steps, *common, "--process-index", str(i)) for i in range(2)]


def ended(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def rows(out):
    return {row["run_id"]: row for row in read_runs(out).to_pylist()}


def same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, row in mine.items():
        np.testing.assert_allclose(
            row["train_loss"], theirs[name]["train_loss"], rtol=2e-3, atol=1e-5
        )


def test_two_processes_make_what_one_makes(tmp_path):
    alone = start(tmp_path / "alone", 20, devices=2)
    status, _, err = ended(alone)
    assert status == 0, err
    pair = [ended(process) for process in cluster(tmp_path / "pair", 20)]
    assert [status for status, _, _ in pair] == [0, 0], pair
    same(rows(tmp_path / "pair"), rows(tmp_path / "alone"))
    assert "no scheme reaches" in pair[0][1]
    assert "scheme" not in pair[1][1]  # one speaks
    assert folder.read_settings(tmp_path / "pair").device == "2 x cpu"
    names = {path.name for path in (tmp_path / "pair").iterdir()}
    assert names >= {"sweep.json", "runs", "report.html"} and "checkpoints" not in names


def has_checkpoint(out):
    """Whether there is a whole one, of a step after the first."""
    names = [path.name for path in out.glob("checkpoints/*")]
    return any(re.fullmatch(r"[0-9a-f]+-[1-9][0-9]*", name) for name in names)


def test_a_process_that_dies_ends_the_others_and_loses_nothing(tmp_path):
    out = tmp_path / "out"
    first, second = cluster(out, 50_000)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not has_checkpoint(out):
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    status, _, err = ended(first)
    second.communicate()
    assert status == 1 and "another process of this sweep is gone" in err
    assert folder.read_settings(out).steps == 50_000
    assert not folder.finished(out)
    from jaxinit.compare.sweep.checkpoints import Checkpoints

    (unfinished,) = Checkpoints(out).found()
    assert unfinished.snapshot.step > 0 and len(unfinished.names) == 12
    goes_on = [unfinished.names[run] for run in unfinished.snapshot.runs]
    assert len(goes_on) == 6  # the others have diverged


def test_the_first_process_killed_before_training_leaves_a_sentence(tmp_path):
    out = tmp_path / "out"
    first, second = cluster(out, 50_000)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (out / "sweep.json").exists():
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    status, _, err = ended(second)
    first.communicate()
    assert status != 0 and err.count("\n") == 1
    assert err.startswith("jaxinit: distributed: another process of this sweep is gone")


def test_a_cluster_that_is_none_in_one_sentence(tmp_path):
    status, _, err = ended(start(tmp_path / "out", 20, "--distributed"))
    assert status == 2 and err.count("\n") == 1
    assert "coordinator" in err
    status, _, err = ended(start(tmp_path / "out", 20, "--processes", "2"))
    assert status == 2 and "go with --distributed" in err
