"""The signals at step 0 in a folder of results: `DIR/signal.json`."""

from __future__ import annotations

import json
import os
import pathlib
import warnings

from jaxinit.compare import files
from jaxinit.compare.train import signal


def read_signals(folder: str | os.PathLike[str]) -> dict[str, list[signal.LayerSignal]]:
    """The signals at step 0 that a sweep left in a folder, none where it did not.

    A file that cannot be read counts as none, with a warning.
    """
    file = pathlib.Path(folder) / "signal.json"
    try:
        return signal.from_json(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except _NO_JSON as error:
        warnings.warn(
            f"{file} cannot be read ({type(error).__name__}), so that the signal at "
            "step 0 is left out; jaxinit compare writes it again.",
            stacklevel=2,
        )
        return {}


_NO_JSON = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What a file of JSON may raise that is damaged, or holds something else."""


def write_signals(out: pathlib.Path, signals: signal.Signals) -> None:
    """Write the signals at step 0 of all schemes that a folder is for."""
    content = json.dumps(signal.to_json(signals), allow_nan=False)
    files.write(out / "signal.json", content)
