"""A panic of Rust is one sentence, and the end of one job alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import tiktoken

from s15erav3.data.bpe import PATTERN, train_bpe
from s15erav3.data.encode import encode_documents
from s15erav3.data.panics import build_encoding, no_panic
from s15erav3.data.tokenizer import Tokenizer, load_public
from s15erav3.errors import UserError
from s15erav3.interop.hf_tokenizer import read_tokenizer, write_tokenizer

END = {"<|endoftext|>": 256}
BYTES = {bytes([b]): b for b in range(256)}


class PanicException(BaseException):
    """As Rust's panics arrive: not an Exception, and of a class that cannot be imported."""


@pytest.mark.parametrize(
    "job", ["encode", "encode many", "decode", "bytes_of", "train", "load", "build", "write", "read"]
)
def test_a_panic_is_a_user_error(
    vocabulary: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, job: str
) -> None:
    """Prevents the panic of one job from ending a sweep; an interrupt still does."""
    mine = Tokenizer.from_state(vocabulary.state())
    write_tokenizer(mine, tmp_path / "good", max_length=9)
    state = mine.state()

    def attempt(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        def texts() -> Iterable[str]:
            yield "a"
            raise error

        class Failing:
            def __new__(cls, *_: object) -> None:
                raise error

            @staticmethod
            def from_str(text: str) -> None:
                raise error

        for name in ("encode_ordinary", "encode_to_numpy", "decode_bytes", "decode_single_token_bytes"):
            monkeypatch.setattr(mine.encoding, name, fail)
        match job:
            case "encode":
                mine.encode("a")
            case "encode many":
                list(encode_documents([("train", "a")], mine))
            case "decode":
                mine.decode([65])
            case "bytes_of":
                mine.bytes_of(65)
            case "train":
                train_bpe(texts(), 300)
            case "load":
                monkeypatch.setattr(tiktoken, "get_encoding", fail)
                load_public("gpt2")
            case "build":
                monkeypatch.setattr(tiktoken, "Encoding", fail)
                Tokenizer.from_state(state)
            case "write" | "read":
                monkeypatch.setattr("s15erav3.interop.hf_tokenizer.HFTokenizer", Failing)
                if job == "read":
                    read_tokenizer(tmp_path / "good")
                write_tokenizer(mine, tmp_path / "new", max_length=9)

    with pytest.raises(UserError, match=r"cannot .*panicked: StackOverflow\); .*\.$") as caught:
        attempt(PanicException("StackOverflow\nbacktrace"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        attempt(KeyboardInterrupt())


def test_real_panics_are_caught() -> None:
    """Prevents all of the above from being about a class that Rust does not raise."""
    with pytest.raises(UserError, match=r"tokenizer twice cannot be built .*panicked: Encoder and decoder must be of"):
        build_encoding("twice", PATTERN, BYTES | {b"ab": 5}, END)
    lacking = Tokenizer(build_encoding("lacking", PATTERN, {b"a": 0}, END))
    with pytest.raises(UserError, match=r"tokenizer=lacking cannot encode this text .*panicked"):
        lacking.encode("not of a")
    slow = Tokenizer(build_encoding("slow", r"(?:a|a?)+b(?!c)|\S|\s", BYTES, END))
    with pytest.raises(UserError, match=r"panicked.*BacktrackLimitExceeded"):
        slow.encode("a" * 3000)


@pytest.mark.parametrize("special", [{}, {"<|endoftext|>": -1}, {"<|endoftext|>": 2**40}, {"<|endoftext|>": "x"}])
def test_impossible_encodings_are_refused(special: dict[str, int]) -> None:
    """Prevents an OverflowError, or a KeyError later on, for the tokenizer of a damaged checkpoint."""
    with pytest.raises(ValueError, match=r"special tokens lack|parts are invalid"):
        build_encoding("odd", PATTERN, BYTES, special)


def test_other_errors_pass() -> None:
    """Prevents bugs from being told as panics."""
    with pytest.raises(ZeroDivisionError), no_panic("this", "that"):
        raise ZeroDivisionError
