"""Copy the notebooks into a folder, to run and edit them there.

    python -m s15erav3.notebooks notebooks

Run them from the folder that holds ``multirun/`` and ``outputs/``, or from a folder ``notebooks/`` in it; they need
the extra ``s15erav3[notebooks]`` and Jupyter or VS Code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from s15erav3.errors import UserError
from s15erav3.notebooks import stored


def copy(folder: Path) -> list[Path]:
    """Write the notebooks to ``folder``, which is created if it is missing.

    Returns:
        the files.

    Raises:
        UserError: a file exists already, or the folder cannot be written; nothing was overwritten.
    """
    targets = [folder / file.name for file in stored()]
    for target in targets:
        if target.exists():
            raise UserError(f"{target} already exists, perhaps with your changes; name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, target in zip(stored(), targets, strict=True):
            target.write_bytes(file.read_bytes())
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; name another folder.") from error
    return targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 0, or 2 for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m s15erav3.notebooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder to write to; created if it is missing")
    try:
        for target in copy(parser.parse_args(arguments).folder):
            print(target)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
