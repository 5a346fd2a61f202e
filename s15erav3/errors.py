"""What a user can get wrong, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in a config, path, corpus, prompt or checkpoint: shown without a traceback, exit status 2.

    The message names the key or file, what was found, what was expected and what to do.
    """


def nearest(name: str, options: Iterable[str]) -> str:
    """The valid names closest to ``name`` as a phrase: ``"did you mean 'nano'?"``, else all the options."""
    names = sorted(set(options))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return "choose one of " + ", ".join(names[:40]) + "."
