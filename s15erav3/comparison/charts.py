"""The pictures of compare.html: quality against balance, effects of settings, parallel coordinates, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from s15erav3.comparison.curves import Curve, curves
from s15erav3.comparison.differences import against, dots
from s15erav3.comparison.effects import Effect, effects
from s15erav3.comparison.groups import BPB, MAXVIO, Group
from s15erav3.comparison.overlay import Line, overlay
from s15erav3.comparison.parallel import Axis, category_axis, number_axis, parallel
from s15erav3.comparison.scatter import GREY, Point, trade_off
from s15erav3.comparison.settings import ABSENT, natural
from s15erav3.comparison.tables import Grid, number
from s15erav3.comparison.tables import text as told
from s15erav3.figures.style import CATEGORIES
from s15erav3.pages.page import Chart, Choice, Html, Section, details, table

MOST_GROUPS, MOST_CURVES, MOST_SETTINGS, MOST_VALUES = 300, 200, 12, 30
"""What one picture holds, and a reader's eye."""
OVER_TIME = {BPB: "val/bpb", MAXVIO: "MaxVio global", "balance/maxvio_batch": "MaxVio of a step"}


def trade_off_section(groups: Sequence[Group], front: Sequence[bool], shown: Grid) -> Section:
    """Bits per byte against MaxVio, and the Pareto front as a table."""
    labels, columns = shown.labels, shown.header[: shown.n_settings]
    title = "Quality against balance"
    fair = [i for i, group in enumerate(groups) if group.causal and group.spread(BPB).n]
    chosen = sorted(fair, key=lambda i: not front[i])[:MOST_GROUPS]
    both = sorted(i for i in chosen if groups[i].spread(MAXVIO).n)
    if not both:
        return Section(title, "No group has both val/bpb and MaxVio, as models with routed experts do.", [])
    best = sorted((i for i in both if front[i]), key=lambda i: groups[i].spread(BPB).median)
    number_of = {i: str(n) for n, i in enumerate(best, start=1)}
    kind = _kind([groups[i] for i in both], columns)
    points = [_point(groups[i], i, kind, number_of.get(i)) for i in both]
    dense = [(f"without MaxVio: {labels[i]}", i, groups[i].spread(BPB).median) for i in chosen if i not in both]
    text = "Lower is better in both. No group beats a star, of the Pareto front, in both."
    text += f" Colours tell {kind}." if kind else ""
    text += " Dashed: groups without routed experts, which have no MaxVio." if dense else ""
    text += f" Drawn: the front and the first {MOST_GROUPS} groups of the table." if len(chosen) < len(fair) else ""
    caption = "Medians, with bars from the lowest to the highest run and the runs as faint dots."
    rows = [
        [number_of[i], labels[i], told(BPB, groups[i].spread(BPB)), told(MAXVIO, groups[i].spread(MAXVIO))]
        for i in best
    ]
    figure = trade_off(points, "MaxVio (global)", "val/bpb", dense)
    listing = table(["", "group", BPB, MAXVIO], rows, "The Pareto front, lowest val/bpb first")
    return Section(title, text, [Chart(figure, caption, wide=True), listing])


def _point(group: Group, at: int, kind: str, label: str | None) -> Point:
    x, y = group.spread(MAXVIO), group.spread(BPB)
    runs = list(zip(group.values(MAXVIO), group.values(BPB), strict=True))
    of_kind = f"{kind}={group.settings[kind]}" if kind else ""
    return Point(group.name, at, x[:3], y[:3], of_kind, label is not None, label or "", runs)


def _kind(groups: Sequence[Group], columns: Sequence[str]) -> str:
    """The setting that colours tell: of the columns the one with most values that the eye can tell apart; empty for
    none."""
    count = {key: len({group.settings[key] for group in groups}) for key in columns}
    return max((key for key, n in count.items() if 1 < n < len(CATEGORIES)), key=lambda key: count[key], default="")


