"""``s15erav3 evaluate`` as a user calls it: the JSON, the long table beside it, a reference, what is refused."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from s15erav3.__main__ import main
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.tokens import texts_of
from s15erav3.loading import load
from tests.tiny import train

WORDS = {"token", "next_token", "predicted_token"}
DOMAINS = {"phase", "event", "team", "bowler", "batter", "part", *WORDS}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six steps."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    assert train("trainer.max_steps=6", run_dir=folder) == 0
    return folder


@pytest.fixture(scope="module")
def first(run_dir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """JSON and table of its last checkpoint."""
    assert main(["evaluate", str(run_dir / "checkpoints" / "last.ckpt")]) == 0
    stem = run_dir / "evaluate-last-val"
    return json.loads(stem.with_suffix(".json").read_text()), pq.read_table(stem.with_suffix(".parquet")).to_pylist()


def test_the_table_adds_up(first: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """In every layer, for every expert and domain: counts over values are the load, tokens over values are all tokens,
    the diagonal of co-activation is the load. Catches a batch, a layer or a label that went astray."""
    record, table = first
    loads = {(r["layer"], r["expert"]): r["count"] for r in table if r["domain"] == "all"}
    written = zip(record["layers"], record["load"], strict=True)
    assert loads == {(layer, e): n for layer, row in written for e, n in enumerate(row)}
    assert {r["domain"] for r in table} == DOMAINS | {"all", "expert"}
    counts: dict[tuple[str, int, int], int] = defaultdict(int)
    of: dict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for r in table:
        counts[r["domain"], r["layer"], r["expert"]] += r["count"]
        assert of[r["domain"], r["layer"]].setdefault(r["value"], r["of"]) == r["of"]
        if r["domain"] == "expert" and r["value"] == f"E{r['expert']:02d}":
            assert r["count"] == r["of"] == loads[r["layer"], r["expert"]]
    for domain in DOMAINS:
        assert {(layer, e): counts[domain, layer, e] for layer, e in loads} == loads, domain
        for layer in record["layers"]:
            assert sum(of[domain, layer].values()) == record["text/tokens"], domain


def test_values_are_those_of_the_text(run_dir: Path, first: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Catches the labels of another part: bowlers are those of the validation innings, words those of its tokens."""
    _, table = first
    saved = load(str(run_dir))
    settings = {k: v for k, v in saved.config["data"].items() if k != "max_epochs"}
    data = CommentaryData(tokenizer=saved.tokenizer, **settings).prepare()
    ids = data.token_files.part("val")[:-1].tolist()
    said = saved.tokenizer.decode(ids)
    names = {r["value"] for r in table if r["domain"] == "bowler"} - {"none"}
    assert names and all(f"{name} to " in said for name in names)
    ends = {r["of"] for r in table if r["domain"] == "part" and r["value"] == "none"}
    words = {r["of"] for r in table if r["domain"] == "token" and r["value"] == "<|endoftext|>"}
    assert ends == words == {ids.count(saved.tokenizer.end_of_text)}


