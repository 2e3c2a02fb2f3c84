"""Files that are there whole or not at all, and others' files left alone."""

from __future__ import annotations

import itertools
import os
import pathlib
import uuid


def write(path: pathlib.Path, content: bytes | str) -> None:
    """Write a file whole or not at all, readable as any other.

    The content goes to a new file in the same folder, which then takes the name, so
    that a link of that name is replaced and what it points to stays as it was.

    Args:
        path: of the file; its folder exists.
        content: bytes, or text to be UTF-8.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    content = content.encode() if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def set_aside(path: pathlib.Path) -> pathlib.Path | None:
    """Give a damaged file or folder another name, of which there is none yet.

    Returns:
        The new path, with the ending `.corrupt` or `.corrupt-2` and so on; None if
        another process has just moved it.
    """
    for number in itertools.count(1):
        ending = ".corrupt" if number == 1 else f".corrupt-{number}"
        aside = path.with_name(path.name.removesuffix(path.suffix) + ending)
        if os.path.lexists(aside):
            continue
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
        return aside
    raise AssertionError
