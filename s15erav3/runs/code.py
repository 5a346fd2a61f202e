"""The version of the code that trained a run: a digest of the source that affects what is learned."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

LEARNING = ("balancing", "data", "model", "training", "session/build.py", "session/prepare.py")
"""Folders and files of the package that affect what a run learns. Others start, record or show runs."""


@cache
def code() -> str:
    """Return a digest of the learning source as 16 hex digits, independent of comments, docstrings and formatting.

    Unlike the git commit, it does not change when a README does, and it changes with uncommitted edits. The source is
    read once per process: call this at the start, as files may be edited while the process runs.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for place in LEARNING:
        path = package / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"\0{file.relative_to(package).as_posix()}\0{meaning(file.read_text())}".encode())
    return digest.hexdigest()[:16]


def meaning(source: str) -> str:
    """Return Python source without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.stmt) -> bool:
    """Return whether a statement is a docstring: of a module, class, function or of the name above it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
