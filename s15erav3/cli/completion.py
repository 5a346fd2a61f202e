"""Tab completion through Hydra: ``s15erav3 -sc query=SHELL``, with the current line in ``COMP_LINE``.

Hydra's scripts, installed by ``eval "$(s15erav3 train -sc install=bash)"``, do not know verbs: they call the program
with their query only. So the verb is removed from the line here before Hydra reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

FLAGS = ("-sc", "--shell-completion")


def asked(arguments: list[str], verbs: Iterable[str]) -> list[str]:
    """Add the verb to an argument list with one of :data:`FLAGS`, and remove the verb from ``COMP_LINE``.

    Returns:
        The verb and its arguments; an empty list if the verb itself had to be completed, which is then done.
    """
    verb = [] if arguments[0] in FLAGS else arguments[:1]
    rest = arguments[len(verb) :]
    line = os.environ.get("COMP_LINE")
    if line is None or not any(argument.startswith("query=") for argument in rest):
        return [*(verb or ["train"]), *rest]
    program, *words = line.split() or [""]
    last = [] if line.endswith(" ") else words[-1:]
    before = words[: len(words) - len(last)]
    if before and before[0] in verbs:
        verb, before = verb or before[:1], before[1:]
    if not verb:
        print(" ".join(name for name in verbs if not before and name.startswith("".join(last))))
        return []
    settings = [word for word in before if "=" in word]  # without the leading folders of the verb
    os.environ["COMP_LINE"] = " ".join([program, *settings, *(last or [""])])
    return [*verb, *rest]
