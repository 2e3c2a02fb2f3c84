"""Memory: what there is, and what would not fit said before any of it is taken."""

from __future__ import annotations

import os
import pathlib
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest
from sweeps import sweep, task

from jaxinit.compare import cli, compare, machine

GIB = 2**30


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A machine of files: 8 GiB are free, and no group has a limit."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    monkeypatch.setattr(machine, "_PROC", proc)
    monkeypatch.setattr(machine, "_GROUPS", groups)

    def write(path, text):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))

    write("proc/meminfo", f"MemTotal: 99 kB\nMemAvailable: {8 * 2**20} kB\n")
    write("proc/self/cgroup", "1:cpu:/x\n0::/user/job\n")
    write("proc/self/statm", f"{GIB // resource.getpagesize()} 1 1 1 0 1 0")
    return write


def test_so_few_addresses_that_xla_would_abort_are_told(linux, monkeypatch):
    machine.check_addresses()
    room = machine.ADDRESSES + machine.OF_CORE * (os.cpu_count() or 1)
    real = resource.getrlimit
    for least, fits in ((room + GIB, True), (room + GIB - 1, False), (5, False)):

        def limited(of, least=least):
            return (least, least) if of == resource.RLIMIT_AS else real(of)

        monkeypatch.setattr(resource, "getrlimit", limited)
        if fits:
            machine.check_addresses()
        else:
            with pytest.raises(
                ValueError, match=r"^ulimit leaves .*; allow it .* more"
            ):
                machine.check_addresses()


def test_without_limits_all_that_is_free(linux):
    assert machine.free_on_host() == 8 * GIB
    linux("groups/user/job/memory.max", "max")
    linux("groups/user/job/memory.current", 5)
    assert machine.free_on_host() == 8 * GIB


@pytest.mark.parametrize("group", ["user/job", "user", "."])
def test_a_group_of_version_two_leaves_less(linux, group):
    linux(f"groups/{group}/memory.max", 3 * GIB)
    linux(f"groups/{group}/memory.current", 2 * GIB)
    assert machine.free_on_host() == GIB
    linux(f"groups/{group}/memory.stat", f"anon 7\ninactive_file {GIB}\n")
    assert machine.free_on_host() == 2 * GIB  # files that are cached give way
    linux(f"groups/{group}/memory.current", 9 * GIB)
    assert machine.free_on_host() == 0


@pytest.mark.parametrize("group", ["docker/a", "docker", "."])
@pytest.mark.parametrize("controllers", ["memory", "cpu,memory", "memory,hugetlb"])
def test_a_group_of_version_one_leaves_less(linux, group, controllers):
    linux("proc/self/cgroup", f"4:{controllers}:/docker/a\n1:name=systemd:/y\n0::/\n")
    linux("groups/memory/memory.limit_in_bytes", 2**63 - 4096)
    linux("groups/memory/memory.usage_in_bytes", GIB)
    assert machine.free_on_host() == 8 * GIB
    linux(f"groups/memory/{group}/memory.limit_in_bytes", 4 * GIB)
    linux(f"groups/memory/{group}/memory.usage_in_bytes", 2 * GIB)
    linux(f"groups/memory/{group}/memory.stat", f"total_inactive_file {GIB}\n")
    assert machine.free_on_host() == 3 * GIB


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_a_limit_of_the_process_leaves_less(linux, kind, monkeypatch):
    real = resource.getrlimit

    def limited(of):
        return (3 * GIB, 3 * GIB) if of == kind else real(of)

    monkeypatch.setattr(resource, "getrlimit", limited)
    taken = GIB if kind == resource.RLIMIT_AS else resource.getpagesize()
    assert machine.free_on_host() == 3 * GIB - taken


