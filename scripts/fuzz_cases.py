"""What the fuzzer tries, drawn by Hypothesis: settings, texts, corpora, damaged folders, folders with code in them."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.hydra_setup import conf_dir

SMALL = [
    *("model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.kv_lora_rank=16"),
    *("model.qk_nope_head_dim=8", "model.qk_rope_head_dim=8", "model.v_head_dim=16", "model.intermediate_size=96"),
    *("data.vocab_size=300", "data.sequence_length=16", "data.batch_size=2", "data.eval_batch_size=64"),
    *("trainer.accelerator=cpu", "trainer.max_steps=2", "callbacks.samples.max_new_tokens=2", "report=false"),
]
VERBS = ("evaluate", "sample", "report", "compare", "export")
ELSEWHERE = ("trainer.devices", "trainer.strategy", "trainer.num_nodes", "data.num_workers", "trainer.accelerator")
"""Settings that start other processes of this script; they are tested on their own."""

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
ODD = st.sampled_from(
    [
        *(
            "${seed}",
            "${oc.env:HOME}",
            "${nope}",
            "${",
            "$",
            "{",
            "[",
            "]",
            "{}",
            "[]",
            "[1,2]",
            "{a:1}",
            "=",
            ",",
            "a=b",
        ),
        *(
            "'",
            '"',
            "\\",
            "\\'",
            "a,b",
            "~",
            "~/x",
            "../../x",
            "/",
            ".",
            "@file",
            "-m",
            "--cfg",
            "!!python/name:os.system",
        ),
        *(
            "",
            "true",
            "false",
            "null",
            "nan",
            "inf",
            "-inf",
            "1e309",
            "-0.0",
            "1e-320",
            "0x10",
            "1_000",
            "!!python/name:os.system",
        ),
        *("0", "1", "-1", "2", "3", "0.5", "1e6", "9" * 23, "\u202e", "\ufeff", "é", "🏏", "\n", " "),
    ]
)
VALUES = st.one_of(ODD, st.integers(-3, 70).map(str), st.floats().map(str), WORDS)


class World(NamedTuple):
    """What lies ready to be damaged or asked."""

    run: Path
    """A finished run."""
    sweep: Path
    """Two of them."""
    folder: Path
    """A Hugging Face folder."""
    text: Path
    """A small corpus."""


def groups() -> dict[str, list[str]]:
    """Every group of the package's config and its choices."""
    found = {
        group.name: sorted(file.stem for file in group.glob("*.yaml"))
        for group in conf_dir().iterdir()
        if group.is_dir() and group.name != "hydra"
    }
    found["model"].remove("deepseek_v3")  # on purpose larger than any machine; drawn in the settings below
    return found


def leaves(node: Any, above: str = "") -> list[str]:
    """Dotted keys of a config."""
    if isinstance(node, DictConfig):
        return [key for name in node for key in leaves(node._get_node(name), f"{above}{name}.")]
    return [above.rstrip(".")]


def saved_keys(world: World) -> list[str]:
    """Settings of a run."""
    return [key for key in leaves(OmegaConf.load(world.run / ".hydra" / "config.yaml")) if not key.startswith("hydra")]


