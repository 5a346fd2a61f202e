"""Map each part of a verb's config to its schema class, and describe each group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from typing_extensions import get_type_hints

from s15erav3.cli.schema import train, verbs
from s15erav3.cli.schema.balancing import BALANCING, LOSSES
from s15erav3.cli.schema.data import Data, TokenizerChoice
from s15erav3.cli.schema.model import Experts, Model, RopeScaling
from s15erav3.cli.schema.optimizer import OPTIMIZER, SCHEDULE, MultiToken
from s15erav3.cli.schema.trainer import Reader, Trainer
from s15erav3.cli.schema.watching import CALLBACKS, LOGGERS


class Group(NamedTuple):
    """A part of a config."""

    says: str
    """One-line description of the group."""
    settings: type | None = None
    """The class of its settings."""
    by_target: Mapping[str, type] = {}
    """The class by the group's ``_target_``; ``*`` matches any other. Without ``*``, other targets are not checked."""
    members: Mapping[str, tuple[str, type]] = {}
    """Members of a group with several objects to instantiate: name, ``_target_``, class."""

    def of(self, node: Mapping[Any, Any]) -> type | None:
        """The class for the settings ``node``; ``None`` for an external target."""
        target = str(node.get("_target_", ""))
        return self.settings or self.by_target.get(target) or self.by_target.get("*")


TRAIN = {
    "": Group("settings of no group", train.Train),
    "experts": Group("dense, or how many experts and how a token chooses among them", Experts),
    "model": Group("size: widths, depth, heads, latent ranks", Model),
    "model.rope_scaling": Group("extension of the context by YaRN", RopeScaling),
    "balancing": Group("how the load of the experts is balanced", by_target=BALANCING),
    "balancing.loss": Group("losses in addition to the strategy's; also a list, [aux,simbal]", members=LOSSES),
    "optimizer": Group("what updates the weights", by_target=OPTIMIZER),
    "schedule": Group("the learning rate over training", by_target=SCHEDULE),
    "data": Group("text, split and batches", Data),
    "tokenizer": Group("how text becomes tokens", TokenizerChoice),
    "trainer": Group("device, precision, length, accumulation, clipping", Trainer),
    "logger": Group("where metrics are logged; also a list, [csv,tensorboard], or none, []", members=LOGGERS),
    "callbacks": Group("metrics, samples and checkpoints during training", members=CALLBACKS),
    "mtp": Group("the loss of multi-token prediction", MultiToken),
    "sweep": Group("with -m: a named set of runs, and how it runs", train.Sweep),
}
VERBS: dict[str, dict[str, Group]] = {
    "train": TRAIN,
    "evaluate": {
        "": Group("settings of no group", verbs.Evaluate),
        "data": Group("the text to measure on", verbs.EvaluateData),
        "trainer": Group("device and precision", Reader),
    },
    "sample": {"": Group("settings of no group", verbs.Sample), "trainer": Group("device and precision", Reader)},
    "report": {"": Group("settings of no group", verbs.Report), "trainer": Group("device and precision", Reader)},
    "compare": {"": Group("settings of no group", verbs.Compare)},
    "export": {"": Group("settings of no group", verbs.Export)},
    "doctor": {"": Group("settings of no group", verbs.Doctor)},
}
"""Groups by their dotted path in the config of each verb."""


@cache
def fields(settings: type) -> dict[str, Any]:
    """Names and annotations of a class of settings."""
    return get_type_hints(settings, include_extras=True)


def parts(verb: str, config: Mapping[Any, Any]) -> Iterator[tuple[str, Any, type]]:
    """Every described part of a config: dotted path, content, class. Absent parts are skipped.

    Args:
        config: plain or OmegaConf containers.
    """
    for place, group in VERBS[verb].items():
        node: Any = config
        for key in place.split(".") if place else ():
            node = node.get(key) if isinstance(node, Mapping) else None
        if node is None or (place == "model.rope_scaling" and not isinstance(node, Mapping)):
            continue
        if not isinstance(node, Mapping):
            yield place, node, dict
            continue
        for name in node if group.members else ():
            member = node.get(name)
            classes = {target: settings for target, settings in group.members.values() if target}
            settings = None
            if isinstance(member, Mapping):
                target = str(member.get("_target_", ""))
                settings = classes.get(target) if target else group.members.get(str(name), ("", None))[1]
            if settings is not None:
                yield f"{place}.{name}", member, settings
        if (found := group.of(node)) is not None:
            yield place, node, found


def keys(verb: str) -> set[str]:
    """Every dotted key that a config of ``verb`` may have."""
    found = set(VERBS[verb])
    for place, group in VERBS[verb].items():
        prefix = f"{place}." if place else ""
        classes = [*([group.settings] if group.settings else []), *group.by_target.values()]
        found |= {f"{prefix}{key}" for settings in classes for key in fields(settings)}
        for name, (_, settings) in group.members.items():
            found |= {f"{prefix}{name}", *(f"{prefix}{name}.{key}" for key in fields(settings))}
    return found - {""}
