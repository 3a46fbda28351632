"""Forgery: a thief claims the stolen model with a key of their own, made to fit it.

Adi et al. 2018 call the defence against it unforgeability. The model isn't touched: what changes
is who claims it. The thief knows the method, draws many keys, keeps the one that the model happens
to fit best, and trains a detector that tells the model from one of the thief's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from softmark.attacks.none import Keep
from softmark.data import Roles, Samples
from softmark.errors import InputError
from softmark.methods.soft_labels import SoftLabels, class_tails, harden, rehearse
from softmark.methods.watermark import Key
from softmark.networks import build
from softmark.training import Classifier, Fit, Recipe, predict, save_network

SEARCHED = 1000  # pictures on which each key is tried


class Forge(Keep):
    """``forged``: how many keys are drawn. ``recipe``, ``network``: of the thief's own model."""

    knows = "method"

    def __init__(self, recipe: Recipe, network: Callable[..., nn.Module], forged: int):
        if forged < 1:
            raise InputError(f"attack.forged={forged}: at least one key")
        self.recipe = recipe
        self.network = network
        self.forged = forged

    def forge(self, method: SoftLabels, target: nn.Module, data: Samples, fit: Fit) -> Key:
        """The best of ``forged`` keys for ``target``; the thief's own ``data`` are all it takes."""
        answers = predict(target, data.images[:SEARCHED])
        classes = answers.shape[1]
        own = fit(Classifier(build(self.network, data, classes), self.recipe), data, "own")
        baseline = {"baseline": class_tails(predict(own, data.images))}

        def drawn() -> dict:
            tensors = Key.draw(method.message)
            return tensors | method.pattern(tensors, classes) | baseline

        # All have the same null: the largest score has the smallest p-value.
        best = max(
            (drawn() for _ in range(self.forged)),
            key=lambda tensors: method.exact(answers, tensors).score,
        )
        key = Key(best, method.detector(pattern=best["pattern"], baseline=best["baseline"]))
        marked, innocent = (
            rehearse(network, method.rehearsals, data, classes, fit) for network in (target, own)
        )
        harden(key.detector, marked, innocent, fit)
        return key.eval()


def claim(
    folder: Path, config: dict[str, Any], roles: Roles, fit: Fit, stolen: nn.Module
) -> dict[str, Any]:
    """Makes the stage of a forged claim: the stolen model and the thief's key for it."""
    from softmark.stages import KEY, MODEL, make

    save_network(stolen, folder / MODEL)
    method = make(config["method"])
    if not isinstance(method, SoftLabels):
        return {}
    key = make(config["attack"]).forge(method, stolen, roles.attacker, fit)
    commitment = key.commit(roles.judge)
    key.save(folder / KEY)
    return {"commitment": commitment}
