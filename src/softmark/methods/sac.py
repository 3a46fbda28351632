"""SAC: how answers to hard pictures resemble each other (Guan et al. 2022).

"Are You Stealing My Model? Sample Correlation for Fingerprinting Deep Neural Networks". Nothing is
embedded. For pictures x_1, ..., x_T that the victim gets wrong, C is the matrix of the cosines
between a model's answers to each two of them; the statistic is

    -mean over i, j of |C_victim - C_suspect|

Taken: the statistic, wrongly answered pictures (SAC-w) and mixtures after them (SAC-m). Other than
there, answers are probabilities and not logits, since no interface tells these; the wrong pictures
are the owner's own (those of ``akh``); and innocents say what is near by chance, where the paper
gives areas under a curve.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.methods.akh import AKH
from softmark.methods.key import Key
from softmark.models.access import Suspect
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Innocents


@dataclass(frozen=True, kw_only=True)
class SAC(AKH):
    """Compare how answers to pictures that the victim gets wrong resemble each other.

    Source: Guan et al. 2022, "Are You Stealing My Model? Sample Correlation for Fingerprinting Deep
    Neural Networks" (NeurIPS, arXiv 2210.15427).

    Example:
        >>> import torch
        >>> cosines(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]))[0].tolist()
        [1.0, 0.0, 1.0]
    """

    needs = "probabilities"

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "pictures" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key holds no pictures of a model's mistakes")
        answers = suspect.answers(probes).float()  # (N, K)
        differences = (cosines(answers) - cosines(key.answers[: len(answers)])).abs()  # (N, N)
        scores = -differences.mean(1)  # (N,)
        return Evidence(scores, {"correlation": Innocents(float(scores.mean()))})


def cosines(answers: Tensor) -> Tensor:
    """Return the cosine between each two of ``answers`` (N, K): (N, N)."""
    unit = F.normalize(answers, dim=1)
    return unit @ unit.T
