"""AKH: what the victim gets wrong (Godinot et al. 2025, "Queries, Representation & Detection").

The plain baseline that fingerprints are measured against, the Anna Karenina heuristic: models that
are right are alike, and each is wrong in its own way. Nothing is embedded. The owner keeps pictures
that the victim answers wrongly, with these answers; the statistic is the part of them on which a
suspect answers the same.

Taken: the choice of pictures and the statistic. Other than there, the pictures are the owner's,
which the victim has learnt, so that few are wrong: mixtures follow, in which a part of one picture
is laid over another (CutMix, as in Guan et al. 2022), and which the victim answers with neither
class of the two but a third, or else with that of the smaller part. Only innocents tell how many
agree by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples, concatenate
from softmark.errors import InputError
from softmark.methods.key import Key, check_message, generator
from softmark.methods.parts.checks import check_at_least_one, check_fraction
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Innocents

ROUNDS = 50  # of mixtures of the owner's pictures; a victim that is right on all of them has none


@dataclass(frozen=True, kw_only=True)
class AKH(Watermark):
    """Compare the answers to pictures that the victim gets wrong; nothing is embedded.

    Source: Godinot et al. 2025, "Queries, Representation & Detection: The Next 100 Model
    Fingerprinting Schemes" (AAAI, arXiv 2412.13021).

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> pictures = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8)
        >>> method = AKH(num_triggers=10)
        >>> _, key = method.embed(model, Samples(pictures, torch.arange(30) % 10), Fit())
        >>> method.evidence(model, key, method.probes(key, pictures)).mark_recall
        1.0
    """

    needs = "labels"

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    num_triggers: int = 100
    """Pictures that the victim answers wrongly. At least 1."""
    area: float = 0.4
    """Of a mixture that is another picture's. Between 0 and 1."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_at_least_one(self, "num_triggers")
        check_fraction(self, "area")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        wrong = mistakes(victim, data, self.num_triggers, self.area, generator(key))
        key.register_buffer("pictures", wrong.inputs.contiguous())
        key.register_buffer("answers", predict(victim, wrong.inputs))  # (T, K)
        return victim, key

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        if "pictures" not in dict(key.named_buffers()):
            return pool
        return Samples(key.pictures, key.answers.argmax(1))

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "pictures" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key holds no pictures of a model's mistakes")
        hits = suspect.answers(probes).argmax(1) == probes.labels  # (N,)
        recall = float(hits.float().mean())
        return Evidence(hits.float(), {"mistakes": Innocents(recall)}, mark_recall=recall)


def mistakes(
    victim: nn.Module, data: Samples, count: int, area: float, draw: torch.Generator
) -> Samples:
    """Return pictures that ``victim`` answers wrongly, at most ``count``, with their true labels.

    Those of ``data`` first, then mixtures of two pictures of different classes each, of which the
    larger part's label is the true one.

    Raises:
        InputError: it is right on all of them.
    """
    found = [data[predict(victim, data.inputs).argmax(1) != data.labels]]
    for _ in range(ROUNDS):
        if sum(map(len, found)) >= count:
            break
        others = data[torch.randperm(len(data), generator=draw)]
        mixed = Samples(cut_and_paste(data.inputs, others.inputs, area, draw), data.labels)
        is_wrong = predict(victim, mixed.inputs).argmax(1) != data.labels
        found.append(mixed[is_wrong & (others.labels != data.labels)])
    wrong = concatenate(found)[:count]
    if not len(wrong):
        raise InputError(
            f"method.area={area}: the model is right on all {len(data)} pictures and on "
            f"{ROUNDS * len(data)} mixtures of them: a larger one"
        )
    return wrong


def cut_and_paste(below: Tensor, above: Tensor, area: float, draw: torch.Generator) -> Tensor:
    """Return pictures ``below`` with a rectangle of those ``above`` in their place.

    One rectangle for all, of the pictures' form, at a random place.

    Args:
        below: (N, C, H, W).
        above: (N, C, H, W).
        area: of the rectangle over that of a picture.
        draw: of its place.
    """
    sides = [max(1, round(area**0.5 * size)) for size in below.shape[2:]]
    top, left = (
        int(torch.randint(size - side + 1, (), generator=draw))
        for size, side in zip(below.shape[2:], sides, strict=True)
    )
    mixed = below.clone()
    place = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
    mixed[place] = above[place]
    return mixed
