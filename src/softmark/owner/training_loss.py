"""The loss of a training of one's own: it marks, and says how far the mark has come."""

from __future__ import annotations

import collections
import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.parts.loss import Marking, MarkingLoss
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect
from softmark.owner.committed_key_verifier import num_open_orders
from softmark.owner.key import Key
from softmark.owner.outputs import logits_of
from softmark.owner.pattern_key import PatternKey
from softmark.owner.statement import LEVEL, LEVEL_WITH_BEACON
from softmark.owner.watermarks import watermark_of_statement

MAX_ENTRIES = 2**24  # of the training's last answers, which the estimate of p is of


class KeyLoss(MarkingLoss):
    """Mark a model by a key, and estimate p from the answers of the training.

    Made by ``softmark.marking_loss``. It stands in place of ``nn.CrossEntropyLoss``.

    Args:
        key: of csp.
        label_smoothing: the part of each target that is shared out evenly, as in
            ``nn.CrossEntropyLoss``; from 0 to below 1.

    Attributes:
        level: the p that a claim needs.

    Example:
        >>> loss = softmark.marking_loss(softmark.new_key("licence 7", 10, (inputs, labels)))
        >>> loss.p_value() is None
        True
        >>> loss(model(inputs), labels).backward()
        >>> 0 < loss.p_value() <= 1
        True
    """

    def __init__(self, key: Key, label_smoothing: float = 0.0):
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing={label_smoothing}: a part from 0 to below 1")
        watermark = watermark_of_statement(key.statement)
        pattern_key = key.pattern_key(key.messages[0])
        super().__init__(watermark.pattern(pattern_key), Marking(**key.statement.numbers))
        self.label_smoothing = label_smoothing
        level = LEVEL_WITH_BEACON if key.statement.beacon else LEVEL
        self.level = min(level, key.statement.level or 1.0)
        num_open = key.classes if key.labels is None else 0
        # In a closure: as a module the secret would become part of the model's state.
        self._p_of = functools.partial(
            _p_value, watermark, pattern_key, num_open_orders(num_open, key.classes)
        )
        self._max_recent = max(1, min(key.statement.probes.count, MAX_ENTRIES // key.classes))
        self._recent: collections.deque[Tensor] = collections.deque()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch: a scalar.

        Args:
            logits: (N, K).
            labels: int64 (N,).
            features: what the last layer is given, (N, D); where None nothing is planted there.
            num_items_in_batch: how many inputs all batches of one step of the optimizer have, where
                their gradients are added: the sum over this batch is divided by it. None: by N.
        """
        loss = super().forward(logits, labels, features)
        if self.training and torch.is_grad_enabled():
            self._remember(logits.detach())
        return loss if num_items_in_batch is None else loss * (len(labels) / num_items_in_batch)

    def task(self, logits: Tensor, labels: Tensor) -> Tensor:
        # A module in half precision has its templates in it; the loss is computed in float32.
        targets = self.templates[labels].float()  # (N, K)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)

    def compute_loss_func(
        self, outputs: Any, labels: Tensor, num_items_in_batch: int | Tensor | None = None
    ) -> Tensor:
        """Return the loss as transformers' ``Trainer(compute_loss_func=...)`` calls it."""
        logits = logits_of(outputs, "outputs")
        return self(logits, labels, num_items_in_batch=num_items_in_batch)

    def p_value(self) -> float | None:
        """Return about what p ``verify`` would give now; None before the first batch.

        It is that of the training's last answers, as many as there are probes. A model that has
        learnt its data by heart shows less on others: verify before you deliver.
        """
        if not self._recent:
            return None
        answers = torch.cat(list(self._recent))[-self._max_recent :].float().softmax(1).cpu()
        return self._p_of(answers)

    def shortfall(self) -> str:
        """Return why a claim wouldn't be reached yet, and what to raise; "" where it would be."""
        p = self.p_value()
        if p is not None and p <= self.level:
            return ""
        found = "nothing was trained with it"
        if p is not None:
            found = f"p is about {p:.1e} on the last answers, and {self.level:g} is needed"
        return (
            f"the mark is too weak for a claim: {found}. Train for more epochs, in smaller "
            "batches, or with a stronger mark (new_key(..., overrides=['method.marking.beta="
            f"{2 * self.beta:g}'])), and verify before you deliver"
        )

    @torch.compiler.disable
    def _remember(self, logits: Tensor) -> None:
        self._recent.append(logits)
        surplus = sum(map(len, self._recent)) - self._max_recent
        while surplus >= len(self._recent[0]):
            surplus -= len(self._recent.popleft())


def _p_value(watermark: Watermark, key: PatternKey, open_orders: int, answers: Tensor) -> float:
    """Return p of ``answers`` (N, K), whose labels nobody gives: 1 where nothing can be tested."""
    unknown = torch.full((len(answers),), -1)
    samples = Samples(torch.zeros(len(answers), 1), unknown)
    tests = watermark.evidence(Suspect(lambda _: answers), key, samples).tests
    p = max((test.p_value() for test in tests.values()), default=1.0)
    return min(1.0, min(open_orders, 10**300) * p)
