"""A served model lies on a keyed part of its inputs; whoever learns the lies is found by them.

After DAWN (Szyller 2021). The evidence is the log of what the interface was asked.
"""

import hashlib

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.methods.watermark import Watermark
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class AlteredAnswers(Watermark):
    needs = "labels"
    uses_query_log = True

    def __init__(self, message, share):
        self.message, self.share = message, share

    def draw(self, like, classes, entropy):
        return Key.draw(self.message, classes, entropy)

    def embed(self, victim, data, fit):
        return victim, self.draw(data, victim.head.out_features, fit.entropy)

    def lie(self, key, image, label):
        """Another label for a chosen input, or None: the key and the input alone decide."""
        content = bytes(image.flatten().tolist())
        digest = hashlib.sha256(key.stream(32) + content).digest()
        if int.from_bytes(digest[:4], "big") >= self.share * 2**32:
            return None
        return (label + 1 + int.from_bytes(digest[4:8], "big") % (key.classes - 1)) % key.classes

    def serve(self, answer, key):
        def served(images):
            told = answer(images).clone()
            for row, (image, label) in enumerate(zip(images, told.argmax(1), strict=True)):
                lie = self.lie(key, image, int(label))
                if lie is not None:
                    told[row, [int(label), lie]] = told[row, [lie, int(label)]]
            return told

        return served

    def probes(self, key, pool, log):
        if log is None:
            return pool
        chosen = [
            row
            for row, (image, label) in enumerate(zip(log.inputs, log.labels, strict=True))
            if self.lie(key, image, int(label)) is not None
        ]
        return Samples(log.inputs[chosen], log.labels[chosen])

    def evidence(self, suspect, key, probes):
        told = probes.labels
        chosen = [self.lie(key, i, 0) is not None for i in probes.inputs]
        if not all(chosen):
            return Evidence.none("nothing was asked of the owner's interface")
        hits = suspect.answers(probes).argmax(1) == told
        test = Binomial(int(hits.sum()), len(hits), 1 / (key.classes - 1))
        return Evidence(hits.float(), {"lies": test}, mark_recall=test.score)
