"""An innocent model, judged as if accused: trained on data of its own, never near the victim."""

from __future__ import annotations

from dataclasses import dataclass

from softmark.attacks.attack import RECIPE, Attack, AttackResult
from softmark.attacks.distill import as_many_steps, check_samples, count_of
from softmark.attacks.shadow import NetworkFactory, new_network
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit


@dataclass(kw_only=True, eq=False)
class Independent(Attack):
    """Train a model that asks the target nothing: a claim on this suspect is a false one."""

    access = "labels"
    innocent = True

    recipe: Recipe = RECIPE
    """How the model is trained."""
    network: NetworkFactory | None = None
    """The model's architecture, with new weights; None in a call: the target's own."""
    samples: float = 1e9
    """Labelled pictures that there are, or a fraction of them below 1, in as many steps."""

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        few = data[: count_of(self.samples, data)]
        recipe = as_many_steps(self.recipe, len(few), len(data))
        network = new_network(self.network, data, target.classes)
        return AttackResult(fit(Classifier(network, recipe), few, "independent"))
