"""What depends on W&B's server, and must neither hold training up nor fail it: beginning a run and ending it."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from s15erav3.errors import UserError, one_line

FLUSH = 0.02
"""Seconds until what W&B was told is in its file; by default 15, and a kill would lose as much."""


def begin(folder: Path, *, init_timeout: float, finish_timeout: float, **arguments: Any) -> Any:
    """``wandb.init`` for the run of a folder, whose id is kept in ``wandb/run-id.txt``; offline where online fails.

    Args:
        folder: the run's folder.
        init_timeout, finish_timeout: seconds to wait for the server, at the beginning and at the end.
        arguments: further ones of ``wandb.init``.

    Raises:
        UserError: W&B refuses an argument or the form of a key.
    """
    # W&B's reports about itself: with a server that hangs, the process would wait for them at its very end.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    note = folder / "wandb" / "run-id.txt"
    goes_on = note.exists()
    run_id = note.read_text().strip() if goes_on else secrets.token_hex(4)

    def init(mode: Any) -> Any:
        settings = wandb.Settings(
            silent=True,
            init_timeout=init_timeout,
            finish_timeout=finish_timeout,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH,
        )
        return wandb.init(dir=folder, id=run_id, resume="allow", mode=mode, settings=settings, **arguments)

    before = {*note.parent.glob("run-*")}
    try:
        run = init(_mode())
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        if not goes_on:
            shutil.rmtree(note.parent, ignore_errors=True)
        raise UserError(f"logger.wandb cannot begin: {one_line(error)}") from error
    except (wandb.errors.Error, TimeoutError) as error:
        wandb.teardown()  # it still holds the id of the run that did not begin
        for empty in {*note.parent.glob("run-*")} - before:
            shutil.rmtree(empty)
        wandb.setup(wandb.Settings(silent=True))
        run = init("offline")
        tell(
            f"W&B did not begin this run ({one_line(error)}); it goes on offline, send it later with: "
            f"{sync_command(run)}"
        )
    note.parent.mkdir(exist_ok=True)
    note.write_text(run_id + "\n")
    return run


def _mode() -> str:
    """``WANDB_MODE``, else online if an account is known to this machine and offline if none is.

    Given to ``wandb.init`` by name: asking for the account sets W&B up, and it no longer looks at the
    environment variable. The key is not tried out here; a server that does not answer would be waited for.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # else it asks the server for the user's name, to print it
    known = os.environ.get("WANDB_MODE")
    return known or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def within(seconds: float, work: Callable[[], None]) -> str:
    """Do ``work`` in a thread of its own, which is left behind if it is late.

    Returns:
        why it was not done: an error, or the time. Empty if it was.
    """
    found = [f"no answer within {seconds:g} s"]

    def attempt() -> None:
        try:
            work()
            found[0] = ""
        except Exception as error:  # whatever W&B raises, training has ended well
            found[0] = f"{type(error).__name__}: {one_line(error)}"

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0]


def give_up() -> None:
    """Forget W&B's own process, which is gone, so that the next run of this program gets another."""
    import wandb

    with suppress(Exception):  # there is nobody to say goodbye to
        wandb.teardown()


def arrived(run: Any) -> bool:
    """Whether W&B's own process, which has ended, met no error that it could not get over."""
    log = Path(run.settings.log_internal)
    return not log.exists() or '"level":"ERROR' not in log.read_text()


def sync_command(run: Any) -> str:
    """What to type to send a run's data later."""
    online = "" if run.settings._offline else "--no-skip-online "
    return f"wandb sync {online}{shlex.quote(str(run.settings.sync_dir))}"


def tell(sentence: str) -> None:
    """One line to the user."""
    print(sentence, file=sys.stderr)
