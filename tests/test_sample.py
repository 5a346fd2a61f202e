"""``s15erav3 sample`` as a user calls it, on a tiny model with a multi-token-prediction block."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

import s15erav3.sample
from s15erav3.__main__ import main
from s15erav3.loading import Trained
from tests.tiny import train

PROMPTS = ("Vail to Tamm, FOUR, a=b 'quoted' ", "caf\u00e9: no run, ")
GREEDY = "temperature=0"

Say: TypeAlias = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that is long enough to write a line of commentary, again and again."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    settings = ["trainer.max_steps=150", "trainer.val_check_interval=150", "optimizer.lr=0.01", "logger=none"]
    settings += ["model.num_nextn_predict_layers=1", "callbacks.samples.max_new_tokens=0"]
    assert train(*settings, run_dir=folder) == 0
    return folder


@pytest.fixture
def say(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Sample from the run; returns standard output and standard error."""

    def sample(*settings: str) -> tuple[str, str]:
        capsys.readouterr()
        assert main(["sample", str(run_dir), "max_new_tokens=16", *settings]) == 0
        return tuple(capsys.readouterr())

    return sample


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to standard output, piece by piece."""
    pieces, show = list[str](), s15erav3.sample.show

    def recorded(text: str) -> None:
        pieces.append(text)
        show(text)

    monkeypatch.setattr(s15erav3.sample, "show", recorded)
    return pieces


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of ``generate``."""
    found, generate = list[tuple[tuple[Any, ...], dict[str, Any]]](), s15erav3.sample.generate

    def recorded(*arguments: Any, **settings: Any) -> Any:
        found.append((arguments, settings))
        return generate(*arguments, **settings)

    monkeypatch.setattr(s15erav3.sample, "generate", recorded)
    return found


def texts(*values: str) -> str:
    """As a list on the command line."""
    return json.dumps(values, ensure_ascii=False)


def test_a_single_text_appears_as_it_is_written(say: Say, shown: list[str]) -> None:
    """Catches a stream that only writes at the end, or writes something else than the batch, or twice."""
    first, second = (say(f"prompt={prompt}")[0] for prompt in PROMPTS)
    assert shown[0] == PROMPTS[0]
    assert len([piece for piece in shown[1:-1] if piece]) > 8
    shown.clear()
    together = say(f"prompt={texts(*PROMPTS)}")[0]
    assert together == first + "\n" + second
    assert len(shown) == 2
    for out, prompt in zip((first, second), PROMPTS, strict=True):
        assert out.startswith(prompt) and out.endswith("\n") and len(out) > len(prompt) + 10


def test_texts_come_prompt_by_prompt(say: Say) -> None:
    """Catches samples of different prompts that are mixed up, and samples that are all the same."""
    both = say(f"prompt={texts(*PROMPTS)}", "samples=2")[0]
    first, second = (say(f"prompt={prompt}", "samples=2")[0] for prompt in PROMPTS)
    assert both == first + "\n" + second
    alone = say(f"prompt={PROMPTS[0]}")[0]
    assert first.startswith(alone + "\n" + PROMPTS[0])
    assert first != alone + "\n" + alone


def test_an_empty_prompt_begins_a_new_text(say: Say, calls: list[Any]) -> None:
    """Catches a prompt without its first token, or with two."""
    assert say()[0] == say("prompt=")[0] == say("prompt=['']")[0]
    end = calls[0][1]["stop"]
    assert [arguments[1] for arguments, _ in calls] == [[[end]]] * 3
    say("prompt=2024")
    assert calls[-1][0][1][0][0] == end and len(calls[-1][0][1][0]) > 1


def test_a_stop_string_ends_the_text_it_stands_in(say: Say) -> None:
    """Catches a stop string that is shown, that ends the other texts too, or that only counts as a list."""
    (first, second) = (say(f"prompt={prompt}", GREEDY)[0][len(prompt) : -1] for prompt in PROMPTS)
    stop = re.findall("[a-zA-Z0-9]{2}", first[2:])[0]
    expected = [prompt + text.partition(stop)[0] + "\n" for prompt, text in zip(PROMPTS, (first, second), strict=True)]
    for setting in (f"stop={texts(stop)}", f"stop={texts('never there', stop)}", f"stop={stop}"):
        assert say(f"prompt={PROMPTS[0]}", GREEDY, setting)[0] == expected[0]
        assert say(f"prompt={texts(*PROMPTS)}", GREEDY, setting)[0] == "\n".join(expected)
        assert say(f"prompt={PROMPTS[0]}", "speculative=true", GREEDY, setting)[0] == expected[0]


@pytest.mark.parametrize("n", [1, 5, 50])
def test_speed_and_memory_are_reported(n: int, say: Say) -> None:
    """Catches figures among the text, tokens of one sequence only, and a cache counted per layer."""
    out, err = say(GREEDY, f"max_new_tokens={n}", "samples=3")
    assert "tokens" not in out.splitlines()[0]
    assert re.match(rf"{3 * n} tokens in \d+\.\d\d s: [\d,]+ tokens/s after \d+\.\d\d s for the prompt; ", err)
    # 3 layers, fp32: a latent of 16 and a rotary key of 8, against keys of 8 + 8 and values of 16 for 2 heads.
    assert "cache 288 bytes per token" in err and "needs 768" in err


