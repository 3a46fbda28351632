"""IPGuard: points near the decision boundary (Cao et al. 2021, "IPGuard ...").

Nothing is embedded. A picture of the owner's that the victim answers with class i is moved by
gradient steps until another class j, drawn by the key, is the likeliest and i comes next:
min relu(Z_i - Z_j + k) + relu(max_t Z_t - Z_i), with the logits Z and t other than i and j. These
points are the fingerprint, with the victim's answers to them; a suspect that gives most of the same
answers is said to be the victim's copy.

Taken from it: the loss, the random j, Adam. What differs: the points are pictures of 8 bits, inside
the range of pixels, and their labels are the victim's answers to these. What the key draws decides
nothing about an innocent's answers, so that only innocents tell how many match by chance. Whoever
holds a model can make such points for it: the commitment says who did so first, and no more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.devices import choose_device
from softmark.methods.key import Key, check_message, generator
from softmark.methods.parts.checks import check_above_zero, check_at_least_one, check_not_negative
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Innocents


@dataclass(frozen=True, kw_only=True)
class IPGuard(Watermark):
    """Fingerprint a model by points near its decision boundary; nothing is embedded.

    Source: Cao et al. 2021, "IPGuard: Protecting Intellectual Property of Deep Neural Networks via
    Fingerprinting the Classification Boundary" (arXiv 1910.12903).

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> pictures = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8)
        >>> method = IPGuard(num_triggers=10, iterations=20)
        >>> _, key = method.embed(model, Samples(pictures, torch.zeros(30).long()), Fit())
        >>> method.evidence(model, key, method.probes(key, pictures)).mark_recall
        1.0
    """

    needs = "labels"

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    num_triggers: int = 100
    """Points. At least 1."""
    margin: float = 5.0
    """k, by how much the logit of the class beyond the boundary is to be above. From 0 on."""
    iterations: int = 1000
    """Steps of Adam at most, until all points are found. At least 1."""
    lr: float = 0.01
    """Of Adam, on pixels from 0 to 1. Above 0."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_at_least_one(self, "num_triggers", "iterations")
        check_not_negative(self, "margin")
        check_above_zero(self, "lr")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        draw = generator(key)
        bases = data.inputs[torch.randperm(len(data), generator=draw)[: self.num_triggers]]
        first = predict(victim, bases).argmax(1)
        step = torch.randint(1, key.classes, (len(bases),), generator=draw)
        device = choose_device(fit.accelerator)
        points = self.move(victim, bases, first, (first + step) % key.classes, device)
        key.register_buffer("points", points)
        key.register_buffer("labels", predict(victim, points).argmax(1))
        return victim, key

    def move(
        self, victim: nn.Module, bases: Tensor, first: Tensor, second: Tensor, device: torch.device
    ) -> Tensor:
        """Return ``bases`` (N, C, H, W), moved across the boundary of two classes.

        ``first`` (N,): the victim's answers to ``bases``. ``second`` (N,): the classes beyond.
        """
        network = copy.deepcopy(victim).to(device).eval().requires_grad_(False)
        first, second = first.to(device)[:, None], second.to(device)[:, None]  # (N, 1)
        points = (bases.to(device).float() / 255).requires_grad_(True)
        optimizer = torch.optim.Adam([points], self.lr)
        for _ in range(self.iterations):
            loss = boundary_loss(network(points), first, second, self.margin)  # (N, 1)
            is_moving = loss.detach()[:, :, None, None] > 0
            if not is_moving.any():
                break
            before = points.detach().clone()
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                # What has arrived stays there: Adam's momentum would carry it on, far beyond.
                points.copy_(torch.where(is_moving, points.clamp(0, 1), before))
        return as_pixels(255 * points.detach()).cpu()

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        buffers = dict(key.named_buffers())
        return Samples(buffers["points"], buffers["labels"]) if "points" in buffers else pool

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "points" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key holds no points of a model")
        hits = suspect.answers(probes).argmax(1) == probes.labels
        recall = float(hits.float().mean())
        return Evidence(hits.float(), {"points": Innocents(recall)}, mark_recall=recall)


def boundary_loss(logits: Tensor, first: Tensor, second: Tensor, margin: float) -> Tensor:
    """Return how far points are from where they are to be: relu(Z_i - Z_j + k) + relu(Z_t - Z_i).

    Args:
        logits: Z, (N, K).
        first: i, the class of the victim's answer before, (N, 1).
        second: j, the class beyond the boundary, (N, 1).
        margin: k.

    Returns:
        (N, 1); t is the likeliest class but i and j.
    """
    ours, theirs = logits.gather(1, first), logits.gather(1, second)
    others = logits.scatter(1, torch.cat([first, second], 1), -torch.inf).amax(1, True)
    return (ours - theirs + margin).relu() + (others - ours).relu()
