"""The scripts for Slurm, run by a real Slurm of one node on the loopback."""

import contextlib
import getpass
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from jaxinit.compare import cli, compare, read_runs

PROGRAMS = "munged slurmctld slurmd sbatch scontrol sinfo".split()
missing = [each for each in PROGRAMS if shutil.which(each) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"{', '.join(missing)} of slurm-wlm and munge not installed"
)

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
SWEEP = {
    "task": "digits-mlp(depth=1, width=8)", "schemes": ["he_normal", "normal"],
    "learning_rates": [0.1], "seeds": 2, "tuning_seeds": 0, "steps": 20,
}  # fmt: skip
CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP OverSubscribe=FORCE:4
"""


def words(sweep):
    for name, value in sweep.items():
        values = value if isinstance(value, list) else [value]
        yield from (f"--{name.replace('_', '-')}", *map(str, values))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Start munge and Slurm in a folder of their own, and stop them."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    user = getpass.getuser()
    config.write_text(CONFIG.format(folder=folder, host=host, ports=ports, user=user))
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ, "SLURM_CONF": str(config), "PATH": path, "JAX_PLATFORMS": "cpu"
    }  # fmt: skip
    files = {
        name: f"--{name}={folder / f'munge.{name}'}"
        for name in ("socket", "pid-file", "log-file", "seed-file")
    }
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={folder / 'key'}",
         *files.values()],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]  # fmt: skip
    running = []
    for command in daemons:
        with (folder / f"{command[0]}.log").open("w") as log:
            running.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            )
        time.sleep(1)

    def slurm(*command, status=0):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    try:
        until = time.monotonic() + 60
        while "idle" not in slurm("sinfo"):
            assert time.monotonic() < until, slurm("sinfo")
            time.sleep(0.5)
        yield slurm
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def test_an_array_of_parts_is_joined(slurm, tmp_path):
    slurm(
        "sbatch", "--wait", f"--chdir={tmp_path}", "--array=0-1", "--cpus-per-task=1",
        str(EXAMPLES / "slurm_array.sh"), *words(SWEEP),
    )  # fmt: skip
    parts = sorted(tmp_path.glob("results/part-*"))
    assert [read_runs(part).num_rows for part in parts] == [2, 2]
    joined = tmp_path / "results" / "all"
    assert cli.run(["merge", *map(str, parts), "-o", str(joined)]) == 0
    whole = compare(**SWEEP, quiet=True)
    names = lambda runs: sorted(runs["run_id"].to_pylist())  # noqa: E731
    assert names(read_runs(joined)) == names(whole.runs)


def test_a_job_of_two_processes_is_killed_and_requeued(slurm, tmp_path):
    sweep = {**SWEEP, "steps": 20_000, "eval_every": 200, "strategy": "map"}
    said = slurm(
        "sbatch", f"--chdir={tmp_path}", "--nodes=1", "--ntasks-per-node=2",
        "--cpus-per-task=1", "--gpus-per-node=0",
        str(EXAMPLES / "slurm_distributed.sh"), *words(sweep),
    )  # fmt: skip
    job = said.split()[-1]
    out = tmp_path / "results" / "distributed"

    def wait(found, seconds=300):
        until = time.monotonic() + seconds
        while not found():
            logs = "".join(each.read_text() for each in tmp_path.glob("slurm-*.out"))
            assert time.monotonic() < until, logs + slurm(
                "scontrol", "show", "job", job
            )
            time.sleep(0.2)

    def state():
        return re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))[1]

    wait((out / "sweep.json").exists)
    rows = [row.split() for row in slurm("scontrol", "listpids", job).splitlines()]
    steps = {row[3]: int(row[0]) for row in rows if row[2] == "0" and row[3] != "-"}
    os.kill(steps["1"], signal.SIGKILL)
    wait(lambda: state() == "FAILED")
    slurm("scontrol", "requeue", job)
    wait(lambda: state() == "COMPLETED")
    assert read_runs(out).num_rows == 4
    assert (out / "report.html").exists()
