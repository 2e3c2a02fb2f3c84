"""The command `jaxinit`.

What a command needs is imported in it, so that `jaxinit --help` needs not even JAX.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxinit.compare import understanding
from jaxinit.compare.options import Options

if TYPE_CHECKING:
    pass

app = tyro.extras.SubcommandApp()

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@app.command(name="compare")
def compare_command(
    *,
    task: str | None = None,
    tasks: tuple[str, ...] = (),
    data: str | None = None,
    depth: int | None = None,
    width: int | None = None,
    widths: tuple[int, ...] = (),
    depths: tuple[int, ...] = (),
    activation: str | None = None,
    target: float | None = None,
    sweep: Annotated[Options, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff],
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    shard: str | None = None,
    distributed: Flag = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process_index: int | None = None,
    out: pathlib.Path | None = None,
    redo: Flag = False,
    tensorboard: pathlib.Path | None = None,
    wandb: str | None = None,
    quiet: Flag = False,
) -> None:
    """Train a task from every scheme at every learning rate and seed, side by side.

    Prints which scheme converged fastest, and writes runs, summary and figures.

    Args:
        task: the task: digits-mlp, the default, digits-cnn, digits-resnet,
            mnist1d-mlp, mnist1d-cnn, autoencoder, text-transformer, regression-mlp or
            linear; or with its options, as in 'digits-mlp(depth=8, width=128)'; or
            one's own, as in mine.py:task or package.module:task, a task or a function
            that makes one. So may schemes and optimizers be, as in mine.py:my_scheme.
        tasks: several tasks, one after another: each has its folder in that of --out,
            and the folder joined there has the report of all.
        data: instead of a task, data for a multilayer perceptron: a file NAME.npz
            with arrays x_train, y_train, x_valid, y_valid, or x, y; sklearn:NAME of
            digits, wine, breast_cancer, diabetes; or hf:NAME.
        depth: hidden layers, or blocks, of the task's model.
        width: units of a layer.
        widths: the same sweep at two or more widths, and whether the winner at the
            smallest is the winner at the largest.
        depths: likewise at two or more depths.
        activation: activation of the hidden layers.
        target: validation accuracy, or whatever the task's metric is, at which a run
            has converged; each task has its own.
        sweep: what is run.
        platform: where to run; JAX's own choice by default.
        shard: only a part of the sweep, as 0/4 to 3/4 on four machines; join the
            folders with jaxinit merge.
        distributed: make the sweep together with the other processes of a cluster,
            which share the folder of results; found without further options under
            Slurm, Open MPI, Kubernetes and on Cloud TPUs.
        coordinator: host:port of the first process, on other clusters.
        processes: how many there are, on other clusters.
        process_index: which this is, from 0, on other clusters.
        out: folder for the results; results/NAME by default. A folder with runs of
            the same task and settings is added to; other results are never
            overwritten.
        redo: set the runs in the folder aside, in a folder within, and make all anew.
        tensorboard: folder for event files that TensorBoard shows while it trains.
        wandb: project of Weights & Biases for the same.
        quiet: print neither progress nor table.
    """
    with _status("loading JAX", quiet):
        from jaxinit.compare import cluster, code
        from jaxinit.compare.sweep.compare import compare

        _prepare(platform)
    if distributed:
        cluster.join(coordinator, processes, process_index)
    elif (coordinator, processes, process_index) != (None, None, None):
        raise ValueError(
            "--coordinator, --processes and --process-index go with --distributed."
        )
    _check_platform(platform)
    model = {"depth": depth, "width": width, "activation": activation}
    given = {**model, "target": target}
    options = {
        **vars(sweep),
        "schemes": [code.scheme(text) for text in sweep.schemes],
        "optimizers": [code.optimizer(text) for text in sweep.optimizers],
        "shard": None if shard is None else _part(shard),
        "redo": redo,
        "tensorboard": tensorboard,
        "wandb": wandb,
        "quiet": quiet,
    }
    if widths or depths:
        if tasks:
            raise ValueError("--widths and --depths are of one --task, not of --tasks.")
        size_of = "width" if widths else "depth"
        if given[size_of] is not None:
            raise ValueError(f"--{size_of} and --{size_of}s exclude each other.")
        from jaxinit.compare.sweep.ladder import ladder

        sizes = (*widths, *depths)
        made = {k: code.tasks(task, (), data, {**given, size_of: k}) for k in sizes}
        (name,) = made[sizes[0]]
        ladder(
            lambda size: made[size][name],
            widths=widths,
            depths=depths,
            out=out or pathlib.Path("results", f"{name}-{size_of}s"),
            **options,
        )
        return
    chosen = code.tasks(task, tasks, data, given)
    parent = "results/tasks" if tasks else "results"
    folders = [pathlib.Path(out or parent, name) for name in chosen]
    folders = [out] if out is not None and not tasks else folders
    for one, folder_of_one in zip(chosen.values(), folders, strict=True):
        compare(one, out=folder_of_one, **options)
    if len(folders) > 1 and shard is None and cluster.index() == 0:
        _join(folders, quiet)


@contextlib.contextmanager
def _status(what: str, quiet: bool) -> Iterator[None]:
    """A word on the screen, if it is one, while something takes long."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    import rich.console

    with rich.console.Console(stderr=True).status(what):
        yield


