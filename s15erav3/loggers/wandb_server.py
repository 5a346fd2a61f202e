"""Operations that depend on W&B's server, and must neither delay nor fail training: starting and ending a run."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from s15erav3.errors import UserError, one_line
from s15erav3.runs import naming

FLUSH = 0.02
"""Seconds until logged data is in W&B's file; the default is 15, and a kill would lose as much."""


def begin(folder: Path, *, init_timeout: float, finish_timeout: float, **arguments: Any) -> Any:
    """Call ``wandb.init`` for a folder's run (id in ``wandb/run-id.txt``); fall back to offline if online fails.

    Args:
        folder: the run's folder.
        init_timeout, finish_timeout: seconds to wait for the server, at the start and at the end.
        arguments: further arguments of ``wandb.init``.

    Raises:
        UserError: W&B refuses an argument or the format of a key.
    """
    # Disable W&B's error reports about itself: if a server hangs, the process would wait for them at exit.
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
        raise UserError(f"logger.wandb cannot start: {one_line(error)}") from error
    except (wandb.errors.Error, TimeoutError) as error:
        wandb.teardown()  # it still holds the id of the run that did not start
        for empty in {*note.parent.glob("run-*")} - before:
            shutil.rmtree(empty)
        wandb.setup(wandb.Settings(silent=True))
        run = init("offline")
        tell(
            f"W&B did not start this run ({one_line(error)}); it continues offline, send it later with: "
            f"{sync_command(run)}"
        )
    note.parent.mkdir(exist_ok=True)
    note.write_text(run_id + "\n")
    return run


def start(
    folder: Path,
    *,
    project: str,
    group: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    **more: Any,
) -> Any:
    """Call :func:`begin` with what tells the run from others, each time that it is started.

    Args:
        name: ``None`` generates a name from the settings that distinguish this run from others.
        tags: in addition to those of the config choices.
        more: further arguments of :func:`begin`.
    """
    chosen = naming.choices(folder)
    return begin(
        folder,
        project=project,
        group=group,
        job_type="train",
        name=name or naming.run_name(folder, chosen),
        tags=naming.tags(chosen, list(tags)),
        config={"choices": chosen},
        **more,
    )


def end(run: Any, exit_code: int) -> bool:
    """Close a run; return whether W&B has all of it, on the server or, offline, on disk."""
    try:
        run.finish(exit_code=exit_code)
        return bool(run.settings._offline) or arrived(run)
    except TimeoutError:
        return False
    except OSError:  # the process has exited
        give_up()
        return False


def _mode() -> str:
    """Return ``WANDB_MODE``, else online if this machine has credentials and offline if not.

    The mode is passed to ``wandb.init`` explicitly: the check for credentials sets W&B up, after which it ignores the
    environment variable. The key is not verified here, as that would wait for a server that does not answer.
    """
    import wandb

    wandb.setup(wandb.Settings(silent=True))  # otherwise it asks the server for the user's name, to print it
    known = os.environ.get("WANDB_MODE")
    return known or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def within(seconds: float, work: Callable[[], None]) -> str:
    """Run ``work`` in a thread of its own, which is abandoned after ``seconds``.

    Returns:
        why it did not complete: an error, or the timeout. Empty if it did.
    """
    found = [f"no answer within {seconds:g} s"]

    def attempt() -> None:
        try:
            work()
            found[0] = ""
        except Exception as error:  # whatever W&B raises, training has ended successfully
            found[0] = f"{type(error).__name__}: {one_line(error)}"

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0]


def give_up() -> None:
    """Discard W&B's dead service process, so that the next run in this program starts another."""
    import wandb

    with suppress(Exception):  # the process is gone, so teardown may fail
        wandb.teardown()


def arrived(run: Any) -> bool:
    """Return whether W&B's service process, which has ended, logged no unrecoverable error."""
    log = Path(run.settings.log_internal)
    return not log.exists() or '"level":"ERROR' not in log.read_text()


def sync_command(run: Any) -> str:
    """Return the command to send a run's data later."""
    online = "" if run.settings._offline else "--no-skip-online "
    return f"wandb sync {online}{shlex.quote(str(run.settings.sync_dir))}"


def tell(sentence: str) -> None:
    """Print one line to the user."""
    print(sentence, file=sys.stderr)
