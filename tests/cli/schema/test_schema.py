"""The schema against the packaged configs, its own bounds, and what library classes refuse by themselves."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt

from s15erav3.cli.schema.balancing import BALANCING, AddOns
from s15erav3.cli.schema.check import check_made, check_part
from s15erav3.cli.schema.kinds import LARGEST
from s15erav3.cli.schema.model import Experts, Model
from s15erav3.cli.schema.search import PRUNER, SAMPLER, SWEEPER
from s15erav3.cli.schema.train import GpuQueue, Ray
from s15erav3.cli.schema.trainer import Lightning
from s15erav3.cli.schema.tree import VERBS, fields, keys, parts
from s15erav3.cli.schema.wording import alternatives, description, is_text, what
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError
from s15erav3.model import ConfigError, ModelConfig

SEARCH = {"hydra/sweeper": SWEEPER, "hydra/sweeper/sampler": SAMPLER, "hydra/sweeper/pruner": PRUNER}
OF_HYDRA = {("hydra.launcher", GpuQueue), ("hydra.launcher", Ray)} | {
    (group.replace("/", "."), settings) for group, by_target in SEARCH.items() for settings in by_target.values()
}
CLASSES = {
    (place, settings)
    for groups in VERBS.values()
    for place, group in groups.items()
    for settings in (group.settings, *group.by_target.values(), *(found for _, found in group.members.values()))
    if settings is not None
} | {("trainer", Lightning), *OF_HYDRA}
ALL = sorted(
    ((f"{place}.{key}".lstrip("."), settings, key) for place, settings in CLASSES for key in fields(settings)),
    key=lambda found: (found[0], found[1].__name__),
)
NUMBERS = [
    pytest.param(name, settings, key, kind, beside, id=f"{settings.__name__}-{name}-{kind.__name__}")
    for name, settings, key in ALL
    for kind, beside in alternatives(fields(settings)[key])
    if kind in (int, float) and not is_text(fields(settings)[key])
]


def packaged() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Verb, file and content of every packaged config, as plain YAML: a group's content below the group's name."""
    for file in sorted(conf_dir().rglob("*.yaml")):
        group = file.parent.relative_to(conf_dir()).as_posix()
        if group.startswith("hydra"):
            continue
        content = yaml.safe_load(file.read_text())
        content = {key: value for key, value in content.items() if key not in ("defaults", "hydra")}
        verb = file.stem if group == "." else "train"
        everywhere = group == "." or "@package _global_" in file.read_text()
        if not everywhere:
            for name in reversed(group.split("/")):
                content = {name: content}
        yield verb, file.relative_to(conf_dir()).as_posix(), content


def test_every_packaged_key_is_described_and_no_description_is_dead() -> None:
    """A setting without a line would go unchecked; one that no file has any more would be told in the help."""
    used: dict[type, set[str]] = defaultdict(set)
    for verb, file, content in packaged():
        if file.startswith(("experiment/", "sweep/")):  # of the groups, they say what differs
            names = {f"{top}.{key}" for top, node in content.items() if isinstance(node, dict) for key in node}
            names |= {top for top, node in content.items() if not isinstance(node, dict)}
            assert names <= keys(verb), file
            continue
        found = {place: (node, settings) for place, node, settings in parts(verb, content)}
        for top, node in content.items():
            if top in VERBS[verb] and isinstance(node, dict) and VERBS[verb][top].members:
                assert {f"{top}.{n}" for n, member in node.items() if member} <= set(found), file
            elif top in VERBS[verb] and node:
                assert top in found, (file, top)
        for place, (node, settings) in found.items():
            names = {key for key in node if not key.startswith("_")}
            names -= set(VERBS[verb]) if not place else set()
            assert names <= set(fields(settings)), (file, place)
            used[settings] |= names
    for name, launcher in (("gpu_queue", GpuQueue), ("ray", Ray)):
        queue = yaml.safe_load((conf_dir() / "hydra" / "launcher" / f"{name}.yaml").read_text())
        assert fields(launcher).keys() == {key for key in queue if not key.startswith("_")}
    for place, settings in CLASSES - {("trainer", Lightning), *OF_HYDRA}:
        common = fields(AddOns).keys() if place == "balancing" and settings is not AddOns else set()
        assert fields(settings).keys() - common == used[settings] - common, (place, settings)


