"""A sweep's command, kept in its folder and repeated by ``sweep.resume=SWEEP_DIR``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from s15erav3.errors import UserError
from s15erav3.files import at_home, replace_text
from s15erav3.flags import split
from s15erav3.overrides import key_of, quote
from s15erav3.trust import check_arguments

FILE = Path(".sweep") / "command.json"


class Command(NamedTuple):
    """What to run, and where."""

    arguments: list[str]
    folder: Path


def save_command(sweep: Path, arguments: list[str]) -> None:
    """Remember what was typed after ``train``, and in which folder."""
    file = sweep / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json.dumps({"arguments": arguments, "folder": str(Path.cwd())}, indent=2) + "\n")


def repeated(wanted: str, changes: list[str]) -> Command:
    """The command of the sweep in the folder ``wanted``, with ``changes`` in place of what they change: words, which
    replace those of the same key, and flags.

    Raises:
        UserError: there is no sweep.
    """
    sweep = at_home(wanted).absolute()
    try:
        kept = json.loads((sweep / FILE).read_text())
        arguments, folder = [str(a) for a in kept["arguments"]], Path(kept["folder"])
    except OSError as error:
        where = "does not exist" if not sweep.exists() else f"holds no sweep: it has no {FILE}"
        raise UserError(f"sweep.resume={wanted} {where}; give the folder that a sweep was made in.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{shlex.quote(str(sweep / FILE))} cannot be read ({error!r}); type the sweep's command again."
        ) from error
    check_arguments(arguments, sweep / FILE)
    changed = {key_of(word) for word in split(changes).words} | {"hydra.sweep.dir"}
    arguments = [a for a in arguments if a.startswith("-") or key_of(a) not in changed]
    more = [change for change in changes if change not in ("-m", "--multirun")]
    return Command(
        [*arguments, *more, f"hydra.sweep.dir={quote(str(sweep))}"], folder if folder.is_dir() else Path.cwd()
    )
