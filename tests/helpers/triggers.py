"""Methods with trigger sets, of small numbers; their pictures, keys and marked models."""

import functools
from random import Random

import torch
from torch import nn

from helpers.training import fit, recipe
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.methods.adi import Adi
from softmark.methods.blackmarks import BlackMarks
from softmark.methods.dawn import Dawn
from softmark.methods.ewe import EWE
from softmark.methods.frontier import Frontier
from softmark.methods.key import Key
from softmark.methods.key_verifier import KeyVerifier
from softmark.methods.margin import AbstractMargin, Margin
from softmark.methods.mea_defender import MeaDefender
from softmark.methods.stamped import Stamped
from softmark.methods.uchida import Uchida
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect
from softmark.models.networks import ConvNet
from softmark.training import Classifier
from softmark.verification.judge import Verifier

CLASSES = 10
TRAINED = {
    "message": "customer",
    "recipe": recipe(epochs=12, batch_size=32),
    "epochs_factor": 1.0,
    "batch_size_factor": 1.0,
}
SET = {**TRAINED, "num_triggers": 20, "trigger_fraction": 0.2}
STAMP = {**SET, "kind": "content", "size": 0.4, "strength": 0.1}
NUMBERS = {
    "adi": (Adi, SET),
    "abstract_margin": (AbstractMargin, {**SET, "eps": 0.02, "iterations": 2}),
    "margin": (Margin, {**SET, "trigger_weight": 1.0, "eps": 0.02, "iterations": 2}),
    "blackmarks": (BlackMarks, {**SET, "num_triggers": 40, "strength": 0.5}),
    "content": (Stamped, STAMP),
    "noise": (Stamped, {**STAMP, "kind": "noise"}),
    "unrelated": (Stamped, {**STAMP, "kind": "unrelated"}),
    "ewe": (EWE, {**STAMP, "layers": 3, "temperature": 0.5, "weight": 0.5}),
    "mea_defender": (MeaDefender, {**SET, "rules": 10, "strength": 0.01}),
    "frontier": (Frontier, {**SET, "num_triggers": 200, "eps": 0.12, "iterations": 1}),
    "uchida": (Uchida, {**TRAINED, "bits": 24, "layer": -1, "strength": 0.02}),
    "dawn": (Dawn, {"message": "customer", "input_fraction": 0.1}),
}
EXACT = ("adi", "margin", "blackmarks", "unrelated")
TARGETS = ("content", "noise", "ewe", "mea_defender")


def method(name: str, **changed):
    kind, numbers = NUMBERS[name]
    return kind(**{**numbers, **changed})


def pictures(count: int = 300, seed: int = 0) -> Samples:
    """Ten classes, each a random pattern under noise; the patterns are the same for each seed."""
    patterns = torch.randint(130, (CLASSES, 1, 8, 8), generator=torch.manual_seed(0))
    labels = torch.arange(count) % CLASSES
    noise = torch.randint(120, (count, 1, 8, 8), generator=torch.manual_seed(seed + 1))
    return Samples((patterns[labels] + noise).to(torch.uint8), labels)


def network(width: int = 12) -> ConvNet:
    return ConvNet(image_shape=(1, 8, 8), classes=CLASSES, mean=[0.5], std=[0.25], width=width)


@functools.cache
def owner() -> Samples:
    return pictures()


@functools.cache
def judge() -> Samples:
    return pictures(200, 7)


@functools.cache
def untrained() -> Suspect:
    torch.manual_seed(3)
    net = network()
    # BatchNorm at its start gives a network that always answers one class.
    for _ in range(20):
        net.train()(torch.rand(64, 1, 8, 8))
    return Suspect.of(net.eval())


@functools.cache
def victim() -> nn.Module:
    torch.manual_seed(4)
    return fit()(Classifier(network(), TRAINED["recipe"]), owner(), "classifier")


@functools.cache
def marked(name: str) -> tuple[nn.Module, Key]:
    return embedded(method(name))


def embedded(made: Watermark) -> tuple[nn.Module, Key]:
    torch.manual_seed(5)
    trainer = fit()
    trainer.entropy = Random(8).randbytes
    return made.embed(victim(), owner(), trainer)


def key_of(name: str, seed: int, **changed) -> Key:
    return method(name, **changed).draw(judge(), CLASSES, Random(seed).randbytes)


def only_test(name: str, suspect: Suspect, key: Key, **changed):
    """The only test of the evidence that ``suspect`` gives on the judge's pictures."""
    made = method(name, **changed)
    probes = made.probes(key, judge(), suspect.log)
    (test,) = made.evidence(suspect.seen_by(made.needs), key, probes).tests.values()
    return test


def batch_of(samples: Samples, index: list[int]) -> Batch:
    chosen = samples[torch.tensor(index)]
    return Batch(chosen.inputs.float() / 255, chosen.labels, torch.tensor(index))


def key_verifier_of(made: Watermark, key: Key) -> KeyVerifier:
    levels = {"exact": 1e-6, "sampled": 1e-3, "innocents": 0.05}
    return KeyVerifier(made, Verifier(200, "samples", [], levels, 0.5, 0.01, 1), key, judge())
