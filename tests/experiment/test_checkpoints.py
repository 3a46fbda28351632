"""A training that is killed goes on from its last state, and ends where an undisturbed one does."""

import copy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from softmark.data.roles import Samples
from softmark.experiment import checkpoints
from softmark.experiment.checkpoints import Checkpoints
from softmark.methods.csp import CSPModule
from softmark.methods.parts.detector import Detector
from softmark.methods.parts.loss import Marking
from softmark.models.networks import ConvNet, build
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

RECIPE = Recipe(epochs=4, batch_size=16, pad=1, flip=True)
DRAW = torch.Generator().manual_seed(0)
SAMPLES = Samples(
    torch.randint(256, (64, 1, 8, 8), generator=DRAW, dtype=torch.uint8), torch.arange(64) % 4
)
ROWS = (torch.rand(64, 4, generator=DRAW).log_softmax(1), torch.arange(64) % 2 * 1.0)


class Killed(BaseException):
    """As by a signal."""


@pytest.fixture(autouse=True)
def each_epoch(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_STATES", 0)


def classifier(die_in: int | None = None) -> Classifier:
    class Dying(Classifier):
        def after_step(self):
            if self.current_epoch == die_in:
                raise Killed

    torch.manual_seed(1)
    return Dying(build(partial(ConvNet, width=2), SAMPLES, 4), RECIPE)


def detector(die_in: int | None = None) -> Detector:
    class Dying(Detector):
        def training_step(self, batch, step):
            if self.current_epoch == die_in:
                raise Killed
            return super().training_step(batch, step)

    torch.manual_seed(1)
    return Dying(torch.ones(4, 4), torch.full((4, 4), 0.25), hidden=(8,), epochs=4, batch_size=32)


def watermarked(die_in: int | None = None) -> CSPModule:
    class Dying(CSPModule):
        def after_step(self):
            if self.current_epoch == die_in:
                raise Killed

    torch.manual_seed(1)
    network = build(partial(ConvNet, width=2), SAMPLES, 4)
    answers = torch.full((64, 4), 0.25)
    return Dying(network, RECIPE, torch.ones(4, 4).triu(1), answers, Marking())


def weights(network) -> dict:
    return copy.deepcopy(network.state_dict())


CASES = {
    "classifier": (classifier, SAMPLES),
    "detector": (detector, ROWS),
    "watermarked": (watermarked, SAMPLES),  # which has running means beside its weights
}


@pytest.mark.parametrize("name", CASES)
def test_a_killed_training_ends_as_an_undisturbed_one(name, tmp_path):
    make, data = CASES[name]
    module = make()
    torch.manual_seed(2)
    expected, after = weights(Fit("cpu")(module, data, name)), torch.rand(3)
    module = make(die_in=2)
    torch.manual_seed(2)
    with pytest.raises(Killed):
        Fit("cpu", checkpoints=Checkpoints(tmp_path).callbacks)(module, data, name)
    module = make()
    torch.manual_seed(3)  # what a stage did before is done anew: its seed isn't this one's
    calls = []
    module.on_train_epoch_start = lambda: calls.append(module.current_epoch)
    found = weights(Fit("cpu", checkpoints=Checkpoints(tmp_path).callbacks)(module, data, name))
    assert calls == [2, 3]
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    # Another training of the stage may follow: its random numbers are the same as well.
    assert torch.equal(torch.rand(3), after)
    module = make()
    again = weights(Fit("cpu", checkpoints=Checkpoints(tmp_path).callbacks)(module, data, name))
    assert all(torch.equal(again[key], expected[key]) for key in expected)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("broken", ["cut off", "of another network"])
def test_a_state_that_cant_be_used_is_not(broken, tmp_path):
    path = tmp_path / "1.safetensors"
    if broken == "cut off":
        path.write_bytes(b"half")
    else:
        save_file({"module.weight": torch.zeros(2)}, path, {"state": "{}"})
    module = classifier()
    torch.manual_seed(2)
    expected = weights(Fit("cpu")(module, SAMPLES, "victim"))
    module = classifier()
    torch.manual_seed(2)
    found = weights(
        Fit("cpu", checkpoints=Checkpoints(tmp_path).callbacks)(module, SAMPLES, "victim")
    )
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert "module.network.head.weight" in load_file(path)


def test_short_trainings_keep_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_STATES", 60)
    kept = Checkpoints(tmp_path / "states")
    Fit("cpu", checkpoints=kept.callbacks)(classifier(), SAMPLES, "victim")
    assert not kept.folder.exists()
    kept.remove()
