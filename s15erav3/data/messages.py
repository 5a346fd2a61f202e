"""Words of messages about files."""

from __future__ import annotations

from pathlib import Path

from s15erav3.errors import UserError, one_line


def unreadable(path: Path, error: OSError) -> UserError:
    """Build the error for a file or folder that the system does not allow us to read."""
    why = error.strerror or one_line(error)  # Arrow's errors have a message only
    return UserError(f"data.path={shown(path)} cannot be read: {why}; make it readable, or remove it.")


def shown(path: Path) -> str:
    """Format any path for messages: on one line and printable."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def listed(named: list[str]) -> str:
    """List the first few names, and the number of the others."""
    return ", ".join(named[:5]) + (f" and {len(named) - 5:,} more" if len(named) > 5 else "")
