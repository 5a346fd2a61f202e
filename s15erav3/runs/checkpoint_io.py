"""How the Trainer writes and reads checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from s15erav3.files import whole
from s15erav3.runs.checkpoint import Payload, load_checkpoint


class WholeFileIO(TorchCheckpointIO):
    """Write a checkpoint atomically: save to a temporary file beside the target, flush to the disk, rename.

    A kill leaves either the old or the new file. Reading returns exactly what was written.
    """

    def save_checkpoint(self, checkpoint: Payload, path: Any, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target, binary=True, durable=True) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Payload:
        return load_checkpoint(Path(path))
