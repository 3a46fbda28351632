"""Where Hydra looks for sweepers; what this one does stands in ``softmark.sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf


class Waves(BasicSweeper):
    """Hydra's basic sweeper, but for the order: stages before the cells that share them."""

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        from softmark.sweep.cells import spread
        from softmark.sweep.schedule import Sweep

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return Sweep(spread(arguments)).run(self.launcher, self.max_batch_size)
