"""Conversion of tokenizers to and from Hugging Face's ``tokenizer.json``, with identical ids."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, processors

from s15erav3.data.bpe import byte_characters, cut_into_bytes
from s15erav3.data.panics import build_encoding, no_panic
from s15erav3.data.tokenizer import PUBLIC, Tokenizer
from s15erav3.errors import UserError
from s15erav3.interop.patterns import can_be_empty, to_oniguruma, to_tiktoken

_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, which ``transformers.AutoTokenizer`` loads.

    The loaded tokenizer returns one end-of-text token, with which our models start every prompt, and then the ids of
    :meth:`Tokenizer.encode`; ``add_special_tokens=False`` omits the end-of-text token. Words of more than
    :data:`~s15erav3.data.long_words.LONGEST_WORD` characters, such as a million blanks, are an exception: ours are cut
    into pieces of that length, theirs are not, so tokens next to a cut can differ, with the same decoded text. Names
    of special tokens in a text are encoded as text. The vocabulary size is ``tokenizer.n_vocab``: ids that the
    encoding does not use (cl100k_base and o200k_base have some between their special tokens) become special tokens
    ``<|unused_ID|>``, because tokenizers numbers added tokens without gaps.

    Args:
        tokenizer: ordinary ids must come first, without gaps, and its pattern must match every character. This holds
            for all tokenizers that this package creates and reads.
        folder: created if missing; existing files with the two names are replaced.
        max_length: maximum sequence length of the model, ``model_max_length``.

    Raises:
        UserError: ``tokenizer.json`` cannot express the ids or the pattern, or the folder is not writable.
    """
    with no_panic(f"tokenizer {tokenizer.name} cannot be written as {_TOKENIZER}", "use another tokenizer"):
        built = _build(tokenizer)
        written = built.to_str(pretty=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": ENDOFTEXT,
        "eos_token": ENDOFTEXT,
        "pad_token": ENDOFTEXT,
        "padding_side": "left",  # generation continues the right end
        "model_max_length": max_length,
        "split_special_tokens": True,
        # The defaults of transformers 5. Version 4 cleans up, and adds token_type_ids, which DeepseekV3 rejects.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # Information for read_tokenizer that is not in tokenizer.json; transformers keeps unknown keys.
        "encoding": tokenizer.name,
        "pattern": tokenizer.encoding._pat_str,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _TOKENIZER).write_text(written, encoding="utf-8")
        (folder / _CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose a writable folder with room.") from error


def _build(tokenizer: Tokenizer) -> HFTokenizer:
    encoding = tokenizer.encoding
    ranks, special = encoding._mergeable_ranks, encoding._special_tokens
    spelled = _spelled(ranks)
    # tiktoken looks up the whole word before merging, hence ignore_merges.
    built = HFTokenizer(
        models.BPE(
            vocab={spelled[token]: rank for token, rank in ranks.items()},
            merges=[(spelled[left], spelled[right]) for left, right in _merges(ranks)],
            ignore_merges=True,
        )
    )
    regex = to_oniguruma(encoding._pat_str, f"tokenizer {tokenizer.name}")
    cut_into_bytes(built, regex)
    names = {i: name for name, i in special.items()}
    built.add_special_tokens([names.get(i, _unused(i)) for i in range(len(ranks), encoding.n_vocab)])
    if set(ranks.values()) != set(range(len(ranks))) or {n: built.token_to_id(n) for n in special} != special:
        raise UserError(
            f"tokenizer {tokenizer.name} cannot be written as {_TOKENIZER}: its {len(ranks)} ordinary tokens must have "
            f"the ids 0 to {len(ranks) - 1}, and its special tokens later ids and names of their own; renumber them."
        )
    built.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{ENDOFTEXT} $A",
        pair=f"{ENDOFTEXT} $A {ENDOFTEXT} $B",
        special_tokens=[(ENDOFTEXT, encoding.eot_token)],
    )
    return built


