"""Configure Hydra's plugins before a config is composed."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from s15erav3.errors import UserError


def own_plugins(conf: Path) -> None:
    """Let our ``hydra/`` configs replace plugin configs of the same name, and allow our launcher and sweeper.

    Otherwise Hydra would merge a file such as ``hydra/launcher/joblib.yaml`` into the plugin's config of that name,
    with a deprecation warning. It would fail if that config has a defaults list, as that of hydra-optuna-sweeper does.

    Args:
        conf: the config folder.
    """
    Plugins.instance()  # loads the configs of the installed plugins
    Plugins.is_in_toplevel_plugins_module = staticmethod(_is_plugin)  # type: ignore[assignment]
    for file in (conf / "hydra").rglob("*.yaml"):
        group = ConfigStore.instance().repo
        for part in file.relative_to(conf).parent.parts:
            group = group.get(part, {})
        group.pop(file.name, None)


def _is_plugin(name: str) -> bool:
    """Whether Hydra may instantiate a plugin: Hydra's own rule, extended by our packages.

    Raises:
        UserError: the plugin is not installed.
    """
    if name.startswith("hydra_plugins.") and name not in Plugins.instance().class_name_to_class:
        raise UserError(
            f"the plugin {name}, which hydra/launcher or hydra/sweeper chose, is not installed; joblib and submitit "
            "come with: pip install 's15erav3[cluster]'."
        )
    return name.startswith(("hydra_plugins.", "hydra._internal.core_plugins.", "s15erav3.sweeps."))
