"""``s15erav3 train``: a run, a sweep, or the continuation of a run."""

from __future__ import annotations

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.cli.flags import Line, split
from s15erav3.cli.hydra_setup import run
from s15erav3.cli.overrides import key_of, quote, taken
from s15erav3.errors import UserError
from s15erav3.ranks.outside import answer, meet, outside
from s15erav3.session.outcome import say_interrupted
from s15erav3.session.resume import resume
from s15erav3.session.run import train
from s15erav3.sweeps.multirun import main as sweep


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 train --help``."""
    line = split(arguments)
    wanted, rest = taken("resume", line.words)
    sweeping = line.multirun or any(key_of(word) == "sweep.resume" for word in line.words)
    if (here := outside()) is not None and not line.has("--help"):
        if sweeping and here.rank:
            raise SystemExit(UserError.exit_status)  # the first rank reports it
        if sweeping:
            raise UserError(
                f"-m cannot run in {here.ranks} ranks, as each would start its own sweep; start it without srun or "
                "torchrun."
            )
        folder = meet(here)
        rest += [f"hydra.run.dir={quote(folder)}"] if folder and not wanted else []
    try:
        if wanted and not line.has("--help"):
            resume(wanted, Line(line.flags, rest), train)
        elif sweeping:
            return sweep([*line.flags, *rest])
        else:
            run("train", train, [*line.flags, *rest])
    except Interrupted as error:
        return say_interrupted(error)
    except UserError as error:
        if answer(error):
            raise SystemExit(error.exit_status) from error
        raise
    return 0
