"""The original project's commentary file: downloaded once, verified, kept in the user's cache."""

from __future__ import annotations

import hashlib
import http.client
import urllib.request
from pathlib import Path

from s15erav3.data.cache import cache_dir, write_atomically
from s15erav3.errors import UserError, one_line

URL = "https://raw.githubusercontent.com/piygr/s15erav3/HEAD/input.txt"
SHA256 = "4af55b63551ae758caf374fa585fae2b87ca24ba9c3632d0399c409b7ff7238c"
BYTES = 3_375_667


def ipl_file(url: str = URL, timeout_seconds: float = 20.0) -> Path:
    """Return the path of the cached corpus; download it first if necessary.

    Raises:
        UserError: it is not cached and cannot be downloaded, or its sha256 does not match.
    """
    target = cache_dir() / "ipl" / "input.txt"
    try:
        if target.is_file() and _sha256(target.read_bytes()) == SHA256:
            return target
    except OSError:
        pass  # an unreadable file is downloaded again
    place = f"put input.txt of the GitHub repository piygr/s15erav3 at {target}, or name a file with data.path=FILE."
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as response:
            data = response.read(BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"data=ipl could not download its corpus ({one_line(error)}); {place}") from error
    if _sha256(data) != SHA256:
        raise UserError(
            f"data=ipl downloaded {len(data):,} bytes from {url} that are not the original corpus "
            f"(expected {BYTES:,} bytes with sha256 {SHA256[:12]}...); {place}"
        )
    with write_atomically(target) as temporary:
        temporary.write_bytes(data)
    return target


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
