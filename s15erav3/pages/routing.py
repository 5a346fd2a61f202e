"""Report sections on expert specialisation and co-activation of a trained model.

Shapes: L MoE layers, V values of a domain, E routed experts.
"""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from s15erav3.analysis.collect import ELSEWHERE, VOCABULARY, Counts, Routed
from s15erav3.analysis.specialisation import mutual_information, specialists
from s15erav3.balancing.routing_diagnostics import coactivation_share
from s15erav3.data.labels import NO_TEXT
from s15erav3.figures.heatmap import Floats, fair_shares
from s15erav3.figures.specialisation import coactivation_heatmap, information_by_layer, lift, lift_heatmap
from s15erav3.figures.style import expert_names, layer_names
from s15erav3.pages.page import Chart, Choice, Html, Section, table

LEAST = 100
"""Minimum expected slots of a value at an expert for its preference to be shown: noise is then about 10 %."""
NUMBERS = 400_000
"""Maximum cells of expert x expert heatmaps embedded in a page; with hundreds of experts fewer layers are shown."""
LEAST_TOKENS = 8
"""``LEAST`` for single tokens, which are rarer: they must also be ``BEYOND`` standard deviations above chance."""
BEYOND = 5
STRONG = 1.2
BY = dict(zip(VOCABULARY, ("input token", "next token", "predicted token"), strict=True))


def specialisation_section(routed: Routed, about: str) -> Section:
    """Build the section: mutual information, strongest specialists, values x experts, vocabulary of each expert."""
    found = {name: mutual_information(counts.slots) for name, counts in routed.domains.items()}
    blocks: list[Chart | Choice | Html] = [
        Chart(
            information_by_layer(
                {name: one.corrected.numpy() for name, one in found.items()},
                routed.layers,
                "Information of an expert about its token",
                "bits",
            ),
            "Mutual information of expert and value, corrected for chance by Miller and Madow's term.",
        ),
        Chart(
            information_by_layer(
                {name: 100 * one.share.numpy() for name, one in found.items()},
                routed.layers,
                "The same as a share of the maximum",
                "% of the value's entropy",
            ),
            "At 100 % the expert determines the value.",
        ),
        table(
            ("domain", "value", "layer", "expert", "times its share", "assignments"),
            strongest(routed),
            f"The strongest specialists: three of each domain, where an even share is {LEAST} assignments or more",
        ),
    ]
    told = sorted(found, key=lambda name: -float(found[name].share.mean()))
    shown = {name: without_ends(routed.domains[name]) for name in told if name not in VOCABULARY}
    shown = {name: counts for name, counts in shown.items() if len(counts.values) > 1}
    kept = layers_shown(routed)
    names = dict(zip(kept, layer_names([routed.layers[i] for i in kept]), strict=True))
    if shown:
        options: dict[tuple[str, ...], go.Figure] = {
            (domain, name): lift_heatmap(counts.slots[i].numpy(), counts.values, "Share of each expert by value")
            for domain, counts in shown.items()
            for i, name in names.items()
        }
        caption = (
            "Orange: the expert takes more of this value than of the text, blue: less; the most frequent values first."
        )
        blocks.append(Choice("Share of each expert by value", ("domain", "layer"), options, caption, wide=True))
    words: dict[tuple[str, ...], Html] = {
        (BY[domain], name): vocabulary(routed, i, domain)
        for domain in VOCABULARY
        if domain in routed.domains
        for i, name in names.items()
    }
    caption = (
        "The tokens that each expert takes most over its share: how many times the share, and how many assignments."
        f" Left out: tokens where an even share is less than {LEAST_TOKENS} assignments, or chance a likely reason."
    )
    blocks.append(Choice("The vocabulary of each expert", ("by", "layer"), words, caption, wide=True))
    return Section("Specialisation", about, blocks, folded=True)


def layers_shown(routed: Routed) -> list[int]:
    """Return evenly spaced indices of the layers that fit in a page."""
    number = len(routed.layers)
    room = max(4, NUMBERS // routed.loads.shape[-1] ** 2)
    kept: list[int] = np.unique(np.linspace(0, number - 1, min(number, room)).round().astype(int)).tolist()
    return kept


def without_ends(counts: Counts) -> Counts:
    """Return a domain without end-of-text, which has none of its values and is routed unlike any of them."""
    kept = [i for i, value in enumerate(counts.values) if value != NO_TEXT]
    return Counts([counts.values[i] for i in kept], counts.slots[:, kept], counts.tokens[kept])


def strongest(routed: Routed, each: int = 3) -> list[list[str]]:
    """Return table rows of the strongest (value, layer, expert) of each domain."""
    return [
        [s.domain, s.value, f"L{s.layer:02d}", f"E{s.expert:02d}", f"{s.times:.1f}", f"{s.assignments:,}"]
        for s in specialists(routed, each=each, least=LEAST)
    ]


def vocabulary(routed: Routed, layer: int, domain: str = "token", each: int = 8) -> Html:
    """Build a table of the experts of the layer at index ``layer`` and the tokens that each prefers most.

    Args:
        domain: one of ``VOCABULARY``.
    """
    counts = routed.domains[domain]
    slots = counts.slots[layer].numpy()
    times, expected = lift(slots)
    clear = (expected >= LEAST_TOKENS) & (slots - expected >= BEYOND * np.sqrt(expected))
    clear[[value == ELSEWHERE for value in counts.values]] = False
    times = np.where(clear, times, 0)
    loads: Floats = fair_shares(routed.loads[layer].numpy())
    rows = []
    for expert, name in enumerate(expert_names(len(loads))):
        best = np.argsort(-times[:, expert], kind="stable")[:each]
        told = " ".join(
            f'<span class="token"><code>{escape(counts.values[value])}</code> {times[value, expert]:.1f} '
            f"<small>{slots[value, expert]:,}</small></span>"
            for value in best
            if times[value, expert] >= STRONG
        )
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="number">{loads[expert]:.2f}</td>'
            f'<td class="words">{told or "none stands out"}</td></tr>'
        )
    head = '<thead><tr><th scope="col">expert</th><th scope="col">load</th><th scope="col">tokens</th></tr></thead>'
    return Html(
        '<div class="scroll" tabindex="0" role="region" aria-label="The tokens of each expert">'
        f"<table>{head}<tbody>{''.join(rows)}</tbody></table></div>"
    )


def coactivation_section(routed: Routed, about: str) -> Section:
    """Build the section: experts x experts of each layer."""
    even = (routed.top_k - 1) / max(1, routed.loads.shape[-1] - 1) if routed.top_k is not None else None
    if routed.top_k == 1:
        return Section("Co-activation", "A token has one expert: none is used together with another.", [], folded=True)
    kept = layers_shown(routed)
    shares = coactivation_share(routed.coactivation[kept]).numpy()
    title = "Which experts share their tokens"
    options: dict[tuple[str, ...], go.Figure] = {
        (name,): coactivation_heatmap(share, even, title)
        for name, share in zip(layer_names([routed.layers[i] for i in kept]), shares, strict=True)
    }
    middle = (
        f"If experts were chosen independently, each other expert would share {even:.1%} of an expert's tokens."
        if even is not None
        else "The middle of the colours is the mean of the layer."
    )
    return Section("Co-activation", about, [Choice(title, ("layer",), options, middle, wide=True)], folded=True)
