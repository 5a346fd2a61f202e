"""Fetching the original corpus: once, only the right one, and a way out where there is no network."""

from __future__ import annotations

import hashlib
import http.server
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s15erav3.data import ipl
from s15erav3.errors import UserError

TEXT = b"MI 1st Inns\n0.1 overs\nA to B, FOUR, served from a loopback\n\n" * 50


class Server:
    """An HTTP server on the loopback that gives one answer, byte for byte, and counts who asks."""

    def __init__(self) -> None:
        self.answer, self.requests = ok(TEXT), 0
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                self.wfile.write(server.answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self.socket = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.socket.server_address[1]}/input.txt"
        self.thread = threading.Thread(target=self.socket.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.socket.shutdown()
        self.socket.server_close()
        self.thread.join()


def ok(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> Iterator[Server]:
    """A server of what is now taken for the original corpus; no proxy stands before it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ipl, "SHA256", hashlib.sha256(TEXT).hexdigest())
    monkeypatch.setattr(ipl, "BYTES", len(TEXT))
    running = Server()
    yield running
    running.close()


def left_in(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def test_fetched_once(server: Server, fresh_cache: Path) -> None:
    """Prevents a download on every run, and a need for the network after the first."""
    file = ipl.ipl_file(server.url)
    assert file.read_bytes() == TEXT
    assert left_in(fresh_cache) == [file]
    server.close()
    assert ipl.ipl_file(server.url) == file
    assert server.requests == 1


def test_damaged_file_is_fetched_again(server: Server) -> None:
    """Prevents training on a file that was cut short, or changed, in the cache."""
    file = ipl.ipl_file(server.url)
    for content in (TEXT[:-1], b"", TEXT.lower()):
        file.write_bytes(content)
        assert ipl.ipl_file(server.url).read_bytes() == TEXT
    assert server.requests == 4


def test_file_put_there_by_hand_is_taken(server: Server, fresh_cache: Path) -> None:
    """Prevents the way out that the message names from leading nowhere."""
    server.answer = b"HTTP/1.0 404 Not Found\r\n\r\n"
    with pytest.raises(UserError) as caught:
        ipl.ipl_file(server.url)
    file = Path(str(caught.value).partition(" at ")[2].partition(",")[0])
    assert file.is_relative_to(fresh_cache)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(TEXT)
    assert ipl.ipl_file(server.url) == file
    assert server.requests == 1


@pytest.mark.parametrize(
    "body",
    [TEXT.replace(b"FOUR", b"FIVE"), TEXT[:-1], TEXT + b"\n", b"", b"<html>Log in</html>"],
    ids=["same length", "cut", "longer", "nothing", "login page"],
)
def test_other_content_is_refused(server: Server, fresh_cache: Path, body: bytes) -> None:
    """Prevents training on anything but the original corpus, and keeping it; what is wrong is told."""
    server.answer = ok(body)
    with pytest.raises(UserError, match="that are not the original corpus") as caught:
        ipl.ipl_file(server.url)
    message = str(caught.value)
    assert f"{min(len(body), len(TEXT) + 1):,} bytes from {server.url}" in message
    assert f"expected {len(TEXT):,} bytes" in message
    assert "data.path=FILE" in message
    assert left_in(fresh_cache) == []


def test_endless_answer_is_not_read_to_its_end(server: Server) -> None:
    """Prevents a wrong server from filling the memory."""
    server.answer = ok(b"x" * 10**6)
    with pytest.raises(UserError, match=f"downloaded {len(TEXT) + 1:,} bytes"):
        ipl.ipl_file(server.url)


BROKEN = {
    "404": b"HTTP/1.0 404 Not Found\r\n\r\n",
    "503": b"HTTP/1.0 503 Unavailable\r\n\r\n",
    "hangs up": b"",
    "breaks off": ok(TEXT[:100], len(TEXT)),
    "redirects to a file": b"HTTP/1.0 302 Found\r\nLocation: file:///etc/hostname\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_server_is_told_with_a_way_out(server: Server, fresh_cache: Path, name: str) -> None:
    """Prevents a traceback from the network; the message says where the file can be put instead."""
    server.answer = BROKEN[name]
    assert_told(lambda: ipl.ipl_file(server.url), fresh_cache)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=["not HTTP", "broken chunks"],
)
def test_garbled_answer_is_told_with_a_way_out(server: Server, fresh_cache: Path, answer: bytes) -> None:
    """Prevents a traceback where a proxy or another service answers."""
    server.answer = answer
    assert_told(lambda: ipl.ipl_file(server.url), fresh_cache)


def test_closed_port_is_told_with_a_way_out(server: Server, fresh_cache: Path) -> None:
    """Prevents a traceback where there is no network."""
    server.close()
    assert_told(lambda: ipl.ipl_file(server.url), fresh_cache)


def test_silent_server_is_given_up(server: Server, fresh_cache: Path) -> None:
    """Prevents waiting for ever on a connection over which nothing comes."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as silent:
        url = f"http://127.0.0.1:{silent.server_address[1]}/input.txt"  # accepted by the kernel, never answered
        began = time.monotonic()
        assert_told(lambda: ipl.ipl_file(url, timeout_seconds=0.2), fresh_cache)
        assert time.monotonic() - began < 15


def assert_told(fetch: Callable[[], Path], cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch()
    message = str(caught.value)
    assert "data=ipl" in message
    assert f"put input.txt of the GitHub repository piygr/s15erav3 at {cache / 'ipl' / 'input.txt'}" in message
    assert "data.path=FILE" in message
    assert "\n" not in message
    assert left_in(cache) == []


def test_unwritable_cache_is_named(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a traceback, after the download, where the file cannot be kept."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="choose a writable place"):
        ipl.ipl_file(server.url)
    assert os.listdir(tmp_path) == ["file"]
