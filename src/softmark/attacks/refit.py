"""REFIT: fine-tuning from a large rate with few labels, held together by two means (Chen 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.attacks.attack import Attack, AttackResult, check, check_count, check_not_negative
from softmark.attacks.distill import as_many_steps, count_of
from softmark.attacks.finetune import last_layer
from softmark.attacks.repairs import LongTraining
from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples, concatenate
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict

LABELLED_A_STRANGER = 2  # labelled pictures for each that the stolen model has labelled


def fisher_information(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the diagonal of each parameter's Fisher information, over the largest of all.

    A picture's part is the squared gradient of the log-probability of a class that is drawn as the
    network answers.

    Args:
        network: Gives logits (N, K); in eval mode.
        inputs: (N, ...), as it takes them.
    """
    names, weights = zip(*network.named_parameters(), strict=True)
    total = [torch.zeros_like(weight) for weight in weights]
    for one in inputs.split(1):
        log_p = network(one).float().log_softmax(1)[0]  # (K,)
        drawn = int(torch.multinomial(log_p.detach().exp(), 1))
        slopes = torch.autograd.grad(log_p[drawn], weights, allow_unused=True)
        for sum_, slope in zip(total, slopes, strict=True):
            if slope is not None:
                sum_ += slope.square()
    largest = torch.stack([sum_.max() for sum_ in total]).max().clamp_min(1e-30)
    return {name: sum_ / largest for name, sum_ in zip(names, total, strict=True)}


class ElasticModule(Classifier):
    """Learn the labels, and hold each weight where it was, the more the answers depend on it.

    The penalty is ``elastic`` / 2 times F (w - w_0)^2, summed over all weights but the last
    layer's; F is at most 1 / (lr ``elastic``), as a step would overshoot otherwise.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, fisher: dict[str, Tensor], elastic: float
    ):
        super().__init__(network, recipe)
        self.elastic = elastic
        free = {id(weight) for weight in last_layer(network).parameters()}
        self.held = [name for name, weight in network.named_parameters() if id(weight) not in free]
        start = dict(network.named_parameters())
        most = 1 / (recipe.lr * elastic)
        for number, name in enumerate(self.held):
            self.register_buffer(f"fisher_{number}", fisher[name].clamp(max=most), False)
            self.register_buffer(f"start_{number}", start[name].detach().clone(), False)

    def loss(self, batch: Batch) -> Tensor:
        weights, held = dict(self.network.named_parameters()), dict(self.named_buffers())
        moved = [
            (held[f"fisher_{number}"] * (weights[name] - held[f"start_{number}"]).square()).sum()
            for number, name in enumerate(self.held)
        ]
        return super().loss(batch) + self.elastic / 2 * sum(moved)


@dataclass(kw_only=True, eq=False)
class Refit(LongTraining, Attack):
    """Fine-tune from a large learning rate with few labels: REFIT.

    Chen et al., "REFIT: A Unified Watermark Removal Framework for Deep Learning Systems with
    Limited Data" (AsiaCCS 2021). Two means keep the accuracy: elastic weight consolidation (EWC),
    and unlabelled pictures that the stolen model labels (AU). What differs: the rate has the
    recipe's cycle, theirs falls by a tenth an epoch; the bound of F is that at its peak; unlabelled
    pictures are the attacker's others, theirs are of another data set.
    """

    access = "weights"

    epochs_factor: float = 3.0
    """Epochs over the recipe's; above 0, and one at least is left."""
    lr_factor: float = 5.0
    """Peak learning rate over the recipe's; above 0."""
    labelled: float = 0.2
    """Pictures whose labels the attacker knows, or a fraction of them below 1; above 0."""
    elastic: float = 10.0
    """Weight of what holds the weights (EWC); 0 for nothing."""
    fisher_samples: int = 1000
    """Labelled pictures at most from which the Fisher information is taken; at least 1."""
    unlabelled: bool = False
    """Whether the other pictures are learnt, too, with the stolen model's labels (AU)."""

    def __post_init__(self) -> None:
        check(self.labelled > 0, "labelled", self.labelled, "a number of pictures, or a fraction")
        check_not_negative("elastic", self.elastic)
        check_count("fisher_samples", self.fisher_samples)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        count = count_of(self.labelled, data)
        few = data[:count]
        samples = self.with_others(few, target, data[count:]) if self.unlabelled else few
        recipe = as_many_steps(self.tuned, len(samples), len(data))
        module = Classifier(target, recipe)
        if self.elastic:
            shown = as_input(few.inputs[: self.fisher_samples])
            fisher = fisher_information(target.eval(), shown)
            module = ElasticModule(target, recipe, fisher, self.elastic)
        return AttackResult(fit(module, samples, "refit"))

    def with_others(self, few: Samples, target: nn.Module, others: Samples) -> Samples:
        """Return ``few`` and ``others`` with ``target``'s labels, ``few`` twice as often in all."""
        left = len(others)
        check(left > 0, "labelled", self.labelled, "no picture is left without a label")
        often = max(1, round(LABELLED_A_STRANGER * left / len(few)))
        answers = predict(target, others.inputs).argmax(1)
        return concatenate([few] * often + [Samples(others.inputs, answers)])