def test_the_record_has_every_name(first: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """Catches metrics lost on the way to the file, and NaN, which is no JSON."""
    record, _ = first
    names = [
        *(f"balance/{n}_global" for n in ("maxvio", "minvio", "gini", "entropy", "cv", "dead_experts", "maxvio_floor")),
        *(f"balance/{n}" for n in ("bias_norm", "bias_spread", "confidence", "margin", "next_churn")),
        *(f"balance/{n}" for n in ("coactivation", "coactivation_even")),
        *(f"specialisation/{d}/{n}" for d in DOMAINS for n in ("bits", "bits_plug_in", "share")),
        *(
            f"layer_{layer:02d}/{n}"
            for layer in record["layers"]
            for n in ("maxvio_global", "gini_global", "margin", "next_churn")
        ),
    ]
    for name in names:
        assert math.isfinite(record[name]), name
    assert 0 < record["balance/confidence"] < 1
    assert 0 <= record["balance/next_churn"] <= 1
    assert record["balance/coactivation_even"] == pytest.approx(1 / 7)
    assert all(record[f"specialisation/{d}/bits"] <= record[f"specialisation/{d}/bits_plug_in"] for d in DOMAINS)
    assert "balance/saturation" not in record and "reference" not in record


def test_saturation_against_a_reference(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 against itself, less against another seed's routers."""
    output = tmp_path / "measured.json"
    last = run_dir / "checkpoints" / "last.ckpt"
    assert main(["evaluate", str(last), f"reference={last}", f"output={output}"]) == 0
    record = json.loads(output.read_text())
    assert record["balance/saturation"] == 1 and record["reference_step"] == 6
    assert "balance/saturation" in capsys.readouterr().out
    assert train("trainer.max_steps=6", "seed=2", run_dir=tmp_path / "other") == 0
    assert main(["evaluate", str(last), f"reference={tmp_path / 'other'}", f"output={output}"]) == 0
    record = json.loads(output.read_text())
    assert 0 < record["balance/saturation"] < 1
    assert record["balance/saturation"] == pytest.approx(
        (record["layer_01/saturation"] + record["layer_02/saturation"]) / 2
    )


@pytest.mark.slow
def test_references_that_cannot_be_compared_are_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches figures of two models that share neither words nor experts."""
    for name, settings, word in (
        ("words", ["data.vocab_size=300"], "tokenizer"),
        ("experts", ["experts=e16"], "its number of experts is 16, not 8"),
        ("dense", ["experts=dense"], "layers with experts"),
    ):
        assert train("trainer.max_steps=1", *settings, run_dir=tmp_path / name) == 0
        capsys.readouterr()
        assert main(["evaluate", str(run_dir), f"reference={tmp_path / name}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: reference=") and word in said and said.count("\n") == 1, said
    assert main(["evaluate", str(run_dir), "reference=/nowhere"]) == 2
    assert main(["evaluate", str(run_dir), f"output={tmp_path / 'x.parquet'}"]) == 2
    assert "output=" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()
    assert main(["evaluate", str(run_dir), f"output={tmp_path / 'x.jsonl'}"]) == 2
    assert not (tmp_path / "x.jsonl").exists()


def test_plain_text_has_no_cricket(run_dir: Path, tmp_path: Path) -> None:
    """Catches phases read into prose; the vocabulary and co-activation are there."""
    file = tmp_path / "prose.txt"
    file.write_text("No cricket at all.\n\nJust two paragraphs of prose.")
    output = tmp_path / "measured.json"
    assert main(["evaluate", str(run_dir), f"data.path={file}", "split=all", f"output={output}"]) == 0
    table = pq.read_table(output.with_suffix(".parquet")).to_pylist()
    assert {r["domain"] for r in table} == {"all", "expert", *WORDS}
    record = json.loads(output.read_text())
    assert {n for n in record if n.startswith("specialisation/")} == {
        f"specialisation/{w}/{n}" for w in WORDS for n in ("bits", "bits_plug_in", "share", "share_of_expert")
    }


def test_a_single_layer_with_experts(tmp_path: Path) -> None:
    """torchmetrics makes a scalar of a single layer's mean: the table and every name are there all the same."""
    assert train("trainer.max_steps=2", "model.num_layers=2", run_dir=tmp_path / "run") == 0
    assert main(["evaluate", str(tmp_path / "run" / "checkpoints" / "last.ckpt")]) == 0
    record = json.loads((tmp_path / "run" / "evaluate-last-val.json").read_text())
    assert record["layers"] == [1] and record["layer_01/confidence"] == record["balance/confidence"] > 0


def test_dense_models_get_no_table(tmp_path: Path) -> None:
    """Nothing is routed, so nothing is written beside the JSON."""
    assert train("experts=dense", "trainer.max_steps=1", run_dir=tmp_path / "run") == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "evaluate-best-val.json").exists()
    assert not (tmp_path / "run" / "evaluate-best-val.parquet").exists()


def test_a_strategy_that_is_not_here_costs_the_churn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run balanced by somebody's own class is measured where that class is not installed."""
    (tmp_path / "elsewhere.py").write_text(
        "from s15erav3.balancing import LossFree\n\n\nclass Mine(LossFree):\n    pass\n"
    )
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert train("balancing._target_=elsewhere.Mine", "trainer.max_steps=1", run_dir=tmp_path / "run") == 0
    monkeypatch.delitem(sys.modules, "elsewhere")
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "trust=elsewhere" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "trust=elsewhere"]) == 0
    assert "balance/next_churn is left out" in capsys.readouterr().err
    assert "balance/next_churn" not in json.loads((tmp_path / "run" / "evaluate-best-val.json").read_text())


