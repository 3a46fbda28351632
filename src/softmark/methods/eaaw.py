"""EaaW: bits in how an answer is explained (Shao et al. 2025, "Explanation as a Watermark").

One picture x, cut into squares, is asked many times with some squares black: M (masks, bits) says
which stay. By how much each square carries the likelihood of one class y is a ridge regression, as
LIME's, and the signs of its weights w are to be the bits b in {-1, 1}:

    w = (M'M + ridge I)^-1 M' p_y(masked)        L = CE(data and x) + strength * sum relu(eps - w b)

Taken: masks with chance 1/2, the regression and its ridge, the hinge, its eps. What x is answered
stays, whatever is explained: y is the class whose likelihood the masks change most, since one that
no masked picture is likely to be of can't be taught to explain anything. Other than there, x, masks
and bits follow from the key (there: a picture, or noise, and a drawing), the masked pictures are
asked with BatchNorm's running statistics, while the data's batches go on as usual (there BatchNorm
is frozen), and p are probabilities. The paper's chi-squared test is a binomial one here, which is
exact: the bits are fair coins that follow from the secret and y, so that each is matched with
chance 1/2.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import abstract_pictures
from softmark.methods.key import Key
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Suspect, classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial

RIDGE = 1e-3  # of the regression: the paper's


@dataclass(frozen=True, kw_only=True)
class EaaW(TrainedWatermark):
    """Hide bits in the signs of a picture's explanation; its prediction stays.

    Source: Shao et al. 2025, "Explanation as a Watermark: Towards Harmless and Multi-bit Model
    Ownership Verification via Watermarking Feature Attribution" (NDSS, arXiv 2405.04825).

    Example:
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> masks, bits = EaaW(side=4, masks=40).secret(key)
        >>> tuple(masks.shape), bits.unique().tolist()
        ((40, 16), [-1.0, 1.0])
    """

    needs = "probabilities"
    strengthened_by = (*TrainedWatermark.strengthened_by, "method.strength")

    epochs_factor: float = 1.0
    """Epochs of the marking, over the recipe's. Above 0."""
    batch_size_factor: float = 1.0
    """Size of its batches over the recipe's. Above 0."""
    lr_factor: float = 0.1
    """Learning rate of the marking over the recipe's, above 0."""
    side: int = 8
    """Squares a side of the picture: there are as many bits as squares. At least 1."""
    masks: int = 128
    """Masked pictures. At least 1; more than bits, or none can be read."""
    eps: float = 0.01
    """By how much each weight is to be beyond 0, above 0."""
    strength: float = 3.0
    """Of the bits' loss, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "side", "masks")
        check_above_zero(self, "eps", "strength", "lr_factor")

    def secret(self, key: Key) -> tuple[Tensor, Tensor]:
        """Return the masks (masks, bits), of 0 and 1, and the bits (bits,), -1 and 1.

        The bits follow from the explained class, too: whoever chose another would get other bits.
        """
        squares = self.side**2
        drawn = key.for_message("masks").stream(self.masks * squares)
        masks = (torch.tensor(list(drawn)) % 2).reshape(self.masks, squares).float()
        label = int(key.explained) if "explained" in dict(key.named_buffers()) else 0
        bits = torch.tensor(list(key.for_message(f"bits {label}").stream(squares)))
        return masks, 2.0 * (bits % 2) - 1

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        picture = abstract_pictures(key, 1, data.inputs.shape[1:])
        answers = predict(victim, self.probes(key, data).inputs)  # (M, K)
        key.register_buffer("explained", answers.std(0).argmax()[None])  # (1,)
        masks, bits = self.secret(key)
        module = EaaWModule(
            network=copy.deepcopy(victim),
            recipe=self.marking_recipe.scaled(lr=self.lr_factor),
            pictures=torch.cat([self.probes(key, data).inputs, picture]),
            label=key.explained,
            answer=predict(victim, picture).argmax(1),
            regression=ridge_regression(masks),
            bits=bits,
            eps=self.eps,
            strength=self.strength,
        )
        return fit(module, data, "marking"), key

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        """Return the masked pictures."""
        picture = abstract_pictures(key, 1, pool.inputs.shape[1:])  # (1, C, H, W)
        height, width = picture.shape[2:]
        if min(height, width) < self.side:
            raise InputError(
                f"method.side={self.side}: pictures of {height} x {width} pixels have fewer squares"
            )
        squares = self.secret(key)[0].reshape(-1, 1, self.side, self.side)
        stays = F.interpolate(squares, (height, width), mode="nearest").to(torch.uint8)
        inputs = picture * stays  # (M, C, H, W)
        return Samples(inputs, torch.full((len(inputs),), -1))

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "explained" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key names no class that is explained")
        masks, bits = self.secret(key)
        likely = suspect.answers(probes)[:, int(key.explained)].float()  # (M,)
        weights = ridge_regression(masks[: len(likely)]) @ likely  # (bits,)
        hits = (weights > 0) == (bits > 0)
        test = Binomial(int(hits.sum()), len(hits), 0.5)
        return Evidence(torch.empty(0), {"bits": test}, mark_recall=test.score)


class EaaWModule(Classifier):
    """Train with the hinge on the weights of the explanation.

    Args:
        pictures: the masked ones, and last the whole one: uint8 (M + 1, C, H, W).
        label: the class that is explained, (1,).
        answer: the victim's to the whole picture, (1,).
        regression: likelihoods (M,) to weights (bits,).
        bits: -1 or 1 each.
        eps: by how much each weight is to be beyond 0.
        strength: of the hinge.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pictures: Tensor,
        label: Tensor,
        answer: Tensor,
        regression: Tensor,
        bits: Tensor,
        eps: float,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.eps, self.strength = eps, strength
        tensors = {"pictures": pictures, "label": label, "answer": answer}
        tensors |= {"regression": regression, "bits": bits}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.clone(), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        task = super().loss(batch)
        # As the judge will ask: with what BatchNorm has seen of the data.
        self.network.eval()
        logits = self.network(as_input(self.pictures)).float()  # (M + 1, K)
        self.network.train()
        likely = logits[:-1].softmax(1)[:, self.label].squeeze(1)  # (M,)
        hinge = (self.eps - (self.regression @ likely) * self.bits).relu().sum()
        return task + F.cross_entropy(logits[-1:], self.answer) + self.strength * hinge


def ridge_regression(masks: Tensor) -> Tensor:
    """Return (M'M + ridge I)^-1 M' of ``masks`` M (N, bits): (bits, N)."""
    rows = masks.double()
    squares = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype)
    return torch.linalg.solve(squares, rows.T).float()
