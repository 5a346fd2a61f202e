"""What Hydra has to know of its plugins before it composes a config."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from s15erav3.errors import UserError


def own_plugins(conf: Path) -> None:
    """Make our ``hydra/`` configs the only ones of their names, and let Hydra instantiate our launcher and sweeper.

    Hydra would merge a file such as ``hydra/launcher/joblib.yaml`` into the installed plugin's config of that name,
    with a warning of deprecation, and refuse to where that config has a defaults list,
    as that of hydra-optuna-sweeper has.

    Args:
        conf: the config folder.
    """
    Plugins.instance()  # which reads the installed plugins' configs
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
