"""The model. Depends on torch only, so it can be reused on its own."""

from s15erav3.model.checks import ConfigError
from s15erav3.model.config import ModelConfig
from s15erav3.model.counts import Counts, count_parameters, training_flops_per_token
from s15erav3.model.experts import RoutedExperts
from s15erav3.model.router import Router, Routing
from s15erav3.model.selection import TrainingRules
from s15erav3.model.transformer import Output, Transformer, routers

__all__ = [
    "ConfigError",
    "Counts",
    "ModelConfig",
    "Output",
    "RoutedExperts",
    "Router",
    "Routing",
    "TrainingRules",
    "Transformer",
    "count_parameters",
    "routers",
    "training_flops_per_token",
]