def effects_section(groups: Sequence[Group]) -> Section:
    """What each setting changes, the others being equal."""
    title = "Effect of each setting"
    settings = groups[0].settings if groups else {}
    many = {key for key in settings if len({group.settings[key] for group in groups} - {ABSENT}) > MOST_VALUES}
    found = {metric: [e for e in effects(groups, metric) if e.setting not in many] for metric in (BPB, MAXVIO)}
    names = list(dict.fromkeys(effect.setting for its in found.values() for effect in its))
    blocks: list[Choice | Chart | Html] = []
    for name in names[:MOST_SETTINGS]:
        its = {metric: [e for e in found[metric] if e.setting == name] for metric in found}
        figures: dict[tuple[str, ...], go.Figure | Html] = {
            (metric,): _dots(name, metric, some) for metric, some in its.items() if some
        }
        caption = "Left of the line: lower, and so better. A dot for each pair of groups, a diamond at the median."
        blocks.append(Choice(name, ["of"], figures, caption))
    for key in sorted(many)[: MOST_SETTINGS - len(blocks)]:
        blocks += _against(groups, key)
    if not blocks:
        return Section(title, "No two groups differ in one setting alone, so that no effect can be told.", [])
    text = (
        "Differences of medians between groups that are equal in every other setting, the setting with the largest "
        "effect first. A choice with settings of its own, such as a strategy's rate, is taken at its best by val/bpb."
    )
    if len(blocks) < len(names) + len(many):
        text += f" Drawn: {len(blocks)} of {len(names) + len(many)} settings."
    if names:
        rows = [
            [e.setting, e.value, e.reference, metric, f"{e.median:+.4g}", _between(e), str(len(e.differences))]
            for metric, its in found.items()
            for e in its
        ]
        header = ["setting", "value", "against", "metric", "median difference", "range", "pairs"]
        blocks.append(details("All effects as a table", table(header, rows, "Effects of all settings").markup))
    return Section(title, text, blocks)


def _against(groups: Sequence[Group], key: str) -> list[Choice]:
    """A setting of many numbers, of which few groups have one in common; nothing for texts."""
    try:
        values = [math.nan if (text := group.settings[key]) == ABSENT else float(text) for group in groups]
    except ValueError:
        return []
    figures: dict[tuple[str, ...], go.Figure | Html] = {}
    for metric in (BPB, MAXVIO):
        ys = [group.spread(metric).median if group.causal else math.nan for group in groups]
        if np.isfinite(ys).any():
            some = sorted(range(len(groups)), key=lambda i: math.isnan(ys[i]))[:MOST_GROUPS]
            names, xs, shown = [groups[i].name for i in some], [values[i] for i in some], [ys[i] for i in some]
            figures[metric,] = against(key, xs, shown, metric, names, some)
    caption = "A dot for each group; too many values to compare in pairs."
    return [Choice(key, ["of"], figures, caption)] if figures else []


def _between(effect: Effect) -> str:
    return f"{min(effect.differences):+.4g} to {max(effect.differences):+.4g}"


def _dots(name: str, metric: str, found: Sequence[Effect]) -> go.Figure:
    chosen = sorted(found, key=lambda effect: -abs(effect.median))[:MOST_VALUES]
    numbers = all(natural(part)[0] == 1 for effect in chosen for part in effect.value.split(" + "))
    order = sorted(chosen, key=lambda e: [natural(part) for part in e.value.split(" + ")] if numbers else [e.median])
    return dots(name, [(e.value, e.differences, e.contexts) for e in order], metric, found[0].reference)


