"""Text coloured by expert: passages token by token, for a selected layer and rank among the token's experts.

Shapes: N tokens of all passages together, L MoE layers, E routed experts, K the maximum number of experts per token.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from s15erav3.analysis.trace import NOBODY, Floats, Ints, Passage, Trace
from s15erav3.data.labels import Domain, token_name
from s15erav3.data.tokenizer import Tokenizer
from s15erav3.data.tokens import Tokens
from s15erav3.figures.style import expert_colour
from s15erav3.pages.page import Html, Section, script_json

HERE = Path(__file__).parent
FINEST = 65535
"""Scores and weights are encoded as fractions of the maximum, in steps of 1 / FINEST."""

SKELETON = """<div class="coloured">
<script type="application/json">{data}</script>
<div class="controls">
  <label>Layer <select name="layer"></select></label>
  <label>Choice <select name="choice"></select></label>
  <label><input type="checkbox" name="numbers" checked> Numbers</label>
  <label><input type="checkbox" name="strength"> Strength by weight</label>
</div>
<div class="experts" role="group" aria-label="Experts of the layer; press one to see its tokens alone"></div>
<p class="told" role="status"></p>
<div class="passages"></div>
<div class="tip" role="tooltip" hidden></div>
</div>"""


class Widget(NamedTuple):
    """A page section with its style and script, which serve any number of such sections."""

    section: Section
    style: str
    """CSS that uses the page's variables."""
    script: str
    """JavaScript that runs after the page's own."""


def commentary(trace: Trace, tokens: Tokens, labels: dict[str, Domain], tokenizer: Tokenizer) -> Widget:
    """Build the widget that shows the passages of a trace.

    Args:
        tokens, labels: tokens and labels of the traced part, (length of the part,).
        tokenizer: tokenizer of the net.
    """
    at = np.concatenate([np.arange(start, stop) for start, stop in trace.passages])
    ids = tokens[at].tolist()
    texts = [text for start, stop in trace.passages for text in _texts(tokens[start:stop].tolist(), tokenizer)]
    greatest = [round(float(values.max()) or 1.0, 6) for values in (trace.scores, trace.weights)]
    n_experts = trace.biases.shape[1]
    part = labels.get("part")
    data = {
        "layers": trace.layers,
        "experts": n_experts,
        "width": trace.experts.shape[2],
        "colours": [expert_colour(expert) for expert in range(n_experts)],
        "biases": np.round(trace.biases.astype(float), 4).tolist(),
        "titles": [_title(number, passage, labels) for number, passage in enumerate(trace.passages, start=1)],
        "lengths": [passage.stop - passage.start for passage in trace.passages],
        "texts": texts,
        "bytes": {
            i: token_name(tokenizer, token) for i, token in enumerate(ids) if _within_character(token, tokenizer)
        },
        "parts": part.names if part else [],
        "part": part.codes[at].tolist() if part else [],
        "chosen": _ids(trace.experts, n_experts),
        "alone": _ids(trace.without_bias, n_experts),
        "greatest": greatest,
        "scores": _shares(trace.scores, greatest[0]),
        "weights": _shares(trace.weights, greatest[1]),
    }
    markup = SKELETON.format(data=script_json(data))
    section = Section("Text coloured by expert", _explanation(trace), [Html(markup)])
    return Widget(section, (HERE / "commentary.css").read_text(), (HERE / "commentary.js").read_text())


def _explanation(trace: Trace) -> str:
    text = (
        "Held-out text, token by token; colour and number are those of an expert that handles the token. Point at a "
        "token, tap it, or reach it with Tab and the arrow keys for its scores; press an expert to see its tokens "
        f"alone. Each passage was read with the text before it, in windows of {trace.length} tokens as in training."
    )
    if trace.method == "threshold":
        return text + " Here a token uses the experts whose thresholds it exceeds: several, or none."
    if trace.method == "zero_experts":
        return text + " Here a token may have few experts or none: zero experts, which compute nothing, are not shown."
    if trace.method == "expert_choice":
        return text + (
            " Here experts choose tokens, within a window that ends with the shown text, so a token may have many "
            "experts or none."
        )
    text += " A token's experts are ordered by affinity s, and so by gate weight."
    if trace.biases.any():
        text += (
            " A star and a dashed line mark an expert that is chosen because of its bias, and would not be by s alone."
        )
    return text


def _title(number: int, passage: Passage, labels: dict[str, Domain]) -> str:
    if "part" not in labels:
        return f"Passage {number}"
    said = {name: domain.names[domain.codes[passage.start]] for name, domain in labels.items() if name != "token"}
    return f"{said['event']}, {said['bowler']} to {said['batter']} ({said['team']}, {said['phase']})"


def _texts(ids: list[int], tokenizer: Tokenizer) -> list[str]:
    """Return the display text of each token.

    A character split over several tokens is shown at the first of them, and the others are empty; bytes that form no
    character are shown as hexadecimal digits.
    """
    pieces = [tokenizer.bytes_of(token) for token in ids]
    owners = np.repeat(np.arange(len(ids)), [len(piece) for piece in pieces])
    texts = ["" if piece else token_name(tokenizer, token) for piece, token in zip(pieces, ids, strict=True)]
    offset = 0
    for character in b"".join(pieces).decode("utf-8", "surrogateescape"):
        raw = character.encode("utf-8", "surrogateescape")
        lone = "\udc80" <= character <= "\udcff"
        texts[owners[offset]] += f"\\x{raw[0]:02x}" if lone else character
        offset += len(raw)
    return texts


def _within_character(token: int, tokenizer: Tokenizer) -> bool:
    """Whether a token starts or ends within a character, so that its text does not determine its bytes."""
    try:
        tokenizer.bytes_of(token).decode()
    except UnicodeDecodeError:
        return True
    return False


def _ids(experts: Ints, n_experts: int) -> str:
    """Encode ids in Base64 as bytes, or as pairs of bytes if there are too many experts; E means no expert."""
    kind = "<u1" if n_experts < 256 else "<u2"
    return _base64(np.where(experts == NOBODY, n_experts, experts).astype(kind))


def _shares(values: Floats, greatest: float) -> str:
    return _base64(np.round(values.astype(float) / greatest * FINEST).clip(0, FINEST).astype("<u2"))


def _base64(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
