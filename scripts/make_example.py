"""Make the files of ``softmark.example`` anew: marked models, keys, probes, stolen students.

    python scripts/make_example.py

Digits; a quarter of a minute of one core. The secrets are new each time, and public as soon as they
are committed: these keys prove nothing about anybody's model.
"""

from __future__ import annotations

import functools
import shutil

import torch

import softmark
from softmark import attacks
from softmark.console import report
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.files import save_network
from softmark.models.networks import ConvNet, build
from softmark.owner.example import EXAMPLES, METHODS, STUDENT, UNMARKED, roles
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

WIDTH = 8  # of the networks: 100 kB each
MAX_BYTES = 10**6  # of all files together
STRONG = ("recipe.epochs=20", "method.marking.beta=1", "method.marking.feature_weight=1")


def main() -> None:
    torch.manual_seed(0)
    owner, thief, probes = (roles(part) for part in ("owner", "attacker", "judge"))
    victim = trained(owner)
    shutil.rmtree(EXAMPLES, ignore_errors=True)
    EXAMPLES.mkdir()
    save_network(victim, EXAMPLES / UNMARKED)
    for method in METHODS:
        marked = softmark.mark(
            victim, owner, f"example of {method}", method, probes=probes, overrides=STRONG
        )
        folder, name = EXAMPLES / method, f"digits, {method}"
        softmark.save(marked, folder, owner="softmark's example", name=name)
        student = attacks.Distill()(marked.model, thief)
        save_network(student, folder / STUDENT)
        verdict = softmark.verify(student, marked.key, marked.probes)
        report(f"{method}: model p {marked.verdict.p_value:.1e}, student p {verdict.p_value:.1e}")
        if not verdict.claimed:
            raise InputError(f"{method}: the student isn't claimed; run this again")
    size = sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file())
    report(f"{size:,} bytes in {EXAMPLES}")
    if size > MAX_BYTES:
        raise InputError(f"{size:,} bytes are more than {MAX_BYTES:,}: WIDTH={WIDTH} is too large")


def trained(data: tuple[torch.Tensor, torch.Tensor]) -> torch.nn.Module:
    """Return an unmarked network for ``data``."""
    samples = Samples(*data)
    network = build(functools.partial(ConvNet, width=WIDTH), samples, 10)
    recipe = Recipe(epochs=20, batch_size=32, lr=0.1, pad=0, flip=False)
    return Fit()(Classifier(network, recipe), samples, "victim").eval()


if __name__ == "__main__":
    main()
