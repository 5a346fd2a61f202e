"""A tokenizer as Hugging Face's ``tokenizer.json``, and such a file as a tokenizer: the same ids both ways."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, processors

from s15erav3.data.panics import build_encoding, no_panic
from s15erav3.data.tokenizer import PUBLIC, Tokenizer, byte_characters, cut_into_bytes
from s15erav3.errors import UserError
from s15erav3.interop.patterns import can_be_empty, to_oniguruma, to_tiktoken

_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, which ``transformers.AutoTokenizer`` loads.

    The loaded tokenizer gives the ids of :meth:`Tokenizer.encode` after one end-of-text token, with which our models
    begin every prompt; ``add_special_tokens=False`` leaves it out. The exception are words of more than
    :data:`~s15erav3.data.tokenizer.LONGEST_WORD` characters, such as a million blanks: ours are cut after each so
    many, theirs are not, so the tokens beside a cut may be others, which spell the same text. Names of special tokens
    in a text are text. Its length is ``tokenizer.n_vocab``: ids that the encoding leaves unused (cl100k_base and
    o200k_base have some between their special tokens) are special tokens ``<|unused_ID|>``, since tokenizers numbers
    added tokens without gaps.

    Args:
        tokenizer: any whose ordinary ids come first, without a gap, and whose pattern matches every character: as all
            that this package makes and reads.
        folder: made if it is not there; files of the two names are replaced.
        max_length: tokens that the model can take, ``model_max_length``.

    Raises:
        UserError: the ids or the pattern are of a kind that ``tokenizer.json`` cannot express, or the folder is not
            writable.
    """
    with no_panic(f"tokenizer {tokenizer.name} cannot be written as {_TOKENIZER}", "take another tokenizer"):
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
        # As transformers 5 has it anyway; 4 cleans up, and adds token_type_ids, which DeepseekV3 refuses.
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        # What read_tokenizer cannot see in tokenizer.json; transformers hands on keys that it does not know.
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
    # tiktoken looks for a whole word before it merges, hence ignore_merges.
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
    """The byte-level BPE of a folder with ``tokenizer.json``, with the ids that transformers gives ordinary text: all
    but words of more than :data:`~s15erav3.data.tokenizer.LONGEST_WORD` characters, which are cut.

    What :func:`write_tokenizer` wrote comes back with its fingerprint; its name too, except that public ones get a
    ``hf_`` in front: :meth:`Tokenizer.state` trusts these names, and a file may not hold what its name says.

    Args:
        folder: also read are ``eos_token`` and our own keys of its ``tokenizer_config.json``, if there is one. The
            token that ends a text is called ``<|endoftext|>`` in the result, whatever its name, and changes names with
            another token of that name. Which tokens the file would put around a text is not kept.

    Raises:
        UserError: there is no such file, or tiktoken cannot express it exactly.
    """
    file = folder / _TOKENIZER
    if not file.is_file():
        raise UserError(f"{folder} has no {_TOKENIZER}, which a tokenizer is read from; name a folder that has one.")
    try:
        with no_panic(f"{file} cannot be read", "fetch it again, or name another folder"):
            loaded = HFTokenizer.from_str(file.read_text(encoding="utf-8"))
    except UserError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{file} is not a file of the tokenizers library ({error}); fetch it again, or name another folder."
        ) from error
    data = json.loads(loaded.to_str())  # of any age on disk, here with every key and in today's form
    config = read_object(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}

    model, added = data["model"], data["added_tokens"]
    if model["type"] != "BPE" or _kind(data["decoder"]) != "ByteLevel":
        raise _unlike(file, f"has a {model['type']} model and a decoder of type {_kind(data['decoder'])}")
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise _unlike(file, "drops merges at random or marks parts of words")
    if data["normalizer"] is not None:
        raise _unlike(file, f"changes text by a normalizer of type {_kind(data['normalizer'])}")
    if ordinary := [token["content"] for token in added if not token["special"]]:
        raise _unlike(file, f"looks for the added token {ordinary[0]!r} before it cuts words")

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
        raise _unlike(file, f"cuts words by a pattern that is none to tiktoken ({error})") from error
    return Tokenizer(encoding)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that each token is merged from, in the order of ranks, without tokens that no merging arrives at.

    tiktoken merges the neighbours whose union has the lowest rank; tokenizers goes by a list of pairs. One pair a token
    makes both the same: until something crosses the ends of a piece of text, what happens inside depends on nothing
    outside, so its last two parts are the same wherever it occurs, and the same as when it stands alone.
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
    """Each token in the characters that stand for its bytes."""
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
    """The JSON object in a file that is there.

    Raises:
        UserError: it holds something else.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not JSON ({error}); fetch it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds no JSON object but a {type(values).__name__}; fetch it again.")
    return values


def _read_ranks(file: Path, model: dict[str, Any], special: dict[str, int]) -> dict[bytes, int]:
    """Bytes and id of each ordinary token, if merging by id is what the model's merges do."""
    ids = {token: i for token, i in model["vocab"].items() if token not in special}
    byte_of = {character: byte for byte, character in byte_characters().items()}
    try:
        ranks = {bytes(byte_of[c] for c in token): i for token, i in sorted(ids.items(), key=lambda item: item[1])}
    except KeyError as error:
        raise _unlike(file, f"has a token with {error} in it, no character of byte-level BPE") from error
    if list(ranks.values()) != list(range(len(ranks))):
        missing = min(set(range(len(ranks))) - set(ranks.values()))
        raise _unlike(file, f"has ordinary tokens beyond the id {missing}, which is none")
    if not {bytes([byte]) for byte in range(256)} <= ranks.keys():
        raise _unlike(file, "leaves out some of the 256 bytes")

    spelled = _spelled(ranks)
    needed = {(spelled[left], spelled[right]) for left, right in _merges(ranks)}
    learned = [(left, right) for left, right in model["merges"]]
    last = 0
    for left, right in learned:
        if ids.get(left + right, -1) < last:
            raise _unlike(file, f"merges {left!r} and {right!r} in another place than the id of their union says")
        last = ids[left + right]
    # More pairs than needed are no harm: they never meet.
    if lacking := needed - set(learned):
        raise _unlike(file, "has a token that is {!r} and {!r}, and does not merge them".format(*min(lacking)))
    if not model["ignore_merges"] and len(needed) < len(ranks) - 256:
        raise _unlike(file, "never arrives at some tokens by merging, and does not look for them as whole words")
    return ranks


def _read_pattern(file: Path, cutting: dict[str, Any] | None, written: object) -> str:
    """The pattern of a pre-tokenizer, or the one it was ``written`` from, if that is so."""
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
            if can_be_empty(regex, str(file)):  # tiktoken panics there
                raise _unlike(file, "cuts words by a pattern that can match nothing")
            return to_tiktoken(regex, str(file))
    raise _unlike(file, f"cuts words by the pre-tokenizer {json.dumps(cutting, ensure_ascii=False)[:200]}")


def _with_end_of_text(folder: Path, special: dict[str, int], named: object) -> dict[str, int]:
    """The special tokens, with tiktoken's name for the one that ends a text."""
    eos = str(named.get("content") if isinstance(named, dict) else named)
    if eos not in special:
        raise UserError(
            f"{folder} names no end-of-text token: eos_token of {_CONFIG} is {eos!r}, and the special tokens of "
            f"{_TOKENIZER} are {', '.join(sorted(special)[:8]) or 'none'}; set eos_token to the one that ends a text."
        )
    renamed = {eos: ENDOFTEXT, ENDOFTEXT: eos}
    return {renamed.get(name, name): i for name, i in special.items()}
