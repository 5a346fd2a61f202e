"""``s15erav3 export``: export a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from s15erav3 import __version__
from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import by_place
from s15erav3.comparison.tables import in_markdown
from s15erav3.data.long_words import LONGEST_WORD
from s15erav3.files import at_home
from s15erav3.interop.hf_folder import write_folder
from s15erav3.loading import Saved, load
from s15erav3.model import count_parameters
from s15erav3.runs.reader import read_run
from s15erav3.runs.records import read_table
from s15erav3.session.banner import shape
from s15erav3.terminal import program, say


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 export --help``."""
    hydra_setup.run("export", export, by_place("export", arguments, "checkpoint", "output"))
    return 0


def export(cfg: DictConfig) -> None:
    """Write the folder and print how to use it.

    Raises:
        UserError: the checkpoint or a setting is unusable, or the folder already exists.
    """
    saved = load(str(cfg.checkpoint))
    folder = at_home(cfg.output)
    write_folder(
        folder,
        saved.net,
        saved.tokenizer,
        model_card(saved, folder.name),
        sequence_length=saved.sequence_length,
        dtype=cfg.dtype,
        max_shard_size=cfg.max_shard_size,
    )
    files = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    say(f"wrote {folder}: {', '.join(file.name for file in files)} ({size:.1f} MB)")
    say("load it in Python:")
    say("  from transformers import AutoModelForCausalLM, AutoTokenizer")
    say(f"  model, tokenizer = (c.from_pretrained({str(folder)!r}) for c in (AutoModelForCausalLM, AutoTokenizer))")
    say("or train it further:")
    say(f"  {program()} train init_from={shlex.quote(str(folder))} data=text data.path=FILE")


def model_card(saved: Saved, name: str) -> str:
    """README.md of the folder: description, metrics, provenance and usage."""
    config, counts = saved.net.config, count_parameters(saved.net.config)
    ahead = config.num_nextn_predict_layers
    rows = [
        ("architecture", f"DeepSeek-V3: multi-head latent attention; {shape(config)}"),
        ("parameters", f"{counts.total:,}, of which a token uses {counts.active:,}"),
        ("tokenizer", f"{saved.tokenizer.name}, {saved.tokenizer.n_vocab:,} entries"),
        ("trained on sequences of", f"{saved.sequence_length} tokens"),
        *([("multi-token prediction", f"{ahead} further block{'s' if ahead > 1 else ''}")] if ahead else []),
        *provenance(saved),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [deepseek_v3, mixture-of-experts, s15erav3]
---

# {name}

| | |
| --- | --- |
{table}

Exported by s15erav3 {__version__}. Prompts begin with `<|endoftext|>`, which the tokenizer adds, and documents end with
it. Beyond the sequences that it was trained on, the model's text deteriorates. s15erav3 cuts words of more
than {LONGEST_WORD:,} characters, such as a million blanks; this tokenizer does not, so for those it may produce other
tokens that spell the same text.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {name!r}
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
prompt = tokenizer({prompt(saved)!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=60)[0], skip_special_tokens=True))
```
"""


def prompt(saved: Saved) -> str:
    """A prompt from the run's config; empty if there is none, or none that can be shown in Markdown."""
    own, samples = saved.config.get("data", {}), saved.config.get("callbacks", {}).get("samples") or {}
    given = samples.get("prompts") or own.get("prompts") or []
    texts = [text for text in ([given] if isinstance(given, str) else given) if text and "`" not in text]
    return str(texts[0]) if texts else ""


def provenance(saved: Saved) -> list[tuple[str, str]]:
    """Data, training and metrics, as far as the checkpoint and the run's folder contain them."""
    run: dict[str, Any] = saved.config
    if not run:
        return [("made from", f"`{saved.file.name}`, itself a Hugging Face folder")]
    data, balancing = run["data"], str(run["balancing"].get("_target_")).rpartition(".")[2]
    balancing = in_markdown(balancing)
    text = f" ({Path(data['path']).name})" if data.get("path") else ""
    rows = [
        ("data", f"`{in_markdown('data=' + str(data.get('name')))}`{in_markdown(text)}"),
        ("training", f"{saved.step:,} optimizer steps, experts balanced by {balancing}, seed {run.get('seed')}"),
    ]
    measured = figures(saved)
    rows += [(key, f"{measured[key]:.4f} ({said})") for key, said in MEASURED.items() if key in measured]
    return rows


MEASURED = {
    "val/bpb": "bits per UTF-8 byte of held-out text",
    "val/loss": "nats per token of held-out text",
    "balance/maxvio_global": "imbalance of the experts: (largest load - mean) / mean",
}


def figures(saved: Saved) -> dict[str, float]:
    """Validation metrics recorded at the checkpoint's step; empty for a checkpoint without its run."""
    file = saved.file.parent.parent / "metrics.csv"
    found = read_table(file)
    for cells in found.rows:
        row = dict(zip(found.columns, cells, strict=False))
        if row["step"] == str(saved.step) and row.get("val/bpb"):
            return {key: float(row[key]) for key in MEASURED if row.get(key)}
    values = read_run(file.parent).result
    if values.get("steps") == saved.step:
        return {key: float(values[key]) for key in MEASURED if isinstance(values.get(key), float)}
    return {}
