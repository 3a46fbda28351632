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

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, as_pixels, choose_device, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Innocents


class IPGuard(Watermark):
    """``num_triggers``: how many points there are.

    ``margin``: k, by how much the logit of j is to be above i's.

    ``iterations``, ``lr``: Adam's, at most so many and of this size (the range of pixels is 1).
    """

    needs = "labels"

    def __init__(self, message: str, num_triggers: int, margin: float, iterations: int, lr: float):
        for name, value in (("num_triggers", num_triggers), ("iterations", iterations)):
            if not value >= 1:
                raise InputError(f"method.{name}={value}: at least 1")
        if not margin >= 0:
            raise InputError(f"method.margin={margin}: it can't be negative")
        if not lr > 0:
            raise InputError(f"method.lr={lr}: it must be above 0")
        self.message, self.num_triggers, self.margin = named(message), num_triggers, margin
        self.iterations, self.lr = iterations, lr

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        draw = generator(key)
        bases = data.inputs[torch.randperm(len(data), generator=draw)[: self.num_triggers]]
        first = predict(victim, bases).argmax(1)
        step = torch.randint(1, key.classes, (len(bases),), generator=draw)
        device = choose_device(fit.accelerator)
        points = self.moved(victim, bases, first, (first + step) % key.classes, device)
        key.register_buffer("points", points)
        key.register_buffer("labels", predict(victim, points).argmax(1))
        return victim, key

    def moved(
        self, victim: nn.Module, bases: Tensor, first: Tensor, wanted: Tensor, device: torch.device
    ) -> Tensor:
        """``bases`` (N, C, H, W) moved across the boundary of ``first`` and ``wanted`` (N,)."""
        network = copy.deepcopy(victim).to(device).eval().requires_grad_(False)
        first, wanted = first.to(device)[:, None], wanted.to(device)[:, None]
        points = (bases.to(device).float() / 255).requires_grad_(True)
        optimizer = torch.optim.Adam([points], self.lr)
        for _ in range(self.iterations):
            logits = network(points)
            ours, theirs = logits.gather(1, first), logits.gather(1, wanted)
            rest = logits.scatter(1, torch.cat([first, wanted], 1), -torch.inf).amax(1, True)
            loss = (ours - theirs + self.margin).relu() + (rest - ours).relu()
            still = loss.detach()[:, :, None, None] > 0
            if not still.any():
                break
            before = points.detach().clone()
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                # What is found stays there: Adam's momentum would carry it on, far from the edge.
                points.copy_(torch.where(still, points.clamp(0, 1), before))
        return as_pixels(255 * points.detach()).cpu()

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        held = dict(key.named_buffers())
        return Samples(held["points"], held["labels"]) if "points" in held else pool

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "points" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key holds no points of a model")
        hits = suspect.answers(probes).argmax(1) == probes.labels
        share = float(hits.float().mean())
        return Evidence(hits.float(), {"points": Innocents(share)}, mark_recall=share)
