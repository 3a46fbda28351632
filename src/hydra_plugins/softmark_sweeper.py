"""softmark's sweeper, where Hydra looks for plugins; its work is done in ``softmark.sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf


class StageSweeper(BasicSweeper):
    """Hydra's basic sweeper, whose jobs are workers: each takes stages and cells that are ready."""

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        """Run all cells of ``arguments`` with the launcher that Hydra was given."""
        from softmark.sweep.command_line import cells_of
        from softmark.sweep.schedule import Sweep

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        sweep = Sweep(cells_of(self.config), self.config)
        sweep.run(self.launcher, self.max_batch_size, folder)
        return []
