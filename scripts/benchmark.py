"""Compare training through ``Fit`` with a plain PyTorch loop: a ratio, from alternating runs.

    python scripts/benchmark.py data=cifar10 data.path=DIR
    python scripts/benchmark.py model.width=1 recipe.batch_size=2 recipe.epochs=3  # a step alone

Both train the victim's network by its recipe on the same number of batches of the owner's samples,
with the same precision, augmentation and optimizer. The options are those of run.py.
"""

import contextlib
import os
import statistics
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch.nn import functional as F

from softmark.batches import Batches
from softmark.devices import choose_device, compute_on
from softmark.experiment.context import roles_of
from softmark.experiment.provenance import precision
from softmark.models.networks import build
from softmark.nodes import make
from softmark.recipe import one_cycle
from softmark.renamed import current
from softmark.settings import composed
from softmark.training import Classifier, Fit

ROUNDS = 5


@contextlib.contextmanager
def no_logger(name):
    yield None


def plain(network, samples, recipe, device, autocast):
    """Train ``network`` with a loop as a reader would write it."""
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
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = F.cross_entropy(network(batch.inputs), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.to("cpu")  # as Fit does; a GPU is waited for


def main() -> None:
    config = composed("config", current(sys.argv[1:]))
    compute_on(config["trainer"]["accelerator"], config["trainer"]["threads"])
    roles, recipe = roles_of(config), make(config["recipe"])
    precision_name = precision(config["precision"])
    device = choose_device(config["trainer"]["accelerator"])
    fit = Fit(config["trainer"]["accelerator"], precision_name, no_logger)

    def timed(train) -> float:
        torch.manual_seed(0)
        network = build(make(config["model"]), roles.owner, len(roles.classes))
        start = time.perf_counter()
        train(network)
        return time.perf_counter() - start

    def through_fit(network) -> None:
        fit(Classifier(network, recipe), roles.owner, "benchmark")

    def by_hand(network) -> None:
        plain(network, roles.owner, recipe, device, precision_name == "bf16-mixed")

    # Each warms up once; then they take turns, so that a busy machine slows both.
    for train in (through_fit, by_hand):
        timed(train)
    ratios, extra = [], []
    steps = recipe.epochs * len(Batches(roles.owner, recipe))
    for number in range(ROUNDS):
        order = (through_fit, by_hand) if number % 2 else (by_hand, through_fit)
        seconds = {train.__name__: timed(train) for train in order}
        ratios.append(seconds["through_fit"] / seconds["by_hand"])
        extra.append(1e6 * (seconds["through_fit"] - seconds["by_hand"]) / steps)
        print(f"fit {seconds['through_fit']:.2f} s, by hand {seconds['by_hand']:.2f} s")
    print(f"ratio: median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")
    print(f"overhead of each of {steps} steps: median {statistics.median(extra):.0f} µs")


if __name__ == "__main__":
    main()