@pytest.mark.parametrize("text", ["", "x", "0::", "0:", "::::", "\n\n"])
def test_what_the_system_says_strangely_is_passed_over(linux, text):
    linux("proc/self/cgroup", text)
    linux("groups/memory.max", text)
    assert machine.free_on_host() == 8 * GIB
    linux("proc/self/statm", text)
    linux("proc/meminfo", text)
    assert machine.free_on_host() > 0


def test_where_there_are_no_such_files(monkeypatch):
    monkeypatch.setattr(machine, "_PROC", pathlib.Path("/nowhere"))
    assert machine.free_on_host() > 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1.02e+03 bytes"), (2**10, "1 KiB"), (1.5 * GIB, "1.5 GiB"),
     (1e30, "8.67e+11 EiB")],
)  # fmt: skip
def test_sizes_as_one_reads_them(count, text):
    assert machine.size(count) == text


MANY = [
    {"seeds": 10**11},
    {"seeds": 10**11, "tuning_seeds": 1},
    {"tuning_seeds": 10**11},
    {"tuning_seeds": 1, "until_sure": 10**11},
    {"steps": 10**14, "eval_every": 1},
    {"steps": 10**14, "eval_every": 10**14},
    {"seeds": 10**30},
]


@pytest.mark.parametrize("options", MANY, ids=str)
def test_so_many_runs_are_refused_before_there_is_one(options, tmp_path):
    with pytest.raises(ValueError, match=r"^compare: .* of memory, and .* are free; "):
        compare(
            task(), ["he_normal"], [0.1],
            **{"seeds": 2, "steps": 20, "eval_every": 5, "batch_size": 16, **options},
            out=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        "--width 100000000",
        "--width 3000000 --depth 2",
        "--task text-transformer(width=400000)",
        "--task digits-cnn(width=900000)",
        "--seeds 100000000000",
        "--task adding-lstm(length=100000000)",
    ],
)
def test_the_command_refuses_what_does_not_fit(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "10", "--eval-every", "5", "--schemes", "he_normal"]
    assert cli.run(["compare", *words.split(), *options]) == 2
    assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err
    assert said.startswith("jaxinit: ") and said.count("\n") == 1
    assert "memory" in said or "does not fit" in said, said


def test_an_array_to_show_is_not_larger_than_memory(capsys):
    assert cli.run(["show", "normal", "--shape", "1000000", "1000000"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "take a smaller one" in said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB\nfor an array"),
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"),
    ],
)
def test_memory_that_runs_out_anyway_is_a_sentence(error, monkeypatch, capsys):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("jaxinit.compare.sweep.compare.compare", fails)
    assert cli.run(["compare"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxinit: out of memory") and said.count("\n") == 1


def test_little_memory_narrows_a_sweep_and_changes_no_run(monkeypatch):
    whole = sweep().runs
    monkeypatch.setattr(machine, "free_on_host", lambda: 2**20)
    narrow = sweep().runs
    assert narrow["run_id"].equals(whole["run_id"])
    for one, other in zip(narrow["train_loss"], whole["train_loss"], strict=True):
        np.testing.assert_allclose(one.as_py(), other.as_py(), rtol=1e-3)


def limited(gib, *words, cwd):
    limit = int(gib * GIB)
    code = (
        "import resource, sys; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit})); "
        "from jaxinit.compare import cli; sys.exit(cli.run(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "compare", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def test_under_ulimit_a_sweep_is_made_or_refused(tmp_path):
    small = "--depth 2 --width 8 --steps 10 --eval-every 5 --seeds 2 --quiet".split()
    room = machine.ADDRESSES + machine.OF_CORE * (os.cpu_count() or 1)
    done = limited(room / GIB + 4, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "digits-mlp" / "report.html").is_file()
    for gib, more, said in (
        (room / GIB + 4, ["--width", "30000"], "take a smaller model"),
        (room / GIB, [], "of addresses to this process"),
    ):
        words = [*small, "--out", str(tmp_path / "out"), *more]
        done = limited(gib, *words, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert said in done.stderr and not (tmp_path / "out").exists()
