"""``s15erav3 export``: what lies in the folder, and that transformers reads the same model out of it as we do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from s15erav3.__main__ import main
from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import by_place
from s15erav3.loading import load
from s15erav3.sample import sample
from tests.tiny import TINY, result, train

STEPS = 40
TRAINED = [
    f"trainer.max_steps={STEPS}",
    f"trainer.val_check_interval={STEPS}",
    "optimizer.lr=0.01",
    "model.initializer_range=0.1",  # so that every part has a say in what comes out
]
KINDS = {
    "plain": [],
    "ahead": [
        "model.num_nextn_predict_layers=1",
        "model.tie_word_embeddings=false",
        "model.q_lora_rank=16",
        "model.rope_scaling={factor:2,original_max_position_embeddings:32}",
    ],
}
PROMPTS = ["", "1st Inns\n19.5 overs\n", "Coldstrom to Lindqvar, ", "'quoted', a=b\\"]
NEW = 12  # with the longest prompt within the 32 tokens of training: beyond them our cache forgets
MTP = "model.layers.3."  # after the three layers of the main model
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


class Exported(NamedTuple):
    run: Path
    folder: Path


def made(kind: str, place: Path) -> Exported:
    """Train a model of this kind below ``place`` and export it."""
    assert train(*TRAINED, *KINDS[kind], run_dir=place / "run") == 0
    export(place / "run", place / "model")
    return Exported(place / "run", place / "model")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """One of each kind."""
    return {kind: made(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def export(place: Path, folder: Path, *settings: str) -> None:
    assert main(["export", str(place), str(folder), *settings]) == 0


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder."""
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def theirs(folder: Path) -> tuple[Any, Any]:
    """transformers' model and tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def our_logits(place: Path, ids: Tensor) -> Tensor:
    net = load(str(place)).net.eval()
    return net.logits(net(ids).hidden)


@torch.no_grad()
def their_logits(folder: Path, ids: Tensor) -> Tensor:
    return theirs(folder)[0](ids).logits


def windows(rows: int = 6, length: int = 32) -> Tensor:
    return torch.randint(512, (rows, length), generator=torch.Generator().manual_seed(0))


def our_texts(place: Path, prompts: list[str], new: int, *settings: str) -> list[str]:
    """What ``s15erav3 sample PLACE temperature=0`` adds to each prompt."""
    listed = f"prompt=[{','.join(map(hydra_setup.quote, prompts))}]"
    arguments = [str(place), "temperature=0", f"max_new_tokens={new}", listed, *settings]
    return list(hydra_setup.run("sample", sample, by_place("sample", arguments, "checkpoint")))


def their_texts(folder: Path, prompts: list[str], new: int) -> list[str]:
    """What transformers' ``generate`` adds greedily to each prompt, one at a time."""
    model, tokenizer = theirs(folder)
    texts = []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**given, max_new_tokens=new, do_sample=False)[0, given.input_ids.shape[1] :]
        texts.append(tokenizer.decode(out, skip_special_tokens=True))
    return texts