def overrides(data: DataObject, place: Path, world: World) -> list[str]:
    """A verb with settings of any kind."""
    verb = data.draw(st.sampled_from(("train", "train", "train", *VERBS)))
    if verb == "train":
        keys = [key for key in saved_keys(world) if not key.startswith(ELSEWHERE)]
        command = ["train", *SMALL, f"hydra.run.dir={place / 'run'}"]
        choice = st.sampled_from(sorted(groups())).flatmap(
            lambda group: st.sampled_from(groups()[group]).map(lambda name: f"{group}={name}")
        )
    else:
        keys = leaves(OmegaConf.load(conf_dir() / f"{verb}.yaml"))
        keys = [key for key in keys if not key.startswith(("hydra", "defaults"))]
        asked = world.sweep if verb == "compare" else world.run
        command = [verb, str(asked), *([str(place / "out")] if verb == "export" else [])]
        if verb in ("evaluate", "report", "compare"):
            command.append(f"output={place / 'out'}")
        choice = st.sampled_from(["trainer.accelerator=cpu", "--cfg=job", "seed=1"])
    setting = st.builds(
        lambda mark, key, value: f"{mark}{key}={value}",
        st.sampled_from(["", "", "", "", "+", "++", "~"]),
        st.sampled_from(keys) | st.sampled_from(["nope", "model.nope", "seed.x", "trainer"]),
        VALUES,
    )
    return [*command, *data.draw(st.lists(choice | setting | setting, min_size=1, max_size=4))]


def prompts(data: DataObject, place: Path, world: World) -> list[str]:
    """``sample`` with any text, and stops of any text."""
    raw = st.binary(max_size=30).map(lambda b: os.fsdecode(b.replace(b"\0", b"")))  # what a shell hands on
    text = data.draw(WORDS | raw | ODD | st.lists(ODD, max_size=5).map(" ".join))
    command = ["sample", str(world.run), f"prompt={text}", "temperature=0", "max_new_tokens=3"]
    if data.draw(st.booleans()):
        command.append(f"stop={data.draw(WORDS | ODD)}")
    return command


def prose(seed: int, odd: list[str]) -> bytes:
    """Some hundred different paragraphs, odd pieces among them: enough to train on."""
    chance = random.Random(seed)
    words = [chance.choice("aeiou") + chance.choice(["no", "run", "four", "slip"]) for _ in range(60)]
    paragraphs = [" ".join(chance.choices(words, k=12)) + f" {i}." for i in range(300)]
    for piece in odd:
        paragraphs.insert(chance.randrange(len(paragraphs)), piece)
    return "\n\n".join(paragraphs).encode()


def corpora(data: DataObject, place: Path, world: World) -> list[str]:
    """``train`` on any file, or on a folder of some."""
    lines = st.sampled_from(
        ["a b c", "x" * 200, " " * 500, "\n", "é🏏", "\r\n", "<|endoftext|>", "\u2028", "1.1: no run"]
    )
    text = st.lists(lines | WORDS, max_size=30).flatmap(
        lambda some: st.sampled_from([1, 1, 20, 400]).map(lambda times: "\n\n".join(some * times).encode())
    )
    content = st.one_of(
        st.builds(prose, st.integers(0, 2**32), st.lists(lines | WORDS, max_size=9)),
        st.builds(prose, st.integers(0, 2**32), st.lists(lines | WORDS, max_size=9)),
        text,
        text.map(lambda b: b.decode().encode("utf-16")),
        text.map(lambda b: b"\xef\xbb\xbf" + b),
        text.map(lambda b: b + b"\xff\xfe\xc3"),
        st.binary(max_size=300),
        st.sampled_from([" ", "\n", "a", "\0", "🏏"]).map(lambda c: c.encode() * 100_000),
    )
    if data.draw(st.booleans()):
        target = place / data.draw(st.sampled_from(["text.txt", "odd ${x} [1].txt", "é.TXT", "text.jsonl", "noend"]))
        target.write_bytes(data.draw(content))
    else:
        target = place / "corpus"
        for i in range(data.draw(st.integers(0, 5))):
            file = target / data.draw(st.sampled_from([".", "sub", "sub/sub"])) / f"{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.draw(content))
        target.mkdir(exist_ok=True)
        if data.draw(st.booleans()):
            (target / "loop").symlink_to(target)
            (target / "gone.txt").symlink_to(target / "nowhere")
    name = data.draw(st.sampled_from(["text", "text", "ipl"]))
    split = data.draw(st.sampled_from([[], ["data.document=file"], ["data.val_fraction=0.4"]]))
    return ["train", *SMALL, f"data={name}", f"data.path={target}", *split, f"hydra.run.dir={place / 'run'}"]


