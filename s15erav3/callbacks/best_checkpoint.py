"""best.ckpt: the checkpoint of the least val/bpb, also of a run whose folder has been moved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, for one file that lies where the run is now.

    Lightning's own forgets the best score when the folder has another name than in the checkpoint, and would then
    overwrite ``best.ckpt`` by whatever comes first; and it deletes the file that a checkpoint names.

    Args:
        file: where the best checkpoint lies.
        monitor: the metric, the less the better.
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
        """As checkpoints have always called it."""
        return super().state_key.replace(type(self).__qualname__, "ModelCheckpoint", 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score over, if the file is there that reached it.

        Raises:
            ValueError: the score is none.
        """
        score, name = state_dict["best_model_score"], str(self.file)
        if score is not None and (
            not isinstance(score, Tensor) or score.numel() != 1 or math.isnan(score) or score.is_complex()
        ):
            raise ValueError("the best score is no number")
        if score is None or not self.file.is_file():
            self.best_model_score, self.best_k_models = None, {}
            self.best_model_path = self.kth_best_model_path = ""
            return
        score = score.reshape(())
        self.best_model_score, self.best_k_models = score, {name: score}
        self.kth_value = score
        self.best_model_path = self.kth_best_model_path = name
