"""What Hydra has to know before it composes a sweep."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from s15erav3.errors import UserError
from s15erav3.sweeps.optuna_plugin import OptunaStudy


def register(conf: Path) -> None:
    """Make our sweeper known, and our ``hydra/`` configs the only ones of their names.

    Hydra would merge a file such as ``hydra/launcher/joblib.yaml`` into the installed plugin's config of that name,
    with a warning of deprecation, and refuse to where that config has a defaults list,
    as that of hydra-optuna-sweeper has.

    Args:
        conf: the config folder.
    """
    Plugins.instance().register(OptunaStudy)  # which has read the installed plugins' configs
    Plugins.is_in_toplevel_plugins_module = staticmethod(_is_plugin)  # type: ignore[assignment]
    for file in (conf / "hydra").rglob("*.yaml"):
        group = ConfigStore.instance().repo
        for part in file.relative_to(conf).parent.parts:
            group = group.get(part, {})
        group.pop(file.name, None)


def _is_plugin(name: str) -> bool:
    """Hydra's own rule, and ours: it instantiates plugins of these packages alone, and asks before it does.

    Raises:
        UserError: the plugin would have to be installed.
    """
    if name.startswith("hydra_plugins.") and name not in Plugins.instance().class_name_to_class:
        raise UserError(
            f"the plugin {name}, which hydra/launcher or hydra/sweeper chose, is not installed; joblib and submitit "
            "come with: pip install 's15erav3[cluster]'."
        )
    return name.startswith(("hydra_plugins.", "hydra._internal.core_plugins.", "s15erav3.sweeps."))