def test_speculation_gives_the_same_text(say: Say, shown: list[str]) -> None:
    """Catches other text than greedy decoding's, and texts that are not told apart from their repetition."""
    for prompt in (*PROMPTS, ""):
        plain, _ = say(f"prompt={prompt}", GREEDY, "max_new_tokens=40")
        shown.clear()
        out, err = say(f"prompt={prompt}", GREEDY, "max_new_tokens=40", "speculative=true")
        assert out == plain
        assert len([piece for piece in shown if piece]) > 10
        lines = err.splitlines()
        assert lines[0].startswith("40 tokens in ")
        found = re.match(
            r"speculation: (\d+) of (\d+) drafts accepted \((\d+)%\), (\d\.\d\d) tokens a step; "
            r"plain decoding gave the same text in \d+\.\d\d s: \d+\.\d\d times faster",
            lines[1],
        )
        assert found and len(lines) == 2
        accepted, drafted = int(found[1]), int(found[2])
        assert int(found[3]) == round(100 * accepted / drafted) > 30
        assert drafted + accepted in (39, 40)  # a token comes with the prompt, the last draft may be one too many
        assert float(found[4]) == pytest.approx(40 / (drafted + 1), abs=0.006)
    together, err = say(f"prompt={texts(*PROMPTS)}", GREEDY, "speculative=true")
    assert together == "\n".join(say(f"prompt={prompt}", GREEDY)[0] for prompt in PROMPTS)
    assert err.count("the same text") == 2


def test_a_compiled_step_gives_the_same_text(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches ``compile=true`` that is forgotten, or that fails on a CPU; without Inductor, which takes a minute."""
    compiler, asked = torch.compile, []

    def compiled(function: Any, **settings: Any) -> Any:
        asked.append(settings)
        return compiler(function, backend="eager", **settings)

    expected = say("seed=3")[0]
    monkeypatch.setattr(torch, "compile", compiled)
    assert say("seed=3", "compile=true")[0] == expected
    assert len(asked) == 1


def test_bf16_halves_the_cache(say: Say) -> None:
    """Catches a cache, or products of weights, in another precision than asked for."""
    out, err = say("trainer.precision=bf16-mixed", "max_new_tokens=5")
    assert out and "cache 144 bytes per token" in err


def test_an_extended_context_reads_a_longer_prompt(say: Say, calls: list[Any]) -> None:
    """Catches an extension that leaves positions as they were, or reads no more than before."""
    prompt, shapes = f"prompt={'FOUR, SIX, ' * 12}", []

    def read(_module: Any, arguments: Any, _out: Any) -> None:
        if isinstance(_module, s15erav3.model.Transformer):
            shapes.append(tuple(arguments[0].shape))

    handle = torch.nn.modules.module.register_module_forward_hook(read)
    try:
        for extension in (1, 2, 1.5):
            assert say(prompt, f"context_extension={extension}", GREEDY)[0].startswith("FOUR, SIX, FOUR")
    finally:
        handle.remove()
    length = len(calls[0][0][1][0])
    assert length > 48
    assert shapes == [(1, 32), (1, min(64, length)), (1, 48)]
    assert [settings["context"] for _, settings in calls] == [32, 64, 48]
    scaled = [arguments[0].config.rope_scaling for arguments, _ in calls]
    factors = [yarn and (yarn.factor, yarn.original_max_position_embeddings) for yarn in scaled]
    assert factors == [None, (2, 32), (1.5, 32)]
    assert say(prompt, "context_extension=2", GREEDY, "speculative=true")[1].count("the same text") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["speculative=maybe"], ["speculative=maybe", "true or false"]),
        (["speculative=true"], ["speculative=true", "temperature=0.7", "must be 0"]),
        (["speculative=true", GREEDY, "repetition_penalty=1.5"], ["speculative=true", "repetition_penalty=1.5"]),
        (["speculative=true", GREEDY, "samples=2"], ["speculative=true", "samples"]),
        (["speculative=true", GREEDY, "compile=true"], ["speculative=true", "compile=true"]),
        (["int8=true", "compile=true"], ["int8=true", "compile=true"]),
        (["samples=0"], ["samples=0", "at least 1"]),
        (["samples=1.5"], ["samples=1.5", "whole number"]),
        (["max_new_tokens=0"], ["max_new_tokens=0", "at least 1"]),
        (["seed=-1"], ["seed=-1", "at least 0"]),
        (["min_p=2"], ["min_p=2", "at most 1"]),
        (["top_p=0"], ["top_p=0", "greater than 0"]),
        (["top_k=-1"], ["top_k=-1"]),
        (["top_k=1.5"], ["top_k=1.5", "whole number"]),
        (["temperature=-1"], ["temperature=-1", "0, or a number"]),
        (["temperature=abc"], ["temperature=abc", "number"]),
        (["top_p=null"], ["top_p=null", "number"]),
        (["min_p=nan"], ["min_p=nan", "number"]),
        (["repetition_penalty=0"], ["repetition_penalty=0", "at least 1e-06"]),
        (["prompt=[]"], ["prompt=[]", "a list of texts"]),
        (["prompt=null"], ["prompt=null", "a list of texts"]),
        (["context_extension=0.5"], ["context_extension=0.5", "at least 1"]),
        (["context_extension=abc"], ["context_extension=abc", "number"]),
        (["tempreature=1"], ["tempreature", "temperature"]),
    ],
)
def test_a_bad_setting_is_told(
    settings: list[str], words: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence names the setting; status 2, and nothing on standard output."""
    capsys.readouterr()
    assert main(["sample", str(run_dir), *settings]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    for word in words:
        assert word in err, err


def test_speculation_needs_prediction_blocks(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback where a model has none."""
    restore = s15erav3.sample.restore

    def without(cfg: Any) -> Trained:
        trained = restore(cfg)
        trained.net.config = dataclasses.replace(trained.net.config, num_nextn_predict_layers=0)
        return trained

    monkeypatch.setattr(s15erav3.sample, "restore", without)
    capsys.readouterr()
    assert main(["sample", str(run_dir), GREEDY, "speculative=true"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and len(err.splitlines()) == 1
    assert "best.ckpt" in err and "model.num_nextn_predict_layers=1" in err
