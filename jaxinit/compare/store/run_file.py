"""A file of runs: its name says what is in it, so that no damage goes unnoticed."""

from __future__ import annotations

import hashlib
import math
import pathlib
import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from jaxinit.compare import files
from jaxinit.compare.store.sweep import SCHEMA, checked

_SECONDS = b"jaxinit.seconds"


class RunFile(NamedTuple):
    """What a file holds.

    Attributes:
        runs: a row for each run, with the columns of `SCHEMA`.
        seconds: wall-clock seconds that they took together; NaN if not known.
    """

    runs: pa.Table
    seconds: float


class Damaged(ValueError):
    """A file of ours that is not as it was written."""


def write(folder: pathlib.Path, content: RunFile) -> None:
    """Write a file whose name is the digest of its bytes, whole or not at all."""
    known = math.isfinite(content.seconds)
    about = {_SECONDS: repr(content.seconds).encode()} if known else None
    sink = pa.BufferOutputStream()
    table = content.runs.cast(SCHEMA).replace_schema_metadata(about)
    pq.write_table(table, sink, write_page_checksum=True)
    content_bytes = sink.getvalue().to_pybytes()
    files.write(folder / f"{_digest(content_bytes)}.parquet", content_bytes)


def read(file: pathlib.Path) -> RunFile:
    """Read a file of runs, verified.

    A file under a name of the user's own has no digest; of it the checksums of its
    pages are verified.

    Raises:
        Damaged: the bytes are not those that its name tells.
        ValueError: it holds something else than runs of this version.
        OSError: it cannot be read now, as for want of a permission.
        MemoryError: it does not fit.
    """
    content = file.read_bytes()
    if is_ours(file) and _digest(content) != file.stem:
        raise Damaged(f"{file} is damaged: its bytes are not those that were written")
    try:
        parquet = pq.ParquetFile(
            pa.BufferReader(content), page_checksum_verification=True
        )
        found = parquet.read()
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{file} cannot be read as Parquet: {reason}") from error
    try:
        runs = checked(found)
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{file} cannot be read: {reason}") from error
    about = found.schema.metadata or {}
    return RunFile(runs, float(about.get(_SECONDS, "nan")))


def is_ours(file: pathlib.Path) -> bool:
    """Whether a file has a name that `write` gives."""
    return re.fullmatch(r"[0-9a-f]{16}\.parquet", file.name) is not None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
