"""Files that are there whole or not at all, written beside their place and never through a link; YAML read as data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there


@contextmanager
def whole(target: Path, *, binary: bool = False, durable: bool = False) -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``target`` once the block has ended well; if not, nothing is left.

    The scratch file is made anew (``O_EXCL``), so a link that lies in its place is removed and not followed; neither
    is one at ``target``, which the new file replaces.

    Args:
        binary: bytes, else UTF-8 text whose line ends stay as they are.
        durable: flush to the disk before the old file is given up, for what a power cut must not lose.
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
    """Yield a path beside ``target`` to make a file or folder at, which takes its place once the block has ended well;
    if not, nothing is left.

    Raises:
        OSError: something cannot be written; with ``target`` as ``filename2``, if it is by now a folder with content.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch / target.name
        os.replace(scratch / target.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def at_home(place: str) -> Path:
    """A path with its ``~`` replaced, or left as it is where nobody of that name has a home."""
    return Path(os.path.expanduser(place))


def replace_text(target: Path, text: str, *, durable: bool = False) -> None:
    """Write a small text file whole or not at all."""
    with whole(target, durable=durable) as file:
        file.write(text)


def remove_partial(folder: Path) -> None:
    """Remove what kills have left of files that were being written in ``folder``."""
    for file in folder.glob(".*.partial"):
        file.unlink(missing_ok=True)


def load_yaml(text: str) -> Any:
    """What YAML says, as plain containers and values.

    Raises:
        ValueError: it has aliases, by which a small file can describe a huge one, or is nested too deeply.
        yaml.YAMLError: it is no YAML.
    """
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=LOADER)):
        raise ValueError("it has aliases, which this program does not write")
    try:
        return yaml.load(text, Loader=LOADER)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
