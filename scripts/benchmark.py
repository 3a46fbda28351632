"""Measure how fast softmark is beside something else: ratios, from runs that take turns.

    python scripts/benchmark.py                                # all, about ten minutes
    python scripts/benchmark.py --only training data=cifar10 data.path=DIR
    python scripts/benchmark.py --only training model.width=1 recipe.epochs=3   # a step alone

training: ``Fit`` over a plain PyTorch loop, on the victim's network and recipe.
composition: Hydra's own compose over the configs of a sweep's cells.
workers: one process that makes the stages of a cell over one for each core.
sweep: a sweep of one process over the sum of what its stages took.
extraction: ART's KnockoffNets over ``distill``, of as many pictures; only where ART is installed.

A busy machine slows both sides. The options are those of run.py; the table is Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn
from torch.nn import functional as F

from softmark.batches import Batches
from softmark.data.roles import Samples
from softmark.devices import choose_device, compute_on
from softmark.experiment.context import roles_of
from softmark.experiment.plan import decode_data
from softmark.experiment.provenance import machine, precision
from softmark.models.networks import build
from softmark.nodes import make
from softmark.recipe import Recipe, one_cycle
from softmark.renamed import current
from softmark.settings import composed, configs
from softmark.training import Classifier, Fit

ROOT = Path(__file__).parents[1]
SWEEP = ("method=usp,csp", "attack=finetune,prune,distill")

Pair = tuple[Callable[[], object], Callable[[], object]]


def plain_loop(network: nn.Module, samples: Samples, recipe: Recipe, accelerator: str) -> None:
    """Train ``network`` with a loop as a reader would write it."""
    device = choose_device(accelerator)
    network.train().to(device, memory_format=torch.channels_last)
    batches = Batches(samples.to(device), recipe)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step / steps, recipe.warmup)
    )
    for _ in range(recipe.epochs):
        for batch in batches:
            loss = F.cross_entropy(network(batch.inputs), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.to("cpu")  # as Fit does; a GPU is waited for


def training(overrides: list[str]) -> Pair:
    """Return a training through ``Fit``, and the same by hand."""
    config = composed("config", overrides)
    decode_data(config)
    accelerator = config["trainer"]["accelerator"]
    compute_on(accelerator, config["trainer"]["threads"])
    roles, recipe = roles_of(config), make(config["recipe"])
    chosen = precision(config["precision"], accelerator)
    autocast = chosen == "bf16-mixed"
    fit = Fit(accelerator, chosen, threads=config["trainer"]["threads"])

    def network() -> nn.Module:
        torch.manual_seed(0)
        return build(make(config["model"]), roles.owner, len(roles.classes))

    def by_hand() -> None:
        with torch.autocast(choose_device(accelerator).type, torch.bfloat16, enabled=autocast):
            plain_loop(network(), roles.owner, recipe, accelerator)

    return lambda: fit(Classifier(network(), recipe), roles.owner, "benchmark"), by_hand


def composition(overrides: list[str]) -> Pair:
    """Return Hydra's compose of eight cells, and the sweep's own of the same."""
    from hydra import compose
    from omegaconf import OmegaConf

    from softmark.sweep.compose import CellComposer

    grid = itertools.product(("usp", "csp"), ("finetune", "prune"), (0, 1))
    cells = [[f"method={m}", f"attack={a}", f"seed={seed}", *overrides] for m, a, seed in grid]

    def by_hydra() -> None:
        with configs():
            for cell in cells:
                OmegaConf.to_container(compose("config", cell), resolve=True)

    def by_sweep() -> None:
        with configs():
            composer = CellComposer()
            for cell in cells:
                composer.compose(cell)

    return by_hydra, by_sweep


def run(*words: str) -> Path:
    """Run run.py in a new folder; return the folder."""
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, "run.py", *words, "logger=none", f"output_dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def workers(overrides: list[str]) -> Pair:
    """Return one cell from nothing by one process, and by one for each core."""
    return (lambda: run("trainer.workers=1", *overrides), lambda: run(*overrides))


def sweep(overrides: list[str]) -> Iterator[float]:
    """Yield the seconds of a sweep of one process over the sum of what its stages took."""
    for _ in range(2):
        start = time.perf_counter()
        folder = run("-m", *SWEEP, "trainer.workers=1", *overrides)
        seconds = time.perf_counter() - start
        manifests = folder.glob("store/*/*/stage.json")
        yield seconds / sum(json.loads(path.read_text())["seconds"] for path in manifests)


def extraction(overrides: list[str]) -> Pair:
    """Return ART's KnockoffNets and ``distill``: 1,000 answers, ten epochs, one network."""
    from art.attacks.extraction import KnockoffNets
    from art.estimators.classification import PyTorchClassifier

    from softmark.attacks import Distill

    config = composed("config", overrides)
    decode_data(config)
    samples, recipe = roles_of(config).owner[:1000], Recipe(epochs=10, pad=0, flip=False)
    pixels, shape = samples.inputs.float() / 255, samples.inputs.shape[1:]

    def network() -> nn.Module:
        return build(make(config["model"]), samples, 10)

    def classifier(module: nn.Module) -> PyTorchClassifier:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        return PyTorchClassifier(module, nn.CrossEntropyLoss(), shape, 10, optimizer)

    def by_art() -> None:
        attack = KnockoffNets(
            classifier(network().eval()),
            batch_size_fit=recipe.batch_size,
            batch_size_query=1000,
            nb_epochs=recipe.epochs,
            nb_stolen=len(samples),
            use_probability=True,
            verbose=False,
        )
        attack.extract(pixels.numpy(), thieved_classifier=classifier(network()))

    def by_softmark() -> None:
        victim = network().eval()
        Distill(recipe=recipe)(victim, (samples.inputs, samples.labels))

    return by_art, by_softmark


def ratios(pair: Pair, rounds: int) -> Iterator[float]:
    """Yield what the first of a pair takes over what the second takes, in alternating order."""
    for side in pair:
        side()  # warms up
    for number in range(rounds):
        seconds = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            start = time.perf_counter()
            pair[side]()
            seconds[side] = time.perf_counter() - start
        yield seconds[0] / seconds[1]


# What prepares each part, and how often it is measured.
PARTS = {
    "training": (training, 5),
    "composition": (composition, 3),
    "workers": (workers, 2),
    "sweep": (sweep, 2),
    "extraction": (extraction, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as given to run.py")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    options = parser.parse_intermixed_args()
    overrides = current(options.overrides)
    print(f"{machine()}, torch {torch.__version__}\n")
    print("| what | ratio | from | to | rounds |\n|---|---|---|---|---|")
    for name, (prepare, rounds) in PARTS.items():
        if options.only and name not in options.only:
            continue
        try:
            part = prepare(overrides)
        except ImportError as error:
            print(f"| {name} | not measured: {error.name} isn't installed | | | |")
            continue
        measured = list(part if name == "sweep" else ratios(part, rounds))
        middle, low, high = statistics.median(measured), min(measured), max(measured)
        print(f"| {name} | {middle:.2f} | {low:.2f} | {high:.2f} | {len(measured)} |", flush=True)


if __name__ == "__main__":
    main()
