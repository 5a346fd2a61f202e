"""A Hugging Face folder as a whole: what is refused on reading and on writing, and how it is told."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from s15erav3.data.bpe import train_bpe
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.errors import UserError
from s15erav3.interop.hf_folder import is_hub_folder, read_folder, write_folder
from s15erav3.model import Transformer
from tests.training.parts import tiny_net

ENTRIES = 270
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A small vocabulary."""
    return train_bpe(["there is nothing like the thing that there is " * 20], ENTRIES)


def write(folder: Path, tokenizer: Tokenizer, net: Transformer | None = None, **settings: Any) -> Path:
    """Write ``folder``; by default a net with one multi-token-prediction block."""
    settings = {"sequence_length": 12, "dtype": "float32", "max_shard_size": "5GB", **settings}
    net = net or tiny_net(vocab_size=ENTRIES, num_nextn_predict_layers=1)
    write_folder(folder, net, tokenizer, "# card\n", **settings)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder that nothing is wrong with."""
    return write(tmp_path_factory.mktemp("good") / "model", tokenizer)


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(good, tmp_path / "model")


def refused(call: Callable[[], Any], *words: str) -> None:
    """The call must raise one sentence with all these words."""
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said and said.endswith("."), said
    for word in words:
        assert word in said, said


def change_config(**changes: Any) -> Callable[[Path], None]:
    """Sets keys of config.json; ``...`` removes one."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in values.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def change_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Rewrites the weights after ``change`` worked on them."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file({key: value.clone() for key, value in tensors.items()}, folder / WEIGHTS)

    return rewrite


def cut(name: str, share: float) -> Callable[[Path], None]:
    """Keeps the beginning of a file."""

    def shorten(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return shorten


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def index_of(names: list[str]) -> Callable[[Path], None]:
    """An index that names these files, of which the first is there."""

    def write_index(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / names[0])
        index = {"weight_map": {f"tensor{i}": name for i, name in enumerate(names)}}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return write_index


def without_ahead(tensors: dict[str, Tensor]) -> None:
    for key in [key for key in tensors if key.startswith("model.layers.3.")]:
        del tensors[key]


EXPERT = "model.layers.1.mlp.experts.2.down_proj.weight"
GATE = EXPERT.replace("down", "gate")
COPY = "model.layers.3.embed_tokens.weight"
SPOILT: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "another architecture": (change_config(model_type="llama"), ["config.json", "model_type=llama", "deepseek_v3"]),
    "no architecture": (change_config(model_type=...), ["config.json", "another architecture"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "does not exist"]),
    "no JSON": (cut("config.json", 0.5), ["config.json", "is not JSON"]),
    "no object": (lambda f: (f / "config.json").write_text("[1]"), ["config.json", "holds no JSON object"]),
    "unknown key": (change_config(quantization_config={"fmt": "e4m3"}), ["config.json", "quantization_config", "e4m3"]),
    "unknown value": (change_config(hidden_act="gelu"), ["config.json", "hidden_act=gelu", "silu"]),
    "missing key": (change_config(kv_lora_rank=...), ["config.json", "lacks kv_lora_rank"]),
    "impossible size": (change_config(qk_rope_head_dim=3), ["config.json", "qk_rope_head_dim=3", "even"]),
    "other vocabulary": (change_config(vocab_size=ENTRIES + 1), [f"{ENTRIES} entries", f"vocab_size={ENTRIES + 1}"]),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json"]),
    "cut tokenizer": (cut("tokenizer.json", 0.5), ["tokenizer.json"]),
    "cut weights": (cut(WEIGHTS, 0.7), [WEIGHTS, "damaged"]),
    "cut head of weights": (cut(WEIGHTS, 0.001), [WEIGHTS, "damaged"]),
    "empty weights": (cut(WEIGHTS, 0), [WEIGHTS, "damaged"]),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), [WEIGHTS, "neither"]),
    "weights that are pickles": (as_bin, ["only weights in safetensors"]),
    "missing shards": (index_of(["a.safetensors", "b.safetensors", "c.safetensors"]), ["2 of 3", "b.safetensors"]),
    "missing tensor": (change_tensors(lambda t: t.pop(EXPERT)), ["lacks the tensor", EXPERT]),
    "superfluous tensor": (change_tensors(lambda t: t.update(more=torch.ones(2))), ["1 tensors", "more"]),
    "a layer too many": (change_config(num_hidden_layers=2, num_nextn_predict_layers=0), ["model.layers.2."]),
    "wrong shape": (change_tensors(lambda t: t.update({"model.norm.weight": torch.ones(3)})), ["(3,)", "(16,)"]),
    "wrong width of one expert": (change_tensors(lambda t: t.update({EXPERT: t[EXPERT][:, :-1]})), [EXPERT, "(16, 7)"]),
    "gate unlike up": (change_tensors(lambda t: t.update({GATE: t[GATE][:, :-1]})), [GATE, "(8, 15)", "(8, 16)"]),
    "no block ahead": (change_tensors(without_ahead), ["num_nextn_predict_layers=1", "config.json"]),
    "half precision of eight bits": (
        change_tensors(lambda t: t.update({EXPERT: t[EXPERT].to(torch.float8_e4m3fn)})),
        [EXPERT, "float8_e4m3fn", "only float32"],
    ),
    "no length": (change_config(trained_sequence_length=0), ["trained_sequence_length=0", "config.json"]),
    "too long": (change_config(trained_sequence_length=99999), ["trained_sequence_length=99999", "at most"]),
    "an index of nothing": (
        lambda f: (f / f"{WEIGHTS}.index.json").write_text('{"weight_map": ["a"]}'),
        ["weight_map"],
    ),
    "another embedding": (change_tensors(lambda t: t.update({COPY: t[COPY] + 1})), [COPY, "differs"]),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_folder_is_told_in_one_sentence(what: str, folder: Path) -> None:
    """Each would otherwise be a traceback, or worse: a model that computes something else."""
    spoil, words = SPOILT[what]
    read_folder(folder)
    spoil(folder)
    refused(lambda: read_folder(folder), str(folder), *words)


