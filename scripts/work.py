"""What a sweep costs, without training anything: steps and floating-point operations by role.

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

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from softmark import training
from softmark.errors import InputError
from softmark.experiment import run, stages
from softmark.renamed import current
from softmark.settings import configs
from softmark.sweep.command_line import check_arguments, expand_sweep
from softmark.sweep.compose import CellComposer
from softmark.training import Classifier, Fit, as_input

FEW = 8  # samples that are counted on
PEAK = 989e12  # floating-point operations a second: an H100's (SXM) in bfloat16, dense
steps: Counter[str] = Counter()
flops: Counter[str] = Counter()
role = ""


def counted_fit(self: Fit, module: Classifier, data, name: str) -> nn.Module:
    module.train()
    batches = module.batches(data)
    if isinstance(module, Classifier):
        batch = next(iter(batches))
        size = len(batch.labels)
        with FlopCounterMode(display=False) as counter:
            module.loss(type(batch)(*(part[:FEW] for part in batch))).backward()
        one = counter.get_total_flops() * size / min(FEW, size)
        flops[role] += module.epochs * len(batches) * one
    steps[role] += module.epochs * len(batches)
    return module.network.eval()


def counted_predict(network: nn.Module, inputs: Tensor) -> Tensor:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        few = network.eval()(as_input(inputs[:2]))
    flops["asking"] += counter.get_total_flops() * len(inputs) / len(few)
    return torch.randn(len(inputs), few.shape[1]).softmax(1)


def main() -> None:
    global role
    real = training.predict
    Fit.__call__ = counted_fit
    for module in list(sys.modules.values()):
        if getattr(module, "predict", None) is real:
            module.predict = counted_predict
    made = stages.make_stage

    def make_stage(settings, stage, folder):
        global role
        role = stage.role.partition("/")[0]
        return made(settings, stage, folder)

    overrides = current(sys.argv[1:])
    given = [line.partition("=")[2] for line in overrides if line.startswith("output_dir=")]
    data = Path(given[-1] if given else "outputs", "data").resolve()
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(data)
        with configs():
            more = [f"output_dir={folder}", "logger=none"]
            try:
                check_arguments(["-m", *overrides])
                compose = CellComposer().compose
                cells = [compose([*cell, *more]) for cell in expand_sweep(overrides)]
            except InputError as error:
                sys.exit(f"error: {error}")
        stages.make_stage = make_stage
        for config in cells:
            run.run_cell(config, [], lambda line: None)
    for name in flops:
        print(f"{name:12}{steps[name]:>9,} steps {flops[name] / 1e15:>10.3f} PFLOP")
    whole = sum(flops.values())
    print(f"{len(cells)} cells: {sum(steps.values()):,} steps, {whole / 1e15:.2f} PFLOP")
    print(
        f"in 600 s that is {100 * whole / 600 / PEAK:.1f} % of an H100's bf16 peak of 989 TFLOP/s"
    )


if __name__ == "__main__":
    main()
