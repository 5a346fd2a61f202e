"""For all tests: one thread, a cache of their own, the real corpus if it is there, Hypothesis without deadlines."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra._internal.hydra import Hydra
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("s15erav3", deadline=None, max_examples=50, print_blob=True, derandomize=True)
settings.load_profile("s15erav3")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors on a busy machine: many small operators would wait for each other."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Hydra composes each config twice, first only to read ``hydra.mode``: a fifth of a tiny run's time."""

    def mode(hydra: Hydra, config_name: str, overrides: list[str]) -> object:
        return asked(hydra, config_name, overrides) if any("hydra.mode" in word for word in overrides) else None

    asked = Hydra.get_mode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", mode)
        yield


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """What runs in the background of a shell, or under nohup, ignores signals that the tests send."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep derived data of the whole session in a temporary folder, never in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S15ERAV3_CACHE", str(folder))
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder / "tiktoken"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        yield folder


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test, which also forgets the encodings that tiktoken has loaded."""
    folder = tmp_path / "fresh-cache"
    monkeypatch.setenv("S15ERAV3_CACHE", str(folder))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # so that it is put back afterwards, whatever the test does to it
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    return folder


@pytest.fixture(scope="session")
def real_corpus() -> Path:
    """The original commentary file; tests that want it are skipped where it is not."""
    place = os.environ.get("S15ERAV3_IPL_FILE")
    file = Path(place) if place else ROOT.parent / "shared" / "data" / "ipl_commentary.txt"
    if not file.is_file():
        pytest.skip(f"the original corpus is not at {file}; name it with S15ERAV3_IPL_FILE=FILE")
    return file


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a test (or plain Hydra, which it calls) does to the root logger: a handler may keep a closed stream."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