def test_documents_add_up_to_the_text(run_dir: Path, first: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """A line per document with its own bytes. Fails if a document begins one token too early or too late."""
    lines = [json.loads(line) for line in (run_dir / "evaluate-last-val.jsonl").read_text().splitlines()]
    saved = load(str(run_dir))
    data = CommentaryData(
        tokenizer=saved.tokenizer, **{k: v for k, v in saved.config["data"].items() if k != "max_epochs"}
    )
    texts = [text.encode() for text in texts_of(data.prepare().corpus(), data.plan, "val")]
    assert [line["bytes"] for line in lines] == [len(text) for text in texts]
    bits = sum(line["nll"] for line in lines) / math.log(2)
    assert bits / sum(map(len, texts)) == pytest.approx(first[0]["text/bpb"], rel=1e-9)
    assert sum(line["tokens"] for line in lines) == first[0]["text/tokens"]


def test_ablation_is_written_and_shown(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its whole text is that of the first tokens, each value's bytes are those of the text, and the page has it."""
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    last = run / "checkpoints" / "last.ckpt"
    assert main(["evaluate", str(last), "ablate=experts", "ablate_mode=zero", "ablate_tokens=600"]) == 0
    said = capsys.readouterr()
    assert "Bits per byte more without an expert" in said.out and ".ablation.parquet" in said.err
    record = json.loads((run / "evaluate-last-val.json").read_text())
    assert (record["ablation/tokens"], record["ablate_mode"]) == (600, "zero")
    assert np.shape(record["ablation/change"]) == np.shape(record["ablation/half"]) == (2, 8)
    assert np.abs(record["ablation/change"]).max() > 0
    rows = pq.read_table(run / "evaluate-last-val.ablation.parquet").to_pylist()
    size = {(r["domain"], r["value"]): r["bytes"] for r in rows}
    assert {domain for domain, _ in size} == DOMAINS - WORDS | {"all"}
    for domain in DOMAINS - WORDS:
        assert sum(n for (its, _), n in size.items() if its == domain) == size["all", "all"], domain
    whole = {(r["layer"], r["expert"]): r["change"] for r in rows if r["domain"] == "all"}
    change = zip(record["layers"], record["ablation/change"], strict=True)
    assert whole == {(layer, e): value for layer, row in change for e, value in enumerate(row)}
    assert main(["report", str(run), "max_tokens=0"]) == 0
    assert "<h2>Removing experts</h2>" in (run / "report.html").read_text()


def test_a_sliding_window_beside_the_plain_loss(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``stride`` changes no other figure; without overlap it is the plain loss."""
    last = run_dir / "checkpoints" / "last.ckpt"
    found = []
    for stride in ("null", "7", "32"):
        assert main(["evaluate", str(last), f"stride={stride}", "data.sequence_length=32"]) == 0
        found.append(json.loads((run_dir / "evaluate-last-val.json").read_text()))
    plain, sliding, apart = found
    assert "text/sliding_bpb" in capsys.readouterr().out
    assert sliding.pop("stride") == 7 and sliding.pop("text/sliding_loss") and sliding.pop("text/sliding_bpb")
    assert sliding == plain
    assert apart["text/sliding_bpb"] == plain["text/bpb"] and apart["text/sliding_loss"] == plain["text/loss"]
    for wrong, said in (("stride=33", "at most data.sequence_length=32"), ("stride=0", "error: stride=0 must be")):
        assert main(["evaluate", str(last), wrong, "data.sequence_length=32"]) == 2
        assert said in capsys.readouterr().err


def test_what_cannot_be_ablated_is_refused(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured or written."""
    assert train("experts=dense", "trainer.max_steps=1", run_dir=tmp_path / "run") == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "ablate=experts"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ablate=experts") and "no experts" in said and said.count("\n") == 1
    assert not list((tmp_path / "run").glob("evaluate*"))
    for wrong in ("ablate=layers", "ablate_mode=mean", "ablate_tokens=0"):
        assert main(["evaluate", str(run_dir), "ablate=experts", wrong]) == 2
        assert f"error: {wrong} must be" in capsys.readouterr().err
