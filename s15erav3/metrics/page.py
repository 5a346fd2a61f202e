"""Generate docs/metrics.md from the table: ``python -m s15erav3.metrics.page > docs/metrics.md``."""

from __future__ import annotations

from s15erav3.metrics.metric import PLACES, Metric
from s15erav3.metrics.table import SECTIONS

HEAD = """\
# Metrics

One name has one meaning, in every file, logger and page. `_global` is a whole text; without it, a figure of the loads
is one optimizer step's.
A *load* is the number of assignments of tokens to an expert; its *fair share* is the mean load of its layer. The *bias
update* is what one optimizer step adds to an expert's bias; `balancing.rate` is its size, or a factor of it.

This page is made from `s15erav3/metrics/table.py` by `python -m s15erav3.metrics.page > docs/metrics.md`.

Where metrics are logged:

"""


def markdown() -> str:
    """Return the whole page."""
    text = HEAD + "".join(f"- **{place}**: {said}\n" for place, said in PLACES.items())
    for title, metrics in SECTIONS.items():
        text += f"\n## {title}\n\n| name | unit | better | where | what it is |\n| --- | --- | --- | --- | --- |\n"
        text += "".join(map(row, metrics))
    return text


def row(metric: Metric) -> str:
    """Return the metric's row of the table."""
    unit = "" if metric.unit == "1" else metric.unit
    better = "" if metric.better == "neither" else metric.better
    return f"| `{metric.name}` | {unit} | {better} | {', '.join(metric.where)} | {metric.says} |\n"


if __name__ == "__main__":
    print(markdown(), end="")