def parallel_section(groups: Sequence[Group], columns: Sequence[str]) -> Section:
    """Settings, bits per byte and MaxVio as parallel coordinates.

    Args:
        columns: the settings that the table has columns for; what only some choices have is drawn as well.
    """
    title, fair = "Parallel coordinates", [i for i, group in enumerate(groups) if group.causal and group.spread(BPB).n]
    drawn = fair[:MOST_GROUPS]
    some = [groups[i] for i in drawn]
    settings = some[0].settings if some else {}
    varied = [key for key in settings if len({group.settings[key] for group in some}) > 1]
    varied = [key for key in varied if key in columns or any(group.settings[key] == ABSENT for group in some)]
    if not varied:
        return Section(title, "The groups that count differ in no setting.", [])
    keys = varied[:MOST_SETTINGS]
    bpb, maxvio = ([group.spread(metric).median for group in some] for metric in (BPB, MAXVIO))
    axes = [_axis(key, [group.settings[key] for group in some]) for key in keys]
    axes += [number_axis(MAXVIO, maxvio)] if np.isfinite(maxvio).any() else []
    axes += [number_axis(BPB, bpb)]
    text = "A line for each group of runs, blue where val/bpb is low, orange where it is high."
    if len(drawn) < len(fair) or len(keys) < len(varied):
        text += f" Drawn: the first {len(drawn)} groups of the table, {len(keys)} of {len(varied)} settings."
    figure = parallel(axes, bpb, [_told(group) for group in some], drawn)
    caption = "Each axis is a setting or a metric; point at a line for its settings."
    return Section(title, text, [Chart(figure, caption, wide=True)])


def _told(group: Group) -> str:
    bpb, maxvio = (number(metric, group.spread(metric).median) for metric in (BPB, MAXVIO))
    return f"{group.name} {BPB}={bpb} MaxVio={maxvio}"


def _axis(key: str, values: list[str]) -> Axis:
    order = sorted(set(values), key=natural)
    if len(order) <= MOST_VALUES:
        return category_axis(key, values, order)
    try:
        return number_axis(key, [math.nan if text == ABSENT else float(text) for text in values])
    except ValueError:
        return category_axis(key, values, order)


def curves_section(groups: Sequence[Group], labels: Sequence[str]) -> list[Section]:
    """Curves overlaid; nothing where no run has logged anything."""
    found = curves(groups, list(OVER_TIME), MOST_CURVES)
    single = sum(curve.run is not None for curve in found)
    own = _colours(found)
    options: dict[tuple[str, ...], go.Figure | Html] = {}
    for metric, name in OVER_TIME.items():
        some = [curve for curve in found if np.isfinite(curve.values.get(metric, math.nan)).any()]
        for over in ("steps", "tokens") if some else ():
            lines = [_line(curve, groups, labels, metric, over, own) for curve in some]
            for part in ("all", "second half"):
                options[name, over, part] = overlay(lines, over, name, log=metric != BPB, end=part != "all")
    if not options:
        return []
    total = sum(len(group.runs) for group in groups)
    text = "Thick: a group's median, at steps that all its runs have; thin: its runs, dotted where they do not count."
    if len({curve.group for curve in found}) > len(own):
        text += f" The first {len(own)} groups of the table have colours; point at a grey line for its name."
    if single < total:
        text += f" Drawn: {single:,} of {total:,} runs, those of the first groups of the table that have logged."
    caption = "val/bpb and MaxVio global have a point at each validation."
    choice = Choice("Over the training", ["Metric", "Over", "Part"], options, caption, wide=True)
    return [Section("Curves", text, [choice])]


def _colours(found: Sequence[Curve]) -> dict[int, str]:
    numbers = list(dict.fromkeys(curve.group for curve in found))
    usable = [colour for colour in CATEGORIES if colour != GREY]
    return dict(zip(numbers, usable, strict=False))


def _line(
    curve: Curve, groups: Sequence[Group], labels: Sequence[str], metric: str, over: str, own: dict[int, str]
) -> Line:
    group, name = groups[curve.group], labels[curve.group]
    lone = len(group.counted) < 2
    if curve.run is not None:
        name += f" seed={curve.run.config.get('seed')}" + ("" if curve.counted else f" ({curve.run.status})")
    bold = curve.group in own and (curve.run is None or (lone and curve.counted))
    xs = curve.steps if over == "steps" else curve.tokens
    dash = "solid" if curve.counted else "dot"
    return Line(name, curve.group, xs, curve.values[metric], own.get(curve.group, GREY), bold, dash)
