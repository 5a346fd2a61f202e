"""Entry point: ``s15erav3 VERB ...``, or ``python -m s15erav3 VERB ...``."""

from __future__ import annotations

import importlib
import sys

from s15erav3 import __version__
from s15erav3.cli import completion, quick, shells
from s15erav3.errors import Accident, UserError, disk_full, nearest, tell
from s15erav3.ranks.member import join

VERBS = {
    "train": "train a model, sweep over settings (-m), or resume a run",
    "evaluate": "measure a checkpoint: loss, bits per byte, expert balance",
    "sample": "continue a prompt with a checkpoint",
    "report": "write one HTML page about a run: curves, expert loads, what experts specialise in",
    "compare": "compare the runs of sweeps: a table, CSV, Markdown, HTML",
    "export": "export a checkpoint as a Hugging Face folder",
    "doctor": "say what is installed and, with a GPU, check that everything works on it",
}
USAGE = "usage: s15erav3 VERB [SETTING=VALUE ...]\n\n" + "".join(
    f"  {verb:10} {does}\n" for verb, does in VERBS.items()
)
END = """
s15erav3 VERB --help lists its settings.
Tab completion of verbs, groups, choices and settings: eval "$(s15erav3 --completion bash)", or zsh, or
s15erav3 --completion fish | source."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; return the exit status: 0, 2 for a user error, 128 + n after signal n."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if any(argument in completion.FLAGS for argument in arguments):
        arguments = completion.asked(arguments, VERBS)
        if not arguments:
            return 0
    verb, *rest = arguments
    if verb == shells.FLAG and rest == [shells.WORDS]:
        return shells.words(VERBS)
    if verb in ("-h", "--help"):
        print(USAGE + END)
        return 0
    if verb == "--version":
        print(__version__)
        return 0
    member = join()
    try:
        if verb == shells.FLAG:
            print(shells.script(" ".join(rest)), end="")
            return 0
        if verb not in VERBS:
            raise UserError(f"'{verb}' is not a verb of s15erav3; {nearest(verb, VERBS)}")
        with quick.importing():
            from s15erav3.cli import help, trust  # slow import, because of Hydra

        rest = trust.take(rest)
        if help.answered(verb, rest):
            return 0
        with quick.importing():
            module = importlib.import_module(f"s15erav3.{verb}")
        status: int = module.main(rest)
        return status
    except BaseException as error:
        if member is not None:  # the first rank reports it
            return member.leave(error)
        if isinstance(error, UserError):
            return tell(error)
        if isinstance(error, KeyboardInterrupt):
            return 130
        if isinstance(error, OSError) and (why := disk_full(error)):
            return tell(Accident(f"the disk is full ({why}); make room, then repeat the command."))
        if not isinstance(error, SystemExit):
            raise
        if isinstance(error.code, str):  # a sweep with failures; argparse after --help uses a number
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0


if __name__ == "__main__":
    sys.exit(main())
