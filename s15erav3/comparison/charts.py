"""The charts of compare.html: quality against balance, effects of settings, parallel coordinates, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from s15erav3.comparison.colours import Colouring, default_text
from s15erav3.comparison.curves import Curve, curves
from s15erav3.comparison.differences import against, dots
from s15erav3.comparison.effects import Effect, effects
from s15erav3.comparison.groups import BPB, MAXVIO, Group
from s15erav3.comparison.overlay import Line, overlay
from s15erav3.comparison.parallel import Axis, category_axis, number_axis, parallel
from s15erav3.comparison.scatter import Point, trade_off
from s15erav3.comparison.settings import ABSENT, natural
from s15erav3.comparison.tables import Grid, number
from s15erav3.comparison.tables import text as told
from s15erav3.figures.ruler import RULERS
from s15erav3.pages.page import Chart, Choice, Html, Section, details, table

MOST_GROUPS, MOST_CURVES, MOST_SETTINGS, MOST_VALUES = 300, 200, 12, 30
"""Limits that keep a chart readable."""
OVER_TIME = {BPB: "val/bpb", MAXVIO: "MaxVio global", "balance/maxvio_batch": "MaxVio of a step"}


def trade_off_section(groups: Sequence[Group], front: Sequence[bool], shown: Grid, colours: Colouring) -> Section:
    """Plot bits per byte against MaxVio, with the Pareto front as a table."""
    labels, title = shown.labels, "Quality against balance"
    fair = [i for i, group in enumerate(groups) if group.causal and group.spread(BPB).n]
    chosen = sorted(fair, key=lambda i: not front[i])[:MOST_GROUPS]
    both = sorted(i for i in chosen if groups[i].spread(MAXVIO).n)
    if not both:
        return Section(title, "No group has both val/bpb and MaxVio, as models with routed experts do.", [])
    best = sorted((i for i in both if front[i]), key=lambda i: groups[i].spread(BPB).median)
    number_of = {i: str(n) for n, i in enumerate(best, start=1)}
    points = [_point(groups[i], i, colours.kinds[i], number_of.get(i)) for i in both]
    dense = [(f"without MaxVio: {labels[i]}", i, groups[i].spread(BPB).median) for i in chosen if i not in both]
    text = f"Lower is better in both. Stars are the Pareto front: no group is better in both. {default_text(colours)}"
    text += " Dashed: groups without routed experts, which have no MaxVio." if dense else ""
    text += f" Drawn: the front and the first {MOST_GROUPS} groups of the table." if len(chosen) < len(fair) else ""
    caption = "Medians, with bars from the lowest to the highest run and the runs as rings."
    rows = [
        [number_of[i], labels[i], told(BPB, groups[i].spread(BPB)), told(MAXVIO, groups[i].spread(MAXVIO))]
        for i in best
    ]
    figure = trade_off(points, "MaxVio (global)", "val/bpb", colours.legend, dense)
    listing = table(["", "group", BPB, MAXVIO], rows, "The Pareto front, lowest val/bpb first")
    return Section(title, text, [Chart(figure, caption, wide=True), listing])


def _point(group: Group, at: int, kind: int, label: str | None) -> Point:
    x, y = group.spread(MAXVIO), group.spread(BPB)
    runs = list(zip(group.values(MAXVIO), group.values(BPB), strict=True))
    return Point(group.name, at, x[:3], y[:3], kind, label is not None, label or "", runs)


def effects_section(groups: Sequence[Group]) -> Section:
    """Plot the effect of each setting with all others equal."""
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
        caption = "Left of the line: lower, which is better. A ring for each pair of groups, a diamond at the median."
        blocks.append(Choice(name, ["of"], figures, caption))
    for key in sorted(many)[: MOST_SETTINGS - len(blocks)]:
        blocks += _against(groups, key)
    if not blocks:
        return Section(title, "No two groups differ in exactly one setting, so no effect can be estimated.", [])
    text = (
        "Differences of medians between groups that are equal in every other setting, the setting with the largest "
        "effect first. A choice with settings of its own, such as a strategy's rate, is shown at its best val/bpb."
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
    """Plot a setting with many numeric values, few of them shared by groups; nothing for texts."""
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
    """Plot settings, bits per byte and MaxVio as parallel coordinates.

    Args:
        columns: settings with a column in the table; settings that only some choices have are drawn too.
    """
    title, fair = "Parallel coordinates", [i for i, group in enumerate(groups) if group.causal and group.spread(BPB).n]
    drawn = fair[:MOST_GROUPS]
    some = [groups[i] for i in drawn]
    settings = some[0].settings if some else {}
    varied = [key for key in settings if len({group.settings[key] for group in some}) > 1]
    varied = [key for key in varied if key in columns or any(group.settings[key] == ABSENT for group in some)]
    if not varied:
        return Section(title, "No setting differs between the groups that count.", [])
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


def curves_section(groups: Sequence[Group], labels: Sequence[str], colours: Colouring) -> list[Section]:
    """Plot overlaid curves; nothing if no run has logged metrics."""
    found = curves(groups, list(OVER_TIME), MOST_CURVES)
    single = sum(curve.run is not None for curve in found)
    rulers = [name for name in RULERS if any(name in curve.spent for curve in found)]
    options: dict[tuple[str, ...], go.Figure | Html] = {}
    for metric, name in OVER_TIME.items():
        some = [curve for curve in found if np.isfinite(curve.values.get(metric, math.nan)).any()]
        for over in rulers if some else ():
            lines = [_line(curve, groups, labels, metric, over, colours) for curve in some if over in curve.spent]
            for part in ("all", "second half"):
                options[name, over, part] = overlay(
                    lines, over, name, colours.legend, log=metric != BPB, end=part != "all"
                )
    if not options:
        return []
    total = sum(len(group.runs) for group in groups)
    text = "Thick: a group's median, at steps that all its runs have; thin: its runs, dotted where they do not count."
    text += f" {default_text(colours)} Point at a line for its name."
    if single < total:
        text += f" Drawn: {single:,} of {total:,} runs, those of the first groups of the table that have logged."
    caption = "val/bpb and MaxVio global have a point at each validation. Training time is without validation."
    choice = Choice("Over the training", ["Metric", "Over", "Part"], options, caption, wide=True)
    return [Section("Curves", text, [choice])]


def _line(
    curve: Curve, groups: Sequence[Group], labels: Sequence[str], metric: str, over: str, colours: Colouring
) -> Line:
    group, name = groups[curve.group], labels[curve.group]
    lone = len(group.counted) < 2
    if curve.run is not None:
        name += f" seed={curve.run.config.get('seed')}" + ("" if curve.counted else f" ({curve.run.status})")
    bold = curve.run is None or (lone and curve.counted)
    dash = "solid" if curve.counted else "dot"
    return Line(name, curve.group, curve.spent[over], curve.values[metric], colours.kinds[curve.group], bold, dash)
