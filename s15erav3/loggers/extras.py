"""Libraries of optional loggers."""

from __future__ import annotations

from importlib.util import find_spec

from s15erav3.errors import UserError


def need(extra: str, *modules: str) -> None:
    """Check that the libraries of an optional logger are installed.

    Args:
        extra: name of the logger and of the package's extra that installs its libraries.
        modules: modules that must be importable; nothing is imported here.

    Raises:
        UserError: one is missing; the message has the command that installs it.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(
            f"logger={extra} needs {', '.join(missing)}, which is not installed; run: pip install 's15erav3[{extra}]', "
            "or use logger=csv."
        )
