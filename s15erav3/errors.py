"""User errors, each reported in one sentence."""

from __future__ import annotations

import difflib
import errno
import math
import sys
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a config, path, corpus, prompt or checkpoint: shown without a traceback, exit status 2.

    The message names the key or file, what was found, what was expected and what to do.
    """

    exit_status = 2


class Accident(UserError):
    """A failure of a started run that is not a user error, such as a full disk: exit status 1."""

    exit_status = 1


def tell(error: UserError) -> int:
    """Print the error; return its exit status."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_status


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""No space left, quota or file size limit reached, disk removed or failing."""


def disk_full(error: BaseException) -> str:
    """Why nothing can be written to a disk, in a few words; empty for any other error.

    The whole exception chain is searched, since torch raises its own error after the original one.
    """
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        if isinstance(found, OSError) and found.errno in FULL:
            return f"{found.strerror}: {found.filename}" if found.filename else str(found.strerror)
        seen.append(found)
        found = found.__cause__ or found.__context__
    return ""


def one_line(said: object) -> str:
    """Put a message of another library, which may have many lines, on one line."""
    return " ".join(str(said).split())


def nearest(name: object, options: Iterable[str]) -> str:
    """The valid names closest to ``name`` as a phrase, such as ``"did you mean 'nano'?"``, or else all options."""
    names = sorted(set(options))
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "choose one of " + ", ".join(names[:40]) + "."


def check_number(
    key: str,
    value: object,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    hint: str = "",
) -> None:
    """Refuse a setting that is not a finite number within its bounds.

    Raises:
        UserError: with key, value and bounds.
    """
    bounds = (("at least", at_least), ("greater than", above), ("at most", at_most), ("less than", below))
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if good:
        assert isinstance(value, int | float)
        good = (
            math.isfinite(value)
            and (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
    if not good:
        said = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{key}={value} must be {kind}{', ' + said if said else ''}{hint}.")


def check_flag(key: str, value: object, *words: str) -> None:
    """Refuse a setting that is neither true, false nor one of ``words``.

    Raises:
        UserError: with key and value.
    """
    if not isinstance(value, bool) and value not in words:
        raise UserError(f"{key}={value} must be {', '.join(['true', *words])} or false.")
