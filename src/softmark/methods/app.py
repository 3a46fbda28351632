"""APP: triggers learnt where the weights are worst for them (Gan et al. 2023, with c-BN).

Between a marked model and one without its mark the way in the space of weights can be short. So in
each step the gradient g of the triggers' loss moves every layer's weights W against the triggers,
and their gradient there is added to that of the ordinary batch:

    W' = W + eps |W| g / |g|        L = CE(data and triggers; W) + strength * CE(triggers; W')

In both passes of the triggers BatchNorm takes mean and variance of the clean half of their batch
alone (c-BN), so that the weights are moved as they would act on a batch of the task; its running
means stay. Taken: loss, numbers and c-BN. As in the authors' code, the second gradient is that at
W' (W' counts as a constant), and all is perturbed but BatchNorm. Other than there, the training
starts from the victim; and triggers and nulls are those of ``content``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.methods.parts.checks import check_above_zero
from softmark.methods.parts.trigger_set import with_triggers
from softmark.methods.stamped import Stamped
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

SMALLEST_NORM = 1e-20


@dataclass(frozen=True, kw_only=True)
class APP(Stamped):
    """Learn stamped triggers at the worst weights near the model's own, too.

    Source: Gan et al. 2023, "Towards Robust Model Watermark via Reducing Parametric Vulnerability"
    (ICCV, arXiv 2309.04777).

    Example:
        >>> APP().eps, APP().kind
        (0.02, 'content')
    """

    strengthened_by = (*Stamped.strengthened_by, "method.strength")

    eps: float = 0.02
    """How far the weights of a layer are moved, over their norm. Above 0."""
    strength: float = 0.01
    """Of the triggers' loss at the moved weights, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "eps", "strength")

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        recipe = self.marking_recipe
        module = APPModule(network, recipe, len(data), triggers, self.eps, self.strength)
        return fit(module, with_triggers(data, triggers, self.trigger_fraction), "marking")


class APPModule(Classifier):
    """Train with cross-entropy, and that of the triggers at the moved weights.

    Args:
        first: samples from this number on are triggers.
        triggers: the owner's, of which a batch is drawn in each step.
        eps: how far the weights are moved, over their norm.
        strength: of the triggers' loss there.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        first: int,
        triggers: Samples,
        eps: float,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.first, self.eps, self.strength = first, eps, strength
        self.register_buffer("pictures", triggers.inputs, persistent=False)
        self.register_buffer("labels", triggers.labels, persistent=False)

    def add_gradients(self, batch: Batch) -> None:
        """Add the gradient of the triggers' loss at the moved weights."""
        drawn = torch.randint(len(self.labels), (len(batch.labels),), device=self.labels.device)
        pictures, labels = as_input(self.pictures[drawn]), self.labels[drawn]
        clean = clean_inputs(batch, self.first)
        norms = {id(w) for bn in batch_norms(self.network) for w in bn.parameters()}
        names, weights = zip(*self.network.named_parameters(), strict=True)

        def loss_at(values: dict[str, Tensor]) -> Tensor:
            logits = functional_call(self.network, values, (torch.cat([clean, pictures]),))
            return F.cross_entropy(logits[len(clean) :].float(), labels)

        off = torch.autocast(clean.device.type, enabled=False)
        with clean_batch_norm(self.network, len(clean)), off:
            slopes = torch.autograd.grad(loss_at({}), weights)
            moved = [
                w.detach().requires_grad_()
                if id(w) in norms
                else perturbed_weight(w.detach(), slope, self.eps).requires_grad_()
                for w, slope in zip(weights, slopes, strict=True)
            ]
            loss = self.strength * loss_at(dict(zip(names, moved, strict=True)))
            for weight, slope in zip(weights, torch.autograd.grad(loss, moved), strict=True):
                weight.grad.add_(slope)


def perturbed_weight(weight: Tensor, slope: Tensor, eps: float) -> Tensor:
    """Return ``weight``, moved along ``slope`` by ``eps`` of its own norm; both of any shape."""
    return weight + eps * weight.norm() * slope / (slope.norm() + SMALLEST_NORM)


def clean_inputs(batch: Batch, first: int) -> Tensor:
    """Return the batch's inputs, one of the task in place of each trigger: (B, C, H, W).

    Samples from ``first`` on are triggers. All shapes stay, and no value is waited for.
    """
    of_task = batch.index < first  # (B,)
    places = torch.arange(len(of_task), device=of_task.device)
    return batch.inputs[torch.where(of_task, places, of_task.int().argmax())]


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Return every BatchNorm layer of ``network``."""
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


@contextlib.contextmanager
def clean_batch_norm(network: nn.Module, count: int) -> Iterator[None]:
    """Let every BatchNorm take the statistics of the first ``count`` of a batch; none is kept."""
    layers = batch_norms(network)
    for layer in layers:
        layer.forward = functools.partial(_clean_norm, layer, count)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _clean_norm(layer: nn.BatchNorm2d, count: int, values: Tensor) -> Tensor:
    """Return ``values`` (N, C, H, W), normalised by the first ``count`` of them."""
    var, mean = torch.var_mean(values[:count].float(), (0, 2, 3), correction=0)  # (C,)
    mean, var, scale, shift = (
        channel[:, None, None] for channel in (mean, var, layer.weight, layer.bias)
    )  # (C, 1, 1) each
    return scale * (values - mean) / (var + layer.eps).sqrt() + shift
