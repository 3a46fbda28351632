"""Neural laundering: the channels that react to a patch found are reset before it is unlearnt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.attacks.attack import AttackResult, check_positive
from softmark.attacks.neural_cleanse import NeuralCleanse, PatchedModule, patched
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Fit


@dataclass(kw_only=True, eq=False)
class Launder(NeuralCleanse):
    """Find patches as ``NeuralCleanse``, reset the channels that react, and unlearn the patches.

    Aiken et al., "Neural Network Laundering: Removing Black-Box Backdoor Watermarks from Deep
    Neural Networks" (Computers & Security 2021). A channel of the network's second half is reset
    where the smallest patch raises its mean activation, at the place where it does so most, by more
    than ``threshold``. What is reset is the weight of its BatchNorm, in the
    Watermark-Robustness-Toolbox the convolution's. The paper labels pictures of other classes than
    the trigger's with the class of the largest patch; here all keep their labels.
    """

    threshold: float = 0.5
    """Rise of a channel's mean activation above which it is reset; above 0."""

    def __post_init__(self) -> None:
        check_positive("threshold", self.threshold)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        norms = [module for module in target.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            raise InputError(f"attack: {type(target).__name__} has no BatchNorm to be reset")
        patches, note = self.find(target, data, fit)
        norms = norms[len(norms) // 2 :]
        smallest = patches[patches[:, 0].sum((1, 2)).argmin()][None]  # (1, 1 + C, H, W)
        count = self.reset(target, norms, data, smallest)
        module = PatchedModule(target, self.tuned_for(data), patches, self.fraction)
        total = sum(norm.num_features for norm in norms)
        note = f"{note}; {count} of {total} channels reset"
        return AttackResult(fit(module, data, "unlearn"), note=note)

    @torch.no_grad()
    def reset(
        self, target: nn.Module, norms: list[nn.BatchNorm2d], data: Samples, patch: Tensor
    ) -> int:
        """Give the channels that ``patch`` raises weight 0, in place; return how many."""
        target.eval()
        rises = [torch.zeros(()) for _ in norms]
        for images in data.inputs.split(500):
            inputs = as_input(images)
            with activations(norms) as clean:
                target(inputs)
            with activations(norms) as raised:
                target(patched(inputs, patch))
            pairs = zip(rises, clean, raised, strict=True)
            rises = [rise + new - old for rise, old, new in pairs]  # (C, H, W) each, summed
        count = 0
        for norm, rise in zip(norms, rises, strict=True):
            high = rise.amax((1, 2)) > self.threshold * len(data)  # (C,)
            norm.weight.masked_fill_(high, 0)
            count += int(high.sum())
        return count


@contextmanager
def activations(norms: list[nn.BatchNorm2d]) -> Iterator[list[Tensor]]:
    """Gather what a ReLU would leave of the output of each of ``norms``, summed: (C, H, W)."""
    gathered: list[Tensor] = []
    handles = [
        norm.register_forward_hook(lambda _, __, output: gathered.append(output.relu().sum(0)))
        for norm in norms
    ]
    try:
        yield gathered
    finally:
        for handle in handles:
            handle.remove()