@pytest.mark.parametrize("group", SEARCH)
def test_a_search_is_described_by_the_key_and_its_packaged_values_fit(group: str) -> None:
    """Hydra's own part of a config is judged by who searches."""
    files = [yaml.safe_load(file.read_text()) for file in (conf_dir() / group).glob("*.yaml")]
    assert {content["_target_"] for content in files} == SEARCH[group].keys()
    for content in files:
        given = {key: value for key, value in content.items() if not key.startswith("_") and key != "defaults"}
        assert given.keys() == fields(SEARCH[group][content["_target_"]]).keys()
        check_made(group, given | {"_target_": content["_target_"]}, SEARCH[group])


def test_every_packaged_strategy_optimizer_and_schedule_has_settings_of_its_own() -> None:
    """One that is missing in a table would be taken for the user's, and go unchecked."""
    for group in ("balancing", "optimizer", "schedule"):
        known = VERBS["train"][group].by_target.keys() - {"*"}
        files = [yaml.safe_load(file.read_text()) for file in (conf_dir() / group).glob("*.yaml")]
        assert known == {content.get(group, content)["_target_"] for content in files}


def refusal(settings: type, key: str, value: Any) -> str | None:
    try:
        check_part("group", {key: value}, settings)
    except UserError as error:
        return str(error) if error.exit_status == 2 else "not the user's"
    return None


def edges(kind: type, beside: tuple[Any, ...]) -> tuple[list[float], list[float]]:
    """Values at the bounds and just outside of them."""
    inside: list[float] = []
    outside: list[float] = []
    for bound in beside:
        if not isinstance(bound, Ge | Gt | Le | Lt):
            continue
        (at,) = vars(bound).values() if hasattr(bound, "__dict__") else [getattr(bound, bound.__slots__[0])]
        up = isinstance(bound, Le | Lt)
        step = 1 if up else -1
        beyond = at + step if kind is int else math.nextafter(at, math.inf * step)
        if beyond and abs(beyond) < sys.float_info.min:
            beyond = float(step) * sys.float_info.min
        (inside if isinstance(bound, Ge | Le) else outside).append(at)
        outside.append(beyond)
        if isinstance(bound, Gt | Lt):
            inside.append(at - step * (1 if kind is int else 1e-6))
    return inside, outside


@pytest.mark.parametrize(("name", "settings", "key", "kind", "beside"), NUMBERS)
def test_a_number_is_taken_at_its_bounds_and_refused_beyond_them(
    name: str, settings: type, key: str, kind: type, beside: tuple[Any, ...]
) -> None:
    """In one sentence that names the setting; and so is what no computer holds, or what is no number."""
    annotation = fields(settings)[key]
    kinds = [other for other, _ in alternatives(annotation)]
    words = [word for other in kinds if get_origin(other) is Literal for word in get_args(other)]
    inside, outside = edges(kind, beside)
    listed = any(get_origin(other) is list for other in kinds) and int not in kinds
    for value in inside:
        assert refusal(settings, key, [value, value] if listed else value) is None, value
    beyond = [v for v in outside if v not in words]
    for value in [*beyond, math.inf, -math.inf, math.nan, 10**23, -(10**23), 1e-320, True, "abc", 2**63, [[]], {}]:
        if (value is True and bool in kinds) or (isinstance(value, dict) and "settings" in what(annotation)):
            continue
        said = refusal(settings, key, [value, value] if listed else value)
        assert said is not None, value
        assert re.match(rf"group\.{key}(\[\d\])?=", said) and " must be " in said, said
        assert said.endswith(".") and "\n" not in said and said.count(". ") == 0, said
    if kind is int and float not in kinds:
        assert refusal(settings, key, (inside or [1])[0] + 0.5)
        assert refusal(settings, key, LARGEST) is None or any(isinstance(b, Le) for b in beside)


