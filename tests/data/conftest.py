"""The bundled corpus with its splits, vocabulary and tokens, and Python in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import s15erav3
from s15erav3.data.corpus import Corpus
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import SplitPlan, TokenFiles, corpus_tokenizer, tokenize

PACKAGE = Path(s15erav3.__file__).parent

Start: TypeAlias = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def sample() -> Corpus:
    """The bundled commentary."""
    return Corpus(PACKAGE / "data" / "sample" / "commentary.txt")


@pytest.fixture(scope="session")
def plan() -> SplitPlan:
    return SplitPlan(seed=0, val_fraction=0.05, test_fraction=0.05)


@pytest.fixture(scope="session")
def vocabulary(session_cache: Path, sample: Corpus, plan: SplitPlan) -> Tokenizer:
    """A BPE of the sample's training part with 1000 entries."""
    return corpus_tokenizer(sample, plan, 1000)


@pytest.fixture(scope="session")
def sample_tokens(sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan) -> TokenFiles:
    return tokenize(sample, vocabulary, plan)


@pytest.fixture
def start_python() -> Start:
    """Start a script in another process of the same Python with the same package; settings are added to its
    environment, those that are None removed."""

    def start(script: str, **environment: str | None) -> subprocess.Popen[str]:
        merged = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment}
        return subprocess.Popen(
            [sys.executable, "-c", script],
            env={key: value for key, value in merged.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def python(start_python: Start) -> Callable[..., str]:
    """Run a script as ``start_python`` does, to its end; returns what it printed."""

    def run(script: str, **environment: str | None) -> str:
        process = start_python(script, **environment)
        try:
            printed, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 0, errors
        return printed

    return run
