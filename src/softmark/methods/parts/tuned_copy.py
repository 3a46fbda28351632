"""Teach a mark where fine-tuning would bring the network, too: it then outlives fine-tuning.

A mark that is taught at a network's own weights alone can vanish a few steps away from them. So a
copy of the network walks the way of a thief, who trains it on the labels; the gradient of the
mark's loss at the copy's weights is added to the network's own. That is the first-order gradient
of the mark after so many of the thief's steps (Finn et al., "Model-Agnostic Meta-Learning", 2017,
section 5.2; used against fine-tuning by Tamirisa et al., "Tamper-Resistant Safeguards for
Open-Weight LLMs", 2024). Gan et al., "Towards Robust Model Watermark via Reducing Parametric
Vulnerability" (ICCV 2023) take one step against the mark itself instead; measured on digits, the
thief's own way holds for longer trainings (docs/settings/strength.md).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.models.files import below
from softmark.recipe import Recipe

EVERY = 3  # steps of the network for each of the copy


class TunedCopy:
    """Hold a copy of ``network`` that is fine-tuned on labels, and made anew every so often.

    No module, so that the optimizer of the network doesn't train the copy.

    Args:
        network: what is marked; its parameters have gradients when ``add_gradients`` is called.
        recipe: of the marking, whose peak learning rate and momentum the copy is tuned with.
        mark_loss: logits (B, K) and labels (B,) to the loss of the mark, a scalar.
        most_steps: the copy is made anew after 1 to so many of its steps, evenly drawn. At least 1.
        weight: of the mark's loss at the copy's weights, above 0.
        task_size: the first so many training samples are the task's, on which the copy is tuned
            and the mark is learnt at its weights; None for all. Triggers come behind them: a thief
            doesn't have these, and a copy that has forgotten them has nothing to teach.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        mark_loss: Callable[[Tensor, Tensor], Tensor],
        most_steps: int,
        weight: float,
        task_size: int | None = None,
    ):
        self.network = network
        self.recipe = recipe
        self.mark_loss = mark_loss
        self.most_steps = most_steps
        self.weight = weight
        self.task_size = task_size
        # Copies live for numbers of steps that no device is asked for.
        self.seed = int(torch.randint(2**31, ()))
        self.copies = 0
        self.steps_left = 0  # of the copy
        self.wait = 0  # steps of the network until the copy's next

    def add_gradients(self, batch: Batch) -> None:
        """Add the mark's gradient at the copy's weights to the network's, and tune the copy on.

        At each ``EVERY``-th call; a copy that was just made is only tuned.
        """
        if self.wait:
            self.wait -= 1
            return
        self.wait = EVERY - 1
        is_fresh = self.steps_left == 0
        if is_fresh:
            self._renew()
            drawn = random.Random(f"{self.seed}/{self.copies}").randint(1, self.most_steps)
            self.copies, self.steps_left = self.copies + 1, 1 + drawn
        logits, labels = self.copy(batch.inputs), batch.labels  # (B, K), (B,)
        if self.task_size is not None:
            of_task = batch.index < self.task_size  # (B,)
            # The first one of the task takes the place of each trigger: all shapes stay.
            places = torch.arange(len(labels), device=labels.device)
            places = torch.where(of_task, places, of_task.int().argmax())
            logits, labels = logits[places], labels[places]
        if not is_fresh:
            self._add_mark_gradient(logits, labels)
        self._tune(logits, labels)
        self.steps_left -= 1

    def state(self) -> dict[str, Tensor]:
        """Return what a training that is interrupted needs to go on as undisturbed."""
        counters = [self.steps_left, self.wait, self.copies, self.seed]
        state = {"counters": torch.tensor(counters)}
        if self.steps_left:
            state |= {f"weights.{name}": value for name, value in self.copy.state_dict().items()}
            for number, weight in enumerate(self.copy.parameters()):
                momentum = self.optimizer.state[weight].get("momentum_buffer")
                state |= {} if momentum is None else {f"momentum.{number}": momentum}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what ``state`` gave."""
        self.steps_left, self.wait, self.copies, self.seed = state["counters"].tolist()
        if not self.steps_left:
            return
        self._renew()
        self.copy.load_state_dict(below("weights.", state))
        for number, weight in enumerate(self.copy.parameters()):
            if (momentum := state.get(f"momentum.{number}")) is not None:
                self.optimizer.state[weight]["momentum_buffer"] = momentum.to(weight.device)

    def _renew(self) -> None:
        """Copy the network as it is now."""
        self.copy = copy.deepcopy(self.network).train().requires_grad_(True)
        self.optimizer = torch.optim.SGD(
            self.copy.parameters(),
            lr=self.recipe.lr,
            momentum=self.recipe.momentum,
            nesterov=self.recipe.momentum > 0,
        )

    def _add_mark_gradient(self, logits: Tensor, labels: Tensor) -> None:
        """Add the gradient of the mark's loss at the copy's weights to the network's."""
        loss = self.weight * self.mark_loss(logits, labels)
        weights = list(self.copy.parameters())
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
        for weight, gradient in zip(self.network.parameters(), gradients, strict=True):
            if gradient is not None and weight.grad is not None:
                weight.grad.add_(gradient)

    def _tune(self, logits: Tensor, labels: Tensor) -> None:
        """Train the copy by a step on the labels."""
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        self.optimizer.step()