def _prepare(platform: str | None) -> None:
    """All cores, compiled programs from one run of the command to the next."""
    import jax

    from jaxinit.compare import machine

    if platform is not None:
        jax.config.update("jax_platforms", platform)
    machine.check_addresses()
    machine.use_all_cores()
    machine.keep_programs()


def _check_platform(platform: str | None) -> None:
    """Raise unless JAX finds devices; after this no process joins a cluster."""
    import jax

    try:
        jax.devices()
    except RuntimeError:
        raise ValueError(
            f"platform {platform!r} is not available here; leave --platform out for "
            "JAX's own choice."
        ) from None


def _part(shard: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found:
        raise ValueError(f"--shard {shard} must read I/N, such as 0/4.")
    return int(found[1]), int(found[2])


@app.command(name="advise")
def advise_command(
    *,
    task: str = "digits-mlp",
    budget: str = "60s",
    steps: int = 500,
    learning_rates: tuple[float, ...] | None = None,
    optimizer: str = "momentum",
    platform: Literal["cpu", "gpu", "tpu"] | None = None,
    out: pathlib.Path | None = None,
    quiet: Flag = False,
) -> None:
    """Recommend an initialization for a task's model, or to keep what it has.

    Args:
        task: as for jaxinit compare.
        budget: how long it may take, about: 60s, 10m, 1h, or 300 runs.
        steps: optimizer steps of each run.
        learning_rates: the grid; by default the optimizer's own.
        optimizer: what trains, such as 'adamw(weight_decay=0.1)'.
        platform: where to run; JAX's own choice by default.
        out: folder for runs, figures and the page; results/advice by default.
        quiet: show no progress.
    """
    with _status("loading JAX", quiet):
        from jaxinit.compare import code
        from jaxinit.compare.sweep.advise import advise

        _prepare(platform)
    _check_platform(platform)
    found = advise(
        code.task(task),
        budget,
        steps=steps,
        learning_rates=learning_rates,
        optimizers=optimizer,
        out=out or pathlib.Path("results", "advice"),
        quiet=quiet,
    )
    if quiet:
        print(found)


@app.command(name="merge")
def merge_command(
    sources: tyro.conf.Positional[tuple[pathlib.Path, ...]],
    /,
    *,
    out: Annotated[pathlib.Path, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Join the runs of several folders of one sweep, made on several machines.

    Args:
        sources: the folders.
        out: the folder of all runs.
    """
    from jaxinit.compare.report import terminal
    from jaxinit.compare.report.result import Result
    from jaxinit.compare.store import folder

    sweep = folder.merge(sources, out)
    Result(sweep).save(out)
    print(f"{sweep.runs.num_rows} runs in {terminal.sentence(str(out))}")


def _join(folders: list[pathlib.Path], quiet: bool) -> None:
    """Report on several tasks together, beside their folders."""
    from jaxinit.compare.report.study import Study, load_results
    from jaxinit.compare.store import report_folder

    found = load_results(*folders)
    assert isinstance(found, Study)  # tasks differ in their names
    runs = [run for each in found.results for run in each.runs["run_id"].to_pylist()]
    joined = folders[0].parent / "joined"
    report_folder.claim(joined, [folder.name for folder in folders], runs)
    if not quiet:
        found.show_together()
    found.write(joined)


@app.command(name="report")
def report_command(
    folders: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
    /,
    *,
    baseline: str | None = None,
    learning_rate: float | None = None,
    targets: tuple[float, ...] = (),
    target_of: str | None = None,
    out: pathlib.Path | None = None,
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Make table, figures and page again from finished runs, or compare sweeps.

    Args:
        folders: folders that jaxinit compare wrote. Several over one task are put side
            by side; over several tasks, their profile says which scheme is fast on
            all.
        baseline: the scheme that the others are compared with; by default the first of
            the sweep that reaches the target.
        learning_rate: print all schemes at this learning rate, instead of each at its
            best.
        targets: show the steps to each of these targets, too.
        target_of: take as target what this scheme reaches at its best learning rate,
            in the median over seeds, instead of the sweep's own.
        out: folder for summary, figures and page; by default the sweep's own, and with
            several sweeps none.
        quiet: print no table.
    """
    from jaxinit.compare.report.study import Study, load_results
    from jaxinit.compare.store import report_folder

    if len(folders) == 0:
        raise ValueError("report: no folder is given; name one or more of sweeps.")
    found = load_results(*folders)
    if out is not None and not _is_one_of_one(out, folders):
        results = found.results if isinstance(found, Study) else (found,)
        runs = [name for each in results for name in each.runs["run_id"].to_pylist()]
        report_folder.claim(out, [folder.resolve().name for folder in folders], runs)
    if target_of is not None:
        found = found.with_target_of(target_of)
    if targets:
        found = found.with_targets(targets)
    if not quiet:
        found.show(baseline, learning_rate)
    if out is None and len(folders) > 1:
        return
    found.write(folders[0] if out is None else out, baseline)


def _is_one_of_one(out: pathlib.Path, folders: tuple[pathlib.Path, ...]) -> bool:
    """Whether a report of a single sweep goes to the sweep's own folder."""
    return len(folders) == 1 and out.exists() and out.samefile(folders[0])


for _name, _command in understanding.COMMANDS.items():
    app.command(name=_name)(_command)


_ABOUT = "Weight initialization: list, show, theory, diagnose, advise, compare, report."


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for bad input."""
    with _one_line_each():
        try:
            app.cli(prog="jaxinit", description=_ABOUT, args=arguments)
        except ConnectionError as error:
            _say(error)
            # An ordinary exit would wait minutes for the processes that are gone.
            os._exit(1)
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
            _say(error)
            return 2
        except (MemoryError, RuntimeError) as error:
            said = str(error)
            if not isinstance(error, MemoryError) and not any(
                words in said for words in _OUT_OF_MEMORY
            ):
                raise
            first = said.partition("\n")[0].rstrip(".")
            reason = f" ({first})" if first else ""
            _say(f"out of memory{reason}; take a smaller model, batch or shape.")
            return 2
        except KeyboardInterrupt:
            redo = "--redo" in (sys.argv if arguments is None else arguments)
            how = ", without --redo," if redo else ""
            _say(f"interrupted; the same command{how} goes on.")
            return 130
    return 0


def _say(what: object) -> None:
    """Print a sentence to standard error."""
    print(f"jaxinit: {_sentence(str(what))}", file=sys.stderr, flush=True)


def _sentence(text: str) -> str:
    from jaxinit.compare.report import terminal

    return terminal.sentence(text)


@contextlib.contextmanager
def _one_line_each() -> Iterator[None]:
    """Warnings and the log's messages as sentences, which they are, without a place."""

    def formatted(message: Warning | str, *_: Any) -> str:
        from jaxinit.compare import machine

        text = _sentence(str(message))
        if _DAMAGED in text and machine.forget_programs():
            text = "a compiled program that was kept is damaged; all are made again."
        return f"jaxinit: {text}\n"

    before = warnings.formatwarning, logging.lastResort
    warnings.formatwarning = formatted
    logging.lastResort = logging.StreamHandler()
    logging.lastResort.setLevel(logging.WARNING)
    logging.lastResort.setFormatter(_Sentences("jaxinit: %(message)s"))
    try:
        yield
    finally:
        warnings.formatwarning, logging.lastResort = before


class _Sentences(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _sentence(super().format(record))


_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "can't start new thread")
"""What JAX and Python say in errors that are not of memory by their type."""

_DAMAGED = "reading persistent compilation cache entry"
"""In JAX's warning of such an entry, which it reads again, and warns of, for ever."""
