"""The same function by other weights: channels permuted, rescaled, and more of them.

No prediction and no answer changes. What a white-box mark reads at its place, in its size, is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.attacks.attack import Attack, AttackResult, check, check_not_negative
from softmark.attacks.channels import Group, channel_groups, remap
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.kinds import build_node, mismatches
from softmark.models.networks import KINDS
from softmark.training import Fit


@dataclass(kw_only=True, eq=False)
class Rescale(Attack):
    """Permute channels, and make each larger where it is written and smaller where it is read.

    The simplest obfuscation of Yan et al., "Rethinking White-Box Watermarks on Deep Learning Models
    under Neural Structural Obfuscation" (2023): it changes no shape. In networks whose blocks add
    up before they normalise (WideResNet) the channels inside of blocks alone.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> inputs = torch.rand(8, 2)
        >>> suspect = Rescale()(model, (inputs, torch.arange(8) % 3))
        >>> bool(torch.allclose(suspect(inputs), model(inputs), atol=1e-4))
        True
        >>> bool(torch.allclose(suspect[0].weight, model[0].weight))
        False
    """

    access = "weights"

    spread: float = 2.0
    """Logarithm of the largest factor of a channel; 0 or more, where 0 permutes alone."""

    def __post_init__(self) -> None:
        check_not_negative("spread", self.spread)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        for group in channel_groups(target):
            source = torch.randperm(group.size)
            remap(group, source, torch.ones(group.size), self.spread)
        return AttackResult(target)


@dataclass(kw_only=True, eq=False)
class Obfuscate(Rescale):
    """Add channels that change nothing, then permute and rescale all.

    Neural structural obfuscation (Yan et al. 2023): new channels that nobody reads (NSO-zero),
    copies of one channel that cancel (NSO-clique), and a channel that is split into several
    (NSO-split), a third of each. Every layer gets wider by the same factor, so that a network of
    the same kind holds the result; the paper adds a few to each layer. Not in WideResNet, whose
    blocks add up before they normalise.
    """

    factor: int = 2
    """How many times as many channels each layer gets; at least 2."""

    def __post_init__(self) -> None:
        check(self.factor >= 2, "factor", self.factor, "at least 2")
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        for group in channel_groups(target):
            source, parts = self.widened(group)
            order = torch.randperm(len(source))
            remap(group, source[order], parts[order], self.spread)
        node = getattr(target, "node", None)
        if isinstance(node, dict):
            target.node = wider(node, self.factor, target)
        return AttackResult(target)

    def widened(self, group: Group) -> tuple[Tensor, Tensor]:
        """Return the channel that each new one copies, and how much of it is read there."""
        source, parts = torch.arange(group.size), torch.ones(self.factor * group.size)
        more = torch.randint(group.size, ((self.factor - 1) * group.size,))
        unread, cancelling, split = more.tensor_split(3)
        # Each of a clique is read with a sign of its own, the copied one with what makes up for it.
        source, sizes = torch.cat([source, unread, cancelling, split]), torch.rand(len(more))
        read = torch.cat(
            [
                torch.zeros(len(unread)),
                (sizes + 0.5)[: len(cancelling)] * (1 - 2 * (torch.rand(len(cancelling)) < 0.5)),
                sizes[: len(split)] / self.factor,
            ]
        )
        parts[group.size :] = read
        parts[: group.size] -= torch.zeros(group.size).index_add(0, source[group.size :], read)
        return source, parts


def wider(node: dict, factor: int, network: nn.Module) -> dict:
    """Return ``node`` of a network ``factor`` times as wide, which holds ``network``.

    Raises ``InputError`` where no network of the same kind holds it.
    """
    if "width" in node and node["kind"] in KINDS.values():
        wide = {**node, "width": factor * node["width"]}
        if not any(mismatches(build_node(wide, {}).state_dict(), network.state_dict())):
            return wide
    raise InputError(
        f"attack: no {node['kind']} holds {factor} times as many channels in each layer"
    )
