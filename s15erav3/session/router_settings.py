"""Report which settings of ``experts`` the choice of ``balancing`` changes, so that none changes silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from s15erav3.balancing.base import Balancer
from s15erav3.cli.trust import conf_dir


def decided(cfg: DictConfig, balancer: Balancer) -> str:
    """Text such as ``sets experts.num_experts_per_tok=1 (e16: 3), ...``.

    It lists the settings for which the strategy's config file overrides the choice of ``experts``; empty if none.
    """
    choice, own = _chosen()
    told = []
    for name, needed in balancer.router_settings.items():
        if cfg.experts.get(name) != needed or own.get(name) == needed:  # overridden by the user, or unchanged
            continue
        told.append(f"experts.{name}={_text(needed)}" + (f" ({choice}: {_text(own[name])})" if name in own else ""))
    return f"sets {', '.join(told)}" if told else ""


def _chosen() -> tuple[str, dict[str, Any]]:
    """The choice of the group ``experts`` and its settings, including those common to all choices.

    Both are empty for a resumed run, whose saved config has no choices.
    """
    runtime = HydraConfig.get().runtime
    choice = runtime.choices.get("experts")
    for source in runtime.config_sources:
        file = Path(source.path) / "experts" / f"{choice}.yaml"
        if source.schema == "file" and file.is_file():
            common = OmegaConf.select(OmegaConf.load(conf_dir() / "train.yaml"), "experts")
            content = OmegaConf.to_container(OmegaConf.merge(common, OmegaConf.load(file)))
            return str(choice), {str(k): v for k, v in content.items()} if isinstance(content, dict) else {}
    return "", {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
