"""The names of all metrics and what they mean."""

from s15erav3.metrics.metric import Better, Metric, Place
from s15erav3.metrics.table import METRICS, find, hover

__all__ = ["METRICS", "Better", "Metric", "Place", "find", "hover"]
