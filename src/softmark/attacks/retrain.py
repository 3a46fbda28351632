"""Fine-tuning after the last layer was drawn anew (RTAL and RTLL of Adi et al. 2018)."""

from torch import nn

from softmark.attacks.attack import Suspect
from softmark.attacks.finetune import FineTune
from softmark.data import Samples
from softmark.training import Fit


class ReTrain(FineTune):
    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Suspect:
        target.head.reset_parameters()
        return super().apply(target, data, fit)
