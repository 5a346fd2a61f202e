"""What a shell asks for when Tab is pressed: ``s15erav3 -sc query=SHELL``, with the line so far in ``COMP_LINE``.

Hydra's scripts, which ``eval "$(s15erav3 train -sc install=bash)"`` installs, know no verbs: they call the program with
what they want and no more, so the verb is taken out of the line here before Hydra sees it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

FLAGS = ("-sc", "--shell-completion")


def asked(arguments: list[str], verbs: Iterable[str]) -> list[str]:
    """The verb and arguments that an argument list with one of :data:`FLAGS` stands for; ``COMP_LINE`` loses the verb.

    Returns:
        nothing, if it is a verb that has to be completed; it has been.
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
    settings = [word for word in before if "=" in word]  # and no folder that the verb begins with
    os.environ["COMP_LINE"] = " ".join([program, *settings, *(last or [""])])
    return [*verb, *rest]
