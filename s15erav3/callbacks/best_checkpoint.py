"""best.ckpt: the checkpoint with the lowest val/bpb, robust against moving the run's folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a single file in the run's current folder.

    Lightning's own loses the best score when the folder's name differs from the one in the checkpoint. It would then
    overwrite ``best.ckpt`` by the next checkpoint. It also deletes the file that a checkpoint names.

    Args:
        file: path of the best checkpoint.
        monitor: the metric; lower is better.
    """

    def __init__(self, file: Path, monitor: str) -> None:
        super().__init__(
            file.parent,
            file.stem,
            monitor=monitor,
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.file = file

    @property
    def state_key(self) -> str:
        """The key that checkpoints have always used."""
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, if the file that reached it exists.

        Raises:
            ValueError: the score is not a number.
        """
        score, name = state_dict["best_model_score"], str(self.file)
        if score is not None and (
            not isinstance(score, Tensor) or score.numel() != 1 or math.isnan(score) or score.is_complex()
        ):
            raise ValueError("the best score is not a number")
        if score is None or not self.file.is_file():
            self.best_model_score, self.best_k_models = None, {}
            self.best_model_path = self.kth_best_model_path = ""
            return
        score = score.reshape(())
        self.best_model_score, self.best_k_models = score, {name: score}
        self.kth_value = score
        self.best_model_path = self.kth_best_model_path = name
