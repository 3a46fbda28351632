"""How seconds and memory grow with cells, records, stages, probes and classes.

    python scripts/growth.py             # about ten minutes
    python scripts/growth.py classes marked_classes

``marked_classes`` and ``marked_pictures`` train, and nothing else does: records and stages are
written as a run would write them, with invented figures, and a verdict is made of random answers.
Each row is a process of its own. Seconds are those of a core, which another job takes none of. The
table is Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from softmark.experiment.provenance import machine

if TYPE_CHECKING:
    from torch import Tensor, nn

SCRIPTS = Path(__file__).parent
ATTACKS = ("none", "finetune", "prune", "distill", "retrain")


def overrides(count: int, output: Path) -> list[list[str]]:
    """Return the overrides of ``count`` cells: two methods, five attacks, and seeds."""
    grid = itertools.product(range(-(-count // 10)), ("usp", "csp"), ATTACKS)
    shared = [f"output_dir={output}", "logger=none"]
    lines = [[f"method={m}", f"attack={a}", f"seed={seed}", *shared] for seed, m, a in grid]
    return lines[:count]


def cells(count: int, output: Path) -> Callable[[], object]:
    """Plan a sweep of ``count`` cells: compose each, address its stages, look what is there."""
    from softmark.settings import configs
    from softmark.sweep.schedule import Sweep

    def measured():
        with configs():
            return Sweep(overrides(count, output))

    return measured


def records(count: int, output: Path) -> Callable[[], object]:
    """Write one HTML page of ``count`` records."""
    from softmark.experiment.plan import decode_data, plan
    from softmark.experiment.run import describe
    from softmark.settings import configs
    from softmark.store.store import write_json
    from softmark.sweep.compose import CellComposer

    figures = {"status": "done", "victim_accuracy": 0.97, "watermarked_accuracy": 0.96}
    figures |= {
        "suspect_accuracy": 0.95,
        "p_value": 1e-9,
        "claimed": True,
        "tests": {"signs": 1e-9},
    }
    with configs():
        composer = CellComposer()
        for line in overrides(count, output):
            config = composer.compose(line)
            decode_data(config)
            cell = plan(config)
            write_json(cell.record, {**describe(cell, line), **figures})
    return script("report.py", "--page", "--to", str(output), f"output_dir={output}")


def stages(count: int, output: Path) -> Callable[[], object]:
    """List a store of ``count`` stages, each a small model."""
    for number in range(count):
        address = hashlib.sha256(str(number).encode()).hexdigest()[:16]
        folder = output / "store" / "suspect" / address
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        manifest = {"role": "suspect", "address": address, "config": {"seed": number}}
        manifest |= {"parents": [], "files": {"model.safetensors": digest}, "seconds": 1.0}
        (folder / "stage.json").write_text(json.dumps(manifest))
    return script("store.py", "--output-dir", str(output))


def script(name: str, *words: str) -> Callable[[], object]:
    """Return what runs a script of this folder, and stops where it fails."""
    command = [sys.executable, str(SCRIPTS / name), *words]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def probes(count: int, output: Path, classes: int = 10) -> Callable[[], object]:
    """Verify a suspect of random answers to ``count`` probes."""
    import torch

    import softmark

    torch.manual_seed(0)
    inputs, labels = torch.rand(count, 4), torch.arange(count) % classes
    key = softmark.new_key("owner", classes=classes, probes=(inputs, labels))
    logits = torch.randn(count, classes)  # (N, K)
    logits[torch.arange(count), labels] += 8
    answers = logits.softmax(1)
    return lambda: softmark.verify(answers, key, inputs, labels=labels)


def classes(count: int, output: Path) -> Callable[[], object]:
    """Verify a suspect of ``count`` classes on ten probes of each, and 10,000 at most."""
    return probes(min(10 * count, 10_000), output, classes=count)


def marked_classes(count: int, output: Path) -> Callable[[], object]:
    """Mark a module of ``count`` classes, and verify it: 47 steps of 64 rows."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, count))
    return marking(model, torch.rand(3008, 64), torch.arange(3008) % count)


def marked_pictures(count: int, output: Path) -> Callable[[], object]:
    """Mark a small ConvNet by ``count`` pictures of CIFAR-10's size, and verify it: an epoch."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(2048, 10))
    pictures = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return marking(model, pictures, torch.arange(count) % 10)


def marking(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    """Return what marks ``model`` in an epoch of batches of 64, with 1,000 probes."""
    import softmark

    recipe = {"epochs": 1, "batch_size": 64}
    given = {"recipe": recipe, "overrides": ["tries=1"], "accelerator": "cpu"}
    return lambda: softmark.mark(model, (inputs, labels), "owner", **given)


SIZES = {
    cells: (10, 100, 1000),
    records: (100, 10_000),
    stages: (100, 100_000),
    probes: (100, 1000, 10_000, 100_000),
    classes: (10, 100, 1000, 10_000),
    marked_classes: (10, 100, 1000, 10_000),
    marked_pictures: (1000, 10_000),
}


def row(what: Callable[[int, Path], Callable[[], object]], count: int) -> str:
    """Measure one size, in a process of its own, which runs this script for it."""
    command = [sys.executable, __file__, "--one", what.__name__, str(count)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mebibytes = said.stdout.split()[-2:]
    return f"| {what.__name__} | {count:,} | {float(seconds):.2f} | {mebibytes} |"


def one(name: str, count: int) -> None:
    """Prepare, measure and print seconds of a core and the peak of memory in MiB."""
    (what,) = (each for each in SIZES if each.__name__ == name)
    with tempfile.TemporaryDirectory() as folder:
        measured = what(count, Path(folder))
        before = [usage.ru_utime + usage.ru_stime for usage in usages()]
        measured()
        after = [usage.ru_utime + usage.ru_stime for usage in usages()]
    peak = max(usage.ru_maxrss for usage in usages())
    print(f"{sum(after) - sum(before):.3f} {peak // 1024}")


def usages() -> list[resource.struct_rusage]:
    """Return what this process and its children have taken."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def table(names: list[str]) -> Iterator[str]:
    """Yield the lines of the table as they are measured."""
    yield f"{machine()}, torch {importlib.metadata.version('torch')}\n"
    yield "| what | number | seconds of a core | MiB at most |"
    yield "|---|---|---|---|"
    for what, counts in SIZES.items():
        if not names or what.__name__ in names:
            for count in counts:
                yield row(what, count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", help="; ".join(each.__name__ for each in SIZES))
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], int(options.one[1]))
        return
    known = [each.__name__ for each in SIZES]
    if unknown := [name for name in options.what if name not in known]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(known)}")
    for line in table(options.what):
        print(line, flush=True)


if __name__ == "__main__":
    main()
