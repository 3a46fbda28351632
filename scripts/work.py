"""Count the work of a sweep without training: steps and floating-point operations by role.

    python scripts/work.py table=robustness data=cifar10 data.path=DIR scale=full model=resnet18

Every stage is made as run.py would make it, but nothing is trained and no network is asked: what a
training would take is counted on eight samples of its first batch, and answers are random. The
options are those of run.py; decoded data are read from output_dir. Of detectors, which are small,
only the steps are counted.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from softmark import training
from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.experiment import run, stages
from softmark.renamed import current
from softmark.settings import configs
from softmark.sweep.command_line import check_arguments, expand_sweep
from softmark.sweep.compose import CellComposer
from softmark.sweep.spelling import folders_of, spelled
from softmark.training import Classifier, Fit

NUM_SAMPLES = 8  # of a batch that are counted on
NUM_STEPS = 12  # of which what is beside the loss is the mean
PEAK = 989e12  # floating-point operations a second: an H100's (SXM) in bfloat16, dense


class Work:
    """Counts steps and floating-point operations by the role of the stage that is being made."""

    def __init__(self) -> None:
        self.role = ""
        self.steps: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()

    def fit(self, module: Classifier, data) -> nn.Module:
        """Count what training ``module`` would take, and return it untrained."""
        module.train()
        batches = module.batches(data)
        if isinstance(module, Classifier):
            batch = next(iter(batches))
            size = len(batch.labels)
            some = type(batch)(*(part[:NUM_SAMPLES] for part in batch))
            with FlopCounterMode(display=False) as counter:
                module.loss(some).backward()
            of_loss = counter.get_total_flops()
            with FlopCounterMode(display=False) as counter:
                for _ in range(NUM_STEPS):  # a tuned copy takes a step at some of them
                    module.add_gradients(some)
            of_step = of_loss + counter.get_total_flops() / NUM_STEPS
            of_step *= size / min(NUM_SAMPLES, size)
            self.flops[self.role] += module.epochs * len(batches) * of_step
        self.steps[self.role] += module.epochs * len(batches)
        return module.network.eval()

    def predict(
        self, network: nn.Module, inputs: Tensor, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Count what the answers to ``inputs`` would take, and return random ones."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            answers = network.eval()(as_input(inputs[:2]))
        self.flops["asking"] += counter.get_total_flops() * len(inputs) / len(answers)
        return torch.randn(len(inputs), answers.shape[1], dtype=dtype).softmax(1)

    def count(self, cells: list[dict[str, Any]]) -> None:
        """Run ``cells`` with these counters in place of training and of answers."""
        predict, make_stage = training.predict, stages.make_stage
        Fit.__call__ = lambda fit, module, data, name: self.fit(module, data)
        for module in list(sys.modules.values()):
            if getattr(module, "predict", None) is predict:
                module.predict = self.predict

        def make_counted(settings, stage, folder):
            self.role = stage.role.partition("/")[0]
            return make_stage(settings, stage, folder)

        stages.make_stage = make_counted
        for config in cells:
            run.run_cell(config, [], lambda line: None)


def main() -> None:
    work = Work()
    try:
        overrides = current(spelled(sys.argv[1:]))
        data = Path(check_arguments(["-m", *overrides])["output_dir"], "data")
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "data").symlink_to(data)
            more = [f"output_dir={folder}", "logger=none"]
            with configs(folders_of(overrides)):
                compose = CellComposer().compose
                cells = [compose([*cell, *more]) for cell in expand_sweep(overrides)]
            work.count(cells)
    except InputError as error:
        sys.exit(f"error: {error}")
    for role, flops in work.flops.items():
        print(f"{role:12}{work.steps[role]:>9,} steps {flops / 1e15:>10.3f} PFLOP")
    total = sum(work.flops.values())
    print(f"{len(cells)} cells: {sum(work.steps.values()):,} steps, {total / 1e15:.2f} PFLOP")
    print(
        f"in 600 s that is {100 * total / 600 / PEAK:.1f} % of an H100's bf16 peak of 989 TFLOP/s"
    )


if __name__ == "__main__":
    main()
