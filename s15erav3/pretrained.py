"""``train init_from=...``: training that begins with a model, its weights and its tokenizer that are there already."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from s15erav3.cli import typed
from s15erav3.errors import UserError
from s15erav3.files import at_home
from s15erav3.overrides import key_of, literal
from s15erav3.restore import Saved, load

OWN = ("model", "experts", "tokenizer", "data.vocab_size", "experiment")
"""Settings that come from the place."""


def adopt(cfg: DictConfig) -> Saved:
    """Load ``cfg.init_from`` and set the groups ``model``, ``experts`` and ``tokenizer`` to what it holds.

    Raises:
        UserError: the place is unusable, or a setting is given that it decides.
    """
    for override in typed(HydraConfig.get()):
        key = key_of(override)
        if any(key == own or key.startswith(f"{own}.") for own in OWN):
            raise UserError(
                f"init_from={cfg.init_from} brings its model, experts and tokenizer along, so {override} has no say; "
                "leave it out."
            )
    saved = load(str(cfg.init_from))
    values = saved.net.config.to_dict()
    with open_dict(cfg):
        for group in (cfg.model, cfg.experts):
            for key in group:
                group[key] = values[str(key)]
        cfg.tokenizer.name, cfg.tokenizer.vocab_size = saved.tokenizer.name, None
    cfg.init_from = literal(str(at_home(cfg.init_from).absolute()))
    return saved
