"""Distillation by a thief with few pictures, who trains on them for as many steps as with all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from softmark.attacks.attack import Query, Suspect
from softmark.attacks.distill import Distill, Student
from softmark.data import Samples
from softmark.errors import InputError
from softmark.training import Fit, Recipe


class DistillFew(Distill):
    """``share``: the fraction of the thief's pictures that are used, drawn at random."""

    def __init__(
        self,
        recipe: Recipe,
        network: Callable[..., nn.Module],
        student: Callable[..., Student],
        share: float,
    ):
        if not 0 < share <= 1:
            raise InputError(f"attack.share={share}: a fraction above 0, at most 1")
        super().__init__(replace(recipe, epochs=round(recipe.epochs / share)), network, student)
        self.share = share

    def apply(self, target: Query, data: Samples, fit: Fit) -> Suspect:
        count = max(1, round(self.share * len(data)))
        return super().apply(target, data[torch.randperm(len(data))[:count]], fit)
