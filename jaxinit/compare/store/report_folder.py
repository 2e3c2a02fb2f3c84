"""The folder that a report goes to where it is not the sweep's own."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence

from jaxinit.compare import files


def claim(out: pathlib.Path, sweeps: Sequence[str], runs: Iterable[str]) -> None:
    """Make `out` the folder of a report, or of the same report written anew.

    A file `report.json` says which runs the report shows. It may be written again of
    these runs, or of these and more, so that nothing that it shows is lost.

    Args:
        out: the folder, new, empty, or with such a report.
        sweeps: their names, for what a refusal says.
        runs: the names of the runs that are shown.

    Raises:
        FileExistsError: it holds anything else; nothing is touched then.
    """
    shown = sorted(set(runs))
    if out.is_dir() and any(out.iterdir()):
        _check(out, set(shown))
    elif out.exists() and not out.is_dir():
        raise FileExistsError(_refused(out, "is a file"))
    out.mkdir(parents=True, exist_ok=True)
    content = {"sweeps": list(sweeps), "runs": shown}
    files.write(out / "report.json", json.dumps(content))


def _check(out: pathlib.Path, shown: set[str]) -> None:
    if (out / "sweep.json").exists():
        raise FileExistsError(_refused(out, "holds a sweep and its report"))
    try:
        content = json.loads((out / "report.json").read_text())
        sweeps, runs = content["sweeps"], frozenset(content["runs"])
        named = ", ".join(map(str, sweeps))
    except (OSError, ValueError, TypeError, KeyError):
        raise FileExistsError(_refused(out, "exists and holds no report")) from None
    if not runs <= shown:
        what = f"holds the report of other runs, those of {named}"
        raise FileExistsError(_refused(out, what))


def _refused(out: pathlib.Path, what: str) -> str:
    return f"{out} {what}; choose a new or empty folder with --out."