# --- what transformers reads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_finds_every_weight_and_computes_the_same_logits(kind: str, exported: dict[str, Exported]) -> None:
    """Catches gate and up exchanged, experts out of order, biases of zero, and a layer that stays as it was drawn."""
    run, folder = exported[kind]
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert {key for key in info["unexpected_keys"] if not key.startswith(MTP)} == set()
    own = {"enorm", "hnorm", "eh_proj", "embed_tokens", "shared_head.norm", "shared_head.head"}  # as DeepSeek's
    ahead = {key.removeprefix(MTP) for key in info["unexpected_keys"]}
    assert {f"{n}.weight" for n in own if kind == "ahead"} == {k for k in ahead if k.split(".")[0] not in LAYER}
    ours = our_logits(run, windows())
    torch.testing.assert_close(their_logits(folder, windows()), ours, rtol=1e-5, atol=1e-5)
    assert ours.std() > 0.5
    torch.testing.assert_close(our_logits(folder, windows()), ours, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_writes_the_same_text(kind: str, exported: dict[str, Exported]) -> None:
    """Catches a prompt that begins otherwise, other ids, another end and another decoding."""
    run, folder = exported[kind]
    ours = our_texts(run, PROMPTS, NEW)
    assert our_texts(folder, PROMPTS, NEW) == ours
    assert their_texts(folder, PROMPTS, NEW) == ours
    assert len(set(ours)) > 1


def test_prompts_of_a_batch_are_padded_where_it_does_no_harm(exported: dict[str, Exported]) -> None:
    """Padding on the right is text that the continuation follows; a mask that is not made lets it be read."""
    run, folder = exported["plain"]
    model, tokenizer = theirs(folder)
    given = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    out = model.generate(**given, max_new_tokens=NEW, do_sample=False)[:, given.input_ids.shape[1] :]
    assert tokenizer.batch_decode(out, skip_special_tokens=True) == our_texts(run, PROMPTS, NEW)


def test_generation_ends_where_documents_end(exported: dict[str, Exported]) -> None:
    """Without the id in config.json or generation_config.json transformers writes on into the next document."""
    run, folder = exported["plain"]
    model, tokenizer = theirs(folder)
    end = load(str(run)).tokenizer.end_of_text
    assert tokenizer("").input_ids == [end]
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id == end
    with torch.no_grad():  # a head that sees the end everywhere
        model.model.norm.weight.zero_()
        model.lm_head = torch.nn.Linear(32, 512)
        model.lm_head.bias.zero_()[end] = 1.0
    assert model.generate(**tokenizer("SIX", return_tensors="pt"), max_new_tokens=5)[0, -1] == end
    assert len(model.generate(**tokenizer("", return_tensors="pt"), max_new_tokens=5)[0]) == 2


def test_what_transformers_saves_again_is_the_same_model_to_us(exported: dict[str, Exported], tmp_path: Path) -> None:
    """Its config.json spells the rotary settings otherwise and has keys of its own, its weights are restacked."""
    run, folder = exported["plain"]
    for part in theirs(folder):
        part.save_pretrained(tmp_path)
    assert torch.equal(our_logits(tmp_path, windows()), our_logits(run, windows()))
    assert load(str(tmp_path)).tokenizer.fingerprint == load(str(run)).tokenizer.fingerprint


# --- what lies in the folder --------------------------------------------------------------------------------------


def test_biases_travel_in_fp32_and_the_rest_in_the_wanted_type(exported: dict[str, Exported], tmp_path: Path) -> None:
    """Biases in bf16 would choose other experts: a step of the rule is smaller than their rounding."""
    run, folder = exported["ahead"]
    export(run, tmp_path / "half", "dtype=bfloat16")
    whole, half = tensors(folder), tensors(tmp_path / "half")
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    biases = {key for key in whole if key.endswith("e_score_correction_bias")}
    assert len(biases) == 3 and whole.keys() == half.keys()
    for layer, name in ((1, "layers.1"), (2, "layers.2"), (3, "mtp.0.block")):
        ours = state[f"net.{name}.mlp.router.bias"]
        key = f"model.layers.{layer}.mlp.gate.e_score_correction_bias"
        assert ours.abs().max() > 0.01
        assert torch.equal(whole[key], ours) and torch.equal(half[key], ours)
    for key in whole:
        assert whole[key].dtype == torch.float32
        assert half[key].dtype == (torch.float32 if key in biases else torch.bfloat16)
        assert torch.equal(half[key], whole[key].to(half[key].dtype))
    model = theirs(tmp_path / "half")[0]
    assert model.dtype == torch.bfloat16
    gates = {n: v for n, v in model.state_dict().items() if n in biases}
    assert len(gates) == 2 and all(torch.equal(value, whole[n]) for n, value in gates.items())
    net = load(str(tmp_path / "half")).net
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
    assert torch.equal(net.embed_tokens.weight, half["model.embed_tokens.weight"].float())


def test_shards_have_an_index_and_hold_the_same(exported: dict[str, Exported], tmp_path: Path) -> None:
    """Catches an index that leaves out a file, and a reader that takes the first file for all of them."""
    _, folder = exported["ahead"]
    export(folder, tmp_path / "parts", "max_shard_size=20KB")
    files = sorted(tmp_path.glob("parts/*.safetensors"))
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert len(files) > 5 and sorted(set(index["weight_map"].values())) == [file.name for file in files]
    whole, parts = tensors(folder), tensors(tmp_path / "parts")
    assert index["weight_map"].keys() == parts.keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    for file in files:
        held = load_file(file)
        assert sum(value.nbytes for value in held.values()) <= 20_000 or len(held) == 1
    assert torch.equal(their_logits(tmp_path / "parts", windows()), their_logits(folder, windows()))
    assert torch.equal(our_logits(tmp_path / "parts", windows()), our_logits(folder, windows()))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_of_a_folder_is_that_folder(kind: str, exported: dict[str, Exported], tmp_path: Path) -> None:
    """Whatever is lost or renamed on the way in shows on the way out."""
    export(exported[kind].folder, tmp_path / "again")
    names = {file.name for file in (tmp_path / "again").iterdir()}
    assert names == {file.name for file in exported[kind].folder.iterdir()}
    for name in names - {"README.md"}:
        assert (tmp_path / "again" / name).read_bytes() == (exported[kind].folder / name).read_bytes(), name
    assert "itself a Hugging Face folder" in (tmp_path / "again" / "README.md").read_text()


def test_the_card_tells_what_the_run_recorded(
    exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures of the exported checkpoint, from metrics.csv or else result.json; its example can be pasted."""
    run, folder = exported["plain"]
    ended, card = result(run), (folder / "README.md").read_text()
    for said in (f"{STEPS} optimizer steps", "LossFree, seed 1", "corpus_bpe_512, 512 entries", "`data=sample`"):
        assert said in card
    figures = [f"| {key} | {ended[key]:.4f} (" for key in ("val/bpb", "val/loss", "balance/maxvio_global")]
    assert all(line in card for line in figures)
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(folder.parent)
    capsys.readouterr()
    exec(example.replace("max_new_tokens=60", "max_new_tokens=3"), {})
    assert capsys.readouterr().out.startswith("1st Inns\n19.5 overs\n")

    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "metrics.csv").unlink()
    export(copy, tmp_path / "without metrics")
    assert all(line in (tmp_path / "without metrics" / "README.md").read_text() for line in figures)
    lone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "lone.ckpt")
    export(lone, tmp_path / "deep" / "lone")
    assert "val/bpb" not in (tmp_path / "deep" / "lone" / "README.md").read_text()


def test_figures_of_another_step_are_not_the_checkpoints(tmp_path: Path) -> None:
    """A card that praises an early checkpoint for what the run came to in the end."""
    run = tmp_path / "run"
    settings = ["trainer.val_check_interval=2", "optimizer.lr=0.5", "schedule=constant", "schedule.warmup_steps=4"]
    assert train("trainer.max_steps=4", *settings, run_dir=run) == 0
    ended = result(run)
    assert ended["best/val/bpb"] < ended["val/bpb"]  # the rate is far too high later on
    figures = {"best": f"| val/bpb | {ended['best/val/bpb']:.4f} ", "last": f"| val/bpb | {ended['val/bpb']:.4f} "}
    for source in ("metrics", "result"):  # which knows of the last step only
        for name, figure in figures.items():
            export(run / "checkpoints" / f"{name}.ckpt", tmp_path / source / name)
            card = (tmp_path / source / name / "README.md").read_text()
            assert f"| {2 if name == 'best' else 4} optimizer steps" in card
            assert ("val/bpb" in card) == (figure in card) == ((source, name) != ("result", "best"))
        (run / "metrics.csv").unlink(missing_ok=True)


def test_nothing_half_written_stays(
    exported: dict[str, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without its last shard, or a hidden one beside it, must not be left by a full disk."""
    (tmp_path / "empty").mkdir()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.save_torch_state_dict", full)
    for name in ("new", "empty"):
        assert main(["export", str(exported["plain"].run), str(tmp_path / name)]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "No space left" in said[0] and str(tmp_path / name) in said[0]
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.slow
def test_twenty_prompts_of_the_real_corpus_go_on_alike(real_corpus: Path, tmp_path: Path) -> None:
    """Names, digits and line ends as they are, with the vocabulary that is trained on them."""
    run = tmp_path / "run"
    settings = ["data=ipl", f"data.path={real_corpus}", "data.vocab_size=4096", "data.sequence_length=64"]
    assert main(["train", *TINY, *TRAINED, *settings, f"hydra.run.dir={run}"]) == 0
    export(run, tmp_path / "model")
    text = real_corpus.read_text(encoding="utf-8")
    prompts = [text[at : at + 60] for at in range(10_000, len(text), len(text) // 20)][:20]
    ours = our_texts(run, prompts, 24)
    assert their_texts(tmp_path / "model", prompts, 24) == ours
    assert len(set(ours)) > 3