def test_the_bounds_are_tried_at_all() -> None:
    """A walk over the schema that finds nothing passes."""
    assert len(NUMBERS) > 90
    assert edges(int, (Ge(1), Le(5))) == ([1, 5], [0, 6])
    assert edges(float, (Gt(0), Lt(1)))[1][:2] == [0, -sys.float_info.min]


UNITS = {
    r"timeout$|max_time": "seconds",
    r"_steps$|interval": "steps",
    r"(sequence_length|max_position_embeddings|max_tokens|max_new_tokens|loss_chunk)$": "token",
    r"batch_size$": "windows",
    r"fraction$|_share$|freeze_at|final_from|final_ratio": "share",
}


@pytest.mark.parametrize(("name", "settings", "key"), ALL, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_description_is_one_line_with_its_unit(name: str, settings: type, key: str) -> None:
    """It stands in a table, to the right of name, default and range."""
    said = description(fields(settings)[key])
    assert said and said == said.strip() and "\n" not in said and len(said) <= 110 and not said.endswith("."), said
    assert said != what(fields(settings)[key])
    for pattern, unit in UNITS.items():
        if re.search(pattern, key):
            assert unit in said or key == "initializer_range", said


def made(target: str, **values: Any) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)(**values)


@pytest.mark.parametrize("target", [target for target in BALANCING if target != "*"])
def test_the_strategies_own_bounds_are_the_schemas(target: str) -> None:
    """They check for those who use them as a library."""
    needed = {"rate": 0.1, "alpha": 0.1}
    own = fields(BALANCING[target]).keys() - fields(AddOns).keys()
    for key in own:
        for kind, beside in alternatives(fields(BALANCING[target])[key]):
            inside, outside = edges(kind, beside) if kind in (int, float) else ([], [])
            rest = {name: value for name, value in needed.items() if name in own and name != key}
            for value in inside:
                made(target, **rest, **{key: value})
            for value in outside:
                if value == 1001:  # of rounds: only the program says that more are a slip of the hand
                    continue
                with pytest.raises(UserError):
                    made(target, **rest, **{key: value})


def test_the_models_own_bounds_are_the_schemas() -> None:
    """What the schema refuses the model refuses; what it takes is never refused for its type or sign."""
    sizes = dict.fromkeys(
        ("hidden_size", "intermediate_size", "kv_lora_rank", "v_head_dim", "moe_intermediate_size"), 8
    )
    sizes |= dict.fromkeys(("num_heads", "num_experts_per_tok", "vocab_size"), 1)
    sizes |= {"num_layers": 2, "qk_nope_head_dim": 8, "qk_rope_head_dim": 2, "n_routed_experts": 4}
    ModelConfig.from_dict(sizes)
    assert fields(Model).keys() | fields(Experts).keys() | {"vocab_size"} == ModelConfig.__dataclass_fields__.keys()
    for settings in (Model, Experts):
        for key, annotation in fields(settings).items():
            for kind, beside in alternatives(annotation):
                inside, outside = edges(kind, beside) if kind in (int, float) else ([], [])
                for value in [*outside, math.nan, True, "abc"] if inside or outside else ():
                    with pytest.raises(ConfigError):
                        ModelConfig.from_dict(sizes | {key: value})
                for value in inside:
                    why = ""
                    try:
                        ModelConfig.from_dict(sizes | {key: value})
                    except ConfigError as error:  # another rule's: the two do not go together
                        why = str(error)
                    assert not re.search(rf"^{key}=\S+ must be (a number|a whole|0 or|greater)", why), why


def test_the_schema_is_light() -> None:
    """Help is told by it, at once."""
    heavy = ("torch", "lightning", "hydra", "omegaconf", "pydantic", "numpy")
    script = f"import sys, s15erav3.cli.schema.check; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
