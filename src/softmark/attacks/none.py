"""No attack: the suspect is the model as it was stolen."""

from torch import nn

from softmark.attacks.attack import Attack, Suspect
from softmark.data import Samples
from softmark.training import Fit


class Keep(Attack):
    access = "weights"

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Suspect:
        return Suspect(target)