def test_a_head_that_differs_from_the_one_that_is_shared_is_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Of an untied model the copies are of two tensors; exchanged, neither would be noticed by its shape."""
    net = tiny_net(vocab_size=ENTRIES, num_nextn_predict_layers=2, tie_word_embeddings=False)
    folder = write(tmp_path / "model", tokenizer, net)
    copies = [
        f"model.layers.{layer}.{name}.weight" for layer in (3, 4) for name in ("embed_tokens", "shared_head.head")
    ]

    def exchange(tensors: dict[str, Tensor]) -> None:
        tensors[copies[2]], tensors[copies[3]] = tensors[copies[3]], tensors[copies[2]]

    change_tensors(exchange)(folder)
    refused(lambda: read_folder(folder), copies[2], "model.embed_tokens.weight")
    change_tensors(lambda tensors: [tensors.pop(key) for key in copies])(folder)  # they may be left out, all of them
    read = read_folder(folder).net.state_dict()
    assert all(torch.equal(read[name], value) for name, value in net.state_dict().items())


def test_what_was_written_is_read(good: Path, tokenizer: Tokenizer) -> None:
    """And the folder is one, to those who ask before they read."""
    net, read, length = read_folder(good)
    expected = tiny_net(vocab_size=ENTRIES, num_nextn_predict_layers=1).state_dict()
    assert net.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert (read.fingerprint, read.name, length) == (tokenizer.fingerprint, tokenizer.name, 12)
    assert is_hub_folder(good) and not is_hub_folder(good.parent) and not is_hub_folder(good / "config.json")


def test_a_folder_without_a_trained_length_has_its_longest(folder: Path) -> None:
    """Other programs write no such key."""
    change_config(trained_sequence_length=...)(folder)
    assert read_folder(folder).sequence_length == 4096


def test_blocks_that_transformers_dropped_can_be_done_without(folder: Path) -> None:
    """The remedy that the message names."""
    change_tensors(without_ahead)(folder)
    change_config(num_nextn_predict_layers=0)(folder)
    assert not read_folder(folder).net.mtp


def test_every_file_can_be_read_by_whom_the_others_can(good: Path) -> None:
    """safetensors writes for its owner alone: a folder on a shared disk would be half readable."""
    assert len({file.stat().st_mode for file in good.iterdir()}) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "float16"}, ["dtype=float16", "float32, bfloat16"]),
        ({"max_shard_size": "big"}, ["max_shard_size=big", "5GB"]),
        ({"max_shard_size": None}, ["max_shard_size=None", "5GB"]),
    ],
)
def test_a_bad_setting_is_told_and_nothing_stays(
    settings: dict[str, Any], words: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Found out before, or in the middle of, writing."""
    refused(lambda: write(tmp_path / "model", tokenizer, **settings), *words)
    assert not list(tmp_path.iterdir())


def test_a_model_that_transformers_would_compute_otherwise_is_not_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Scores by softmax: there is no such DeepseekV3, and the weights alone do not tell."""
    net = tiny_net(vocab_size=ENTRIES, scoring_func="softmax")
    refused(lambda: write(tmp_path / "model", tokenizer, net), "scoring_func=softmax", "sigmoid")
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_kept(folder: Path, tokenizer: Tokenizer) -> None:
    """Neither a folder nor a file is written over; an empty folder is filled."""
    before = {file: file.read_bytes() for file in folder.iterdir()}
    refused(lambda: write(folder, tokenizer), str(folder), "already exists")
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    refused(lambda: write(folder / "config.json", tokenizer), "config.json", "already exists")
    refused(lambda: write(folder / "config.json" / "model", tokenizer), "config.json/model", "cannot be written")
    (folder.parent / "empty").mkdir()
    assert is_hub_folder(write(folder.parent / "empty", tokenizer))


def test_a_disk_that_fills_up_is_told_and_nothing_stays(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """safetensors has an error of its own for it, which is no OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
        refused(lambda: write(tmp_path / "model", tokenizer), str(tmp_path / "model"), "cannot be written: ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_library_that_is_not_there_is_told(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are optional; the remedy can be pasted."""
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(lambda: read_folder(good), "safetensors", "pip install")
