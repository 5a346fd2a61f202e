"""Atomic file writes, through a temporary file next to the target and never through a link; YAML read as data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, if libyaml is available


@contextmanager
def whole(target: Path, *, binary: bool = False, durable: bool = False) -> Iterator[IO[Any]]:
    """Open a file that replaces ``target`` when the block succeeds; if it fails, nothing is left.

    The temporary file is newly created (``O_EXCL``), so a link with its name is removed and not followed. A link
    at ``target`` is replaced by the new file and not followed either.

    Args:
        binary: write bytes instead of UTF-8 text. Line ends of text are not converted.
        durable: flush to disk before replacing the old file, for data that must survive a power failure.
    """
    scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
    scratch.unlink(missing_ok=True)
    try:
        with scratch.open("xb") if binary else scratch.open("x", encoding="utf-8", newline="") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``target``.

    A file or folder created there replaces ``target`` when the block succeeds; if it fails, nothing is left.

    Raises:
        OSError: writing failed; ``filename2`` is ``target`` if that has become a non-empty folder.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch / target.name
        os.replace(scratch / target.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def at_home(place: str) -> Path:
    """Expand ``~`` in a path; the path is unchanged if that user has no home folder."""
    return Path(os.path.expanduser(place))


def replace_text(target: Path, text: str, *, durable: bool = False) -> None:
    """Write a small text file atomically."""
    with whole(target, durable=durable) as file:
        file.write(text)


def remove_partial(folder: Path) -> None:
    """Remove temporary files that killed processes left in ``folder``."""
    for file in folder.glob(".*.partial"):
        file.unlink(missing_ok=True)


def load_yaml(text: str) -> Any:
    """Parse YAML into plain containers and values.

    Raises:
        ValueError: it has aliases, with which a small file can expand to a huge one, or is nested too deeply.
        yaml.YAMLError: it is not YAML.
    """
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=LOADER)):
        raise ValueError("it has aliases, which this program does not write")
    try:
        return yaml.load(text, Loader=LOADER)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
