"""Which code a run was trained by: a digest of the source that decides what is learned."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

LEARNING = ("balancing", "data", "model", "training", "session/build.py", "session/prepare.py")
"""Folders and files of the package that decide what a run learns. Others start, record or show runs."""


@cache
def code() -> str:
    """The learning source as 16 hex digits, the same whatever its comments, docstrings and formatting.

    Unlike the git commit it stays what it is when a README changes, and changes with an edit that is not committed.
    It is read once in a process: ask for it at the beginning, as files may be edited while it runs.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for place in LEARNING:
        path = package / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"\0{file.relative_to(package).as_posix()}\0{meaning(file.read_text())}".encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """Python source without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    """A docstring, of a module, class, function or of the name above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
