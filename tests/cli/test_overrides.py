"""What was typed is what is read: free text through Hydra's grammar and OmegaConf's, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from s15erav3.cli.overrides import LISTED, PATHS, TEXTS, as_typed, literal, quote, quote_list, taken, value_of
from s15erav3.cli.overrides import given as path_given

PARSER = OverridesParser.create()

TEXT = st.text(
    st.one_of(st.sampled_from("\\${}'\"[]()=, \n\tab:"), st.characters(codec="utf-8", exclude_characters="\0"))
)
"""Any text, and often what one of the two grammars has a meaning for."""


def read(override: str) -> Any:
    """What the config then has, beside a seed that an interpolation would find."""
    cfg = OmegaConf.create({"seed": 1, "x": None})
    OmegaConf.update(cfg, "x", PARSER.parse_override(override).value())
    return cfg.x


@given(TEXT)
@example("${seed} runs")
@example("\\${seed}")
@example("\\\\\\${seed}\\")
@example("[c] at slip")
@example("'Tis over")
@example('"Well bowled," says the keeper')
@example("''")
@example("true")
def test_a_text_is_read_as_it_was_typed(text: str) -> None:
    """Whatever is in it; and what the override says of it is the text again, for tables and tags."""
    assume(not LISTED.fullmatch(text) and text != "null")
    for key in (*TEXTS, *PATHS):
        override = as_typed(f"{key}={text}", multirun=False)
        assert override.partition("=")[0] == key
        assert read(override) == text
    assert value_of(override) == text


@given(TEXT, TEXT)
def test_a_choice_in_quotes_is_read_as_it_was_typed(first: str, second: str) -> None:
    """With -m, where commas divide choices: each of them comes out of Hydra's own sweep."""
    words = ",".join(quote(text, interpolate=True) for text in (first, second))
    override = PARSER.parse_override(as_typed(f"prompt={words}", multirun=True))
    assert [read(f"prompt={choice}") for choice in override.sweep_string_iterator()] == [first, second]
    for multirun in (False, True):
        assert read(as_typed(path_given("checkpoint", first, multirun), multirun)) == first


@given(st.lists(TEXT))
def test_a_list_of_quoted_texts_is_a_list(texts: list[str]) -> None:
    """For settings that take several; nothing else is."""
    typed = f"[{', '.join(quote(text, interpolate=True) for text in texts)}]"
    for multirun in (False, True):
        assert list(read(as_typed(f"stop={typed}", multirun))) == texts
    assert read(as_typed(f"data.path={typed}", multirun=False)) == typed
    assert list(read(f"stop={quote_list(texts)}")) == texts


@given(TEXT)
def test_a_literal_text_is_read_back_by_omegaconf(text: str) -> None:
    """Its ``${`` are no interpolations, whatever stands before them."""
    assert OmegaConf.create({"x": literal(text)}).x == text


@pytest.mark.parametrize(
    ("word", "choices"),
    [
        ("data.path=a.txt,b c.txt", ["a.txt", "b c.txt"]),
        ("data.path='a,b.txt',c.txt", ["a,b.txt", "c.txt"]),
        ("prompt=${seed}, [c] at slip,", ["${seed}", "[c] at slip", ""]),
        ("prompt=['a','b'],c", [["a", "b"], "c"]),
        ("init_from=choice(a,b)", ["a", "b"]),
    ],
)
def test_commas_divide_the_choices_of_a_sweep(word: str, choices: list[Any]) -> None:
    """But for those in quotes; Hydra's own functions stay what they are."""
    override = PARSER.parse_override(as_typed(word, multirun=True))
    assert [read(f"x={choice}") for choice in override.sweep_string_iterator()] == choices


@pytest.mark.parametrize("word", ["seed=${oc.env:SEED}", "metrics=[a,b]", "~prompt", "prompt=null", "resume=", "stop"])
def test_other_words_are_hydras(word: str) -> None:
    """Interpolations, lists and null among them."""
    assert as_typed(word, multirun=False) == as_typed(word, multirun=True) == word


def test_a_setting_is_taken_out_of_the_words_however_it_is_prefixed() -> None:
    """The last one holds, and ``null`` is none."""
    assert taken("resume", ["a=1", "resume=x", "++resume='y z'", "+b=2"]) == ("'y z'", ["a=1", "+b=2"])
    assert taken("resume", ["resume=x", "+resume=null"]) == ("", [])
    assert taken("resume", ["sweep.resume=x", "~resume"]) == ("", ["sweep.resume=x", "~resume"])