def read_tokenizer(folder: Path) -> Tokenizer:
    """Load the byte-level BPE of a folder with ``tokenizer.json``.

    Ordinary text gets the same ids as in transformers, except for words of more than
    :data:`~s15erav3.data.long_words.LONGEST_WORD` characters, which are cut.

    A tokenizer written by :func:`write_tokenizer` keeps its fingerprint and its name, except that names of public
    encodings get the prefix ``hf_``: :meth:`Tokenizer.state` trusts these names, and a file might not match its name.

    Args:
        folder: ``eos_token`` and our own keys are also read from its ``tokenizer_config.json``, if present. The
            end-of-text token is always named ``<|endoftext|>`` in the result, and swaps names with another token of
            that name. Tokens that the file would add around a text are ignored.

    Raises:
        UserError: the file is missing, or tiktoken cannot express it exactly.
    """
    file = folder / _TOKENIZER
    if not file.is_file():
        raise UserError(f"{folder} has no {_TOKENIZER}; name a folder that has one.")
    try:
        with no_panic(f"{file} cannot be read", "fetch it again, or name another folder"):
            loaded = HFTokenizer.from_str(file.read_text(encoding="utf-8"))
    except UserError:
        raise
    except Exception as error:  # the library raises no narrower type
        raise UserError(
            f"{file} is not a file of the tokenizers library ({error}); fetch it again, or name another folder."
        ) from error
    data = json.loads(loaded.to_str())  # normalises files of older versions: all keys, in the current form
    config = read_object(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}

    model, added = data["model"], data["added_tokens"]
    if model["type"] != "BPE" or _kind(data["decoder"]) != "ByteLevel":
        raise _unlike(file, f"has a {model['type']} model and a decoder of type {_kind(data['decoder'])}")
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise _unlike(file, "uses BPE dropout or marks parts of words")
    if data["normalizer"] is not None:
        raise _unlike(file, f"changes text by a normalizer of type {_kind(data['normalizer'])}")
    if ordinary := [token["content"] for token in added if not token["special"]]:
        raise _unlike(file, f"matches the added token {ordinary[0]!r} before it splits words")

    special = {token["content"]: token["id"] for token in added}
    ranks = _read_ranks(file, model, special)
    special = {name: i for name, i in special.items() if name != _unused(i)}
    name = str(config.get("encoding") or f"hf_{folder.resolve().name}")
    try:
        encoding = build_encoding(
            f"hf_{name}" if name in PUBLIC else name,
            _read_pattern(file, data["pre_tokenizer"], config.get("pattern")),
            ranks,
            _with_end_of_text(folder, special, config.get("eos_token") or ENDOFTEXT),
        )
    except ValueError as error:
        raise _unlike(file, f"splits words by a pattern that tiktoken does not accept ({error})") from error
    return Tokenizer(encoding)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pair that each token is merged from, ordered by rank, without tokens that merging cannot reach.

    tiktoken merges the neighbours whose union has the lowest rank; tokenizers uses a list of pairs. One pair per token
    is sufficient: until a merge crosses the borders of a piece of text, merges inside it do not depend on its context,
    so its last two parts are the same in every context and in isolation.
    """
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            unions = [ranks.get(left + right, math.inf) for left, right in pairwise(parts)]
            i = unions.index(min(unions))
            if unions[i] == math.inf:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def _spelled(ranks: dict[bytes, int]) -> dict[bytes, str]:
    """Map each token to the characters that represent its bytes."""
    characters = byte_characters()
    return {token: "".join(characters[byte] for byte in token) for token in ranks}


def _unused(i: int) -> str:
    return f"<|unused_{i}|>"


def _unlike(file: Path, found: str) -> UserError:
    return UserError(
        f"{file} {found}, which tiktoken cannot do; name a folder with a byte-level BPE that has one pattern for "
        "words, no normalizer, and ids in the order of its merges, with the special ones last."
    )


def _kind(part: dict[str, Any] | None) -> str:
    return "none" if part is None else str(part["type"])


def read_object(file: Path) -> dict[str, Any]:
    """Read the JSON object in an existing file.

    Raises:
        UserError: the file contains something else.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no JSON object but a {type(values).__name__}; fetch it again.")
    return values


def _read_ranks(file: Path, model: dict[str, Any], special: dict[str, int]) -> dict[bytes, int]:
    """Return the bytes and id of each ordinary token, after checking that the model's merges equal merging by id."""
    ids = {token: i for token, i in model["vocab"].items() if token not in special}
    byte_of = {character: byte for byte, character in byte_characters().items()}
    try:
        ranks = {bytes(byte_of[c] for c in token): i for token, i in sorted(ids.items(), key=lambda item: item[1])}
    except KeyError as error:
        raise _unlike(file, f"has a token with {error}, which is not a character of byte-level BPE") from error
    if list(ranks.values()) != list(range(len(ranks))):
        missing = min(set(range(len(ranks))) - set(ranks.values()))
        raise _unlike(file, f"has no token with the id {missing}, but tokens beyond it")
    if not {bytes([byte]) for byte in range(256)} <= ranks.keys():
        raise _unlike(file, "lacks some of the 256 bytes")

    spelled = _spelled(ranks)
    needed = {(spelled[left], spelled[right]) for left, right in _merges(ranks)}
    learned = [(left, right) for left, right in model["merges"]]
    last = 0
    for left, right in learned:
        if ids.get(left + right, -1) < last:
            raise _unlike(file, f"merges {left!r} and {right!r} in another order than their ids")
        last = ids[left + right]
    # Superfluous pairs are harmless: they never become neighbours.
    if lacking := needed - set(learned):
        raise _unlike(file, "has a token made of {!r} and {!r}, but no merge of them".format(*min(lacking)))
    if not model["ignore_merges"] and len(needed) < len(ranks) - 256:
        raise _unlike(file, "has tokens that no merges produce, without ignore_merges")
    return ranks


def _read_pattern(file: Path, cutting: dict[str, Any] | None, written: object) -> str:
    """Return the pattern of a pre-tokenizer, or the ``written`` pattern if it was converted from that."""
    match cutting:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return str(r50k_pat_str)
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            if isinstance(written, str) and to_oniguruma(written, str(file)) == regex:
                return written
            if can_be_empty(regex, str(file)):  # tiktoken panics on empty matches
                raise _unlike(file, "splits words by a pattern that matches empty text")
            return to_tiktoken(regex, str(file))
    raise _unlike(file, f"splits words by the pre-tokenizer {json.dumps(cutting, ensure_ascii=False)[:200]}")


def _with_end_of_text(folder: Path, special: dict[str, int], named: object) -> dict[str, int]:
    """Return the special tokens, with tiktoken's name for the end-of-text token."""
    eos = str(named.get("content") if isinstance(named, dict) else named)
    if eos not in special:
        raise UserError(
            f"{folder} names no end-of-text token: eos_token of {_CONFIG} is {eos!r}, and the special tokens of "
            f"{_TOKENIZER} are {', '.join(sorted(special)[:8]) or 'none'}; set eos_token to the one that ends a text."
        )
    renamed = {eos: ENDOFTEXT, ENDOFTEXT: eos}
    return {renamed.get(name, name): i for name, i in special.items()}
