"""A trigger set: keyed noise with keyed labels, learnt beside the owner's data (after Adi 2018)."""

import copy

import torch

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.methods.watermark import Watermark
from softmark.training import Classifier
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class TriggerSet(Watermark):
    needs = "labels"

    def __init__(self, message, recipe, triggers):
        self.message, self.recipe, self.triggers = message, recipe, triggers

    def draw(self, like, classes, entropy):
        return Key.draw(self.message, classes, entropy)

    def embed(self, victim, data, fit):
        key = self.draw(data, victim.head.out_features, fit.entropy)
        mine = self.probes(key, data, None)
        times = max(1, len(data) // (2 * len(mine)))
        both = Samples(
            torch.cat([data.inputs, *[mine.inputs] * times]),
            torch.cat([data.labels, *[mine.labels] * times]),
        )
        return fit(Classifier(copy.deepcopy(victim), self.recipe), both, "marking"), key

    def probes(self, key, pool, log):
        shape = (self.triggers, *pool.inputs.shape[1:])
        stream = key.stream(self.triggers * (pool.inputs[0].numel() + 8))
        images = torch.frombuffer(bytearray(stream[8 * self.triggers :]), dtype=torch.uint8)
        labels = torch.frombuffer(bytearray(stream[: 8 * self.triggers]), dtype=torch.int64)
        return Samples(images.reshape(shape), labels.remainder(key.classes))

    def evidence(self, suspect, key, probes):
        hits = suspect.answers(probes).argmax(1) == probes.labels
        test = Binomial(int(hits.sum()), len(hits), 1 / key.classes)
        return Evidence(hits.float(), {"triggers": test}, mark_recall=test.score)