def spoil(node: Any, chance: random.Random) -> Any:
    """A value with another one somewhere in it."""
    wrong = (None, [], {}, "", "x", -1, 0, 1e308, float("nan"), 10**30, True, [[]], {"a": None}, "${nope}", "../../x")
    if isinstance(node, dict) and node and chance.random() < 0.9:
        key = chance.choice(list(node))
        return {k: v for k, v in node.items() if k != key} | (
            {key: spoil(node[key], chance)} if chance.random() < 0.8 else {}
        )
    if isinstance(node, list) and node and chance.random() < 0.9:
        at = chance.randrange(len(node))
        return [*node[:at], spoil(node[at], chance), *node[at + 1 :]]
    return chance.choice(wrong)


def damage(file: Path, chance: random.Random) -> None:
    """Make something else of a file of a run."""
    kind = chance.choice(
        ("cut", "zeros", "noise", "empty", "folder", "gone", "loop", "line", "value", "value", "value")
    )
    content = file.read_bytes()
    at = chance.randrange(len(content)) if content else 0
    if kind == "value" and file.suffix in (".json", ".yaml", ".ckpt"):
        if file.suffix == ".ckpt":
            torch.save(spoil(torch.load(file, weights_only=True), chance), file)
        elif file.suffix == ".json":
            file.write_text(json.dumps(spoil(json.loads(content), chance)))
        else:
            file.write_text(yaml.safe_dump(spoil(yaml.safe_load(content), chance)))
        return
    if kind in ("folder", "gone", "loop"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        if kind == "loop":
            file.symlink_to(file.name)
        return
    noise = chance.randbytes(chance.randint(1, 40))
    made = {
        "cut": content[:at],
        "zeros": content + bytes(4096),
        "empty": b"",
        "line": content + b'[1, 2]\n{"step": "x"}\n\xff\xfe{"st',
    }
    file.write_bytes(made.get(kind, content[:at] + noise + content[at + len(noise) :]))


def ask(data: DataObject, run: Path, place: Path) -> list[str]:
    """One of the commands that read a run's folder."""
    return data.draw(
        st.sampled_from(
            [
                ["train", f"resume={run}", "trainer.max_steps=4"],
                ["evaluate", str(run)],
                ["evaluate", str(run / "checkpoints" / "last.ckpt")],
                ["sample", str(run), "temperature=0", "max_new_tokens=2"],
                ["report", str(run)],
                ["compare", str(run.parent), f"output={place / 'compared'}"],
                ["export", str(run), str(place / "out")],
                ["train", *SMALL, f"init_from={run}", f"hydra.run.dir={place / 'next'}"],
            ]
        )
    )


def folders(data: DataObject, place: Path, world: World) -> list[str]:
    """A run's folder of which one or two files are damaged."""
    run = place / "runs" / "run"
    shutil.copytree(world.run, run)
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(chance.choice((1, 1, 2))):
        damage(chance.choice([file for file in sorted(run.rglob("*")) if file.is_file()]), chance)
    return ask(data, run, place)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def calls(mark: Path) -> list[dict[str, Any]]:
    """Calls that would make ``mark``."""
    path = {"_target_": "pathlib.Path", "_args_": [str(mark)]}
    return [
        {"_target_": "pathlib.Path.touch", "_args_": [path]},
        {"_target_": "pathlib.Path.write_text", "_args_": [path, "x"]},
        {"_target_": "builtins.open", "file": str(mark), "mode": "w"},
        {"_target_": "os.mkdir", "path": str(mark)},
        {"_target_": "os.makedirs", "name": str(mark)},
        {"_target_": "shutil.copytree", "src": str(mark.parent / "runs"), "dst": str(mark)},
        {"_target_": "subprocess.run", "args": ["touch", str(mark)]},
        {"_target_": "torch.save", "obj": 1, "f": str(mark)},
        {"_target_": "torch.load", "f": str(mark.parent / "bomb.pickle"), "weights_only": False},
        {"_target_": "numpy.load", "file": str(mark.parent / "bomb.pickle"), "allow_pickle": True},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": str(mark)}},
        {"_target_": "s15erav3.balancing.LossFree", "rate": {"_target_": "os.mkdir", "path": str(mark)}},
        {"_target_": "s15erav3.files.replace_text", "target": path, "text": "x"},
    ]


def payloads(data: DataObject, place: Path, world: World) -> list[str]:
    """A run's or a Hugging Face folder that asks for code to be run when it is read."""
    run, mark = place / "runs" / "run", place / "mark"
    shutil.copytree(world.run, run)
    bomb = pickle.dumps(Bomb(mark))
    (place / "bomb.pickle").write_bytes(bomb)
    call = data.draw(st.sampled_from(calls(mark)))
    config = yaml.safe_load((run / ".hydra" / "config.yaml").read_text())
    checkpoint = run / "checkpoints" / "last.ckpt"
    where = data.draw(
        st.sampled_from(["config", "checkpoint", "pickle", "yaml", "hydra", "records", "command", "index"])
    )
    if where == "config":
        group = data.draw(
            st.sampled_from(["balancing", "optimizer", "schedule", "logger", "callbacks", "trainer", "seed"])
        )
        inside = group in ("logger", "callbacks", "trainer")
        config[group] = config[group] | {"strategy" if group == "trainer" else "x": call} if inside else call
    elif where == "checkpoint":
        payload = torch.load(checkpoint, weights_only=True)
        payload["run"]["config"]["balancing"] = call
        for file in run.glob("checkpoints/*.ckpt"):
            torch.save(payload, file)
    elif where == "pickle":
        payload = torch.load(checkpoint, weights_only=True)
        payload[data.draw(st.sampled_from(["run", "state_dict", "x"]))] = Bomb(mark)
        for file in run.glob("checkpoints/*.ckpt"):
            torch.save(payload, file)
    elif where == "hydra":
        config["hydra"] = data.draw(
            st.sampled_from(
                [{"launcher": call}, {"sweeper": call}, {"callbacks": {"x": call}}, {"run": {"dir": str(mark)}}]
            )
        )
    elif where == "records":
        for file in (run / "balance.jsonl", run / "metrics.csv", run / "samples.jsonl", run / "result.json"):
            file.write_bytes(bomb)
    (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    if where == "yaml":
        tag = f"!!python/object/apply:os.mkdir ['{mark}']"
        for name in ("config", "hydra", "overrides"):
            with (run / ".hydra" / f"{name}.yaml").open("a") as file:
                file.write(f"x: {tag}\n" if name != "overrides" else f"- {tag}\n")
    if where == "command":
        sweep = place / "sweep"
        shutil.copytree(world.sweep, sweep)
        odd = [
            f"balancing._target_={call['_target_']}",
            f"hydra.launcher._target_={call['_target_']}",
            f"--config-dir={place}",
        ]
        for file in (*sweep.glob("multirun.yaml"), *sweep.glob("*.json"), *sweep.glob("*.yaml")):
            file.write_text(file.read_text().replace("seed=1,2", data.draw(st.sampled_from(odd))))
        return ["train", f"sweep.resume={sweep}"]
    if where == "index":
        folder = place / "hf"
        shutil.copytree(world.folder, folder)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"x": "../bomb.pickle", "y": str(place / "bomb.pickle")}})
        )
        (folder / "pytorch_model.bin").write_bytes(bomb)
        (folder / "modeling.py").write_text(f"import os; os.mkdir({str(mark)!r})")
        about = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "modeling.X"}}
        (folder / "config.json").write_text(json.dumps(about))
        return ["evaluate", str(folder), f"data.path={world.text}", f"output={place / 'out'}"]
    return ask(data, run, place)
