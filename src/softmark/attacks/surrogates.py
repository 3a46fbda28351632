"""Extraction by several students, each of which learnt other answers, that answer as one."""

from __future__ import annotations

from dataclasses import dataclass

from softmark.attacks.attack import AttackResult, check
from softmark.attacks.distill import Distill, as_many_steps
from softmark.attacks.shadow import new_network
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.models.networks import Ensemble
from softmark.training import Fit


@dataclass(kw_only=True, eq=False)
class DistillEnsemble(Distill):
    """Distil students from disjoint parts of the answers, and serve the mean of theirs.

    The extraction ensemble of the Watermark-Robustness-Toolbox (Lukas et al. 2022): what a mark
    taught one student, others outvote. There a student's pictures are changed against it, too.
    """

    members: int = 3
    """Students, at least 2; each needs two pictures."""

    def __post_init__(self) -> None:
        check(self.members >= 2, "members", self.members, "at least 2")

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        samples, answers = self.ask(target, data, fit)
        size = len(samples) // self.members
        check(size >= 2, "members", self.members, f"{len(samples)} pictures are too few for each")
        recipe = as_many_steps(self.recipe, size, len(samples))
        students = []
        for number in range(self.members):
            part = slice(number * size, (number + 1) * size)
            network = new_network(self.network, data, target.classes)
            student = self.student(network=network, recipe=recipe, answers=answers[part])
            students.append(fit(student, samples[part], f"student-{number + 1}"))
        return AttackResult(Ensemble.of(students), target.count)
