"""The recipe, the batches, and the only Trainer."""

import contextlib
import copy
import itertools
import math
import secrets
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from helpers import ROOT
from helpers.training import fit, network, recipe, samples, unlogged
from softmark.accuracy import utility
from softmark.attacks.distill import Student
from softmark.attacks.finetune import FineTune
from softmark.attacks.prune import Prune
from softmark.batches import Batches
from softmark.data.augment import crop_and_flip
from softmark.devices import choose_device, compute_on
from softmark.errors import InputError
from softmark.recipe import Recipe, one_cycle
from softmark.training import Classifier, Fit, predict


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": -1.0},
        {"lr": math.nan},
        {"warmup": 1.5},
        {"warmup": math.nan},
        {"momentum": 1.0},
        {"pad": -1},
        {"weight_decay": -1e-9},
        {"label_smoothing": 1.0},
    ],
)
def test_a_wrong_recipe_is_named(wrong):
    with pytest.raises(InputError, match=rf"recipe\.{next(iter(wrong))}"):
        recipe(**wrong)


def test_a_wrong_recipe_answers_before_torch_is_there():
    script = """
        import sys
        from softmark.recipe import Recipe, one_cycle
        try:
            Recipe(0, 16, 0.1, 0.2, 0.9, 0.0, 0.0, 0, False)
        except ValueError as error:
            print(error, "torch" in sys.modules)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert process.stdout == "recipe.epochs=0: it must be above 0 False\n", process.stderr


def test_a_long_training_tells_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr("softmark.progress.Lines.EVERY", 0)
    classifier = Classifier(network(), recipe(epochs=2))
    fit()(classifier, samples(64), "victim")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"victim, epoch {epoch} of 2, 100 % of it" for epoch in (1, 2)]


def test_one_cycle_climbs_to_one_and_falls_to_zero():
    rates = [one_cycle(step / 100, 0.25) for step in range(101)]
    assert max(rates) == rates[25] == 1.0
    assert rates[100] == 0.0
    assert all(a < b for a, b in itertools.pairwise(rates[:26]))
    assert all(a > b for a, b in itertools.pairwise(rates[25:]))


def test_batches_hold_each_sample_once_with_its_index():
    data = samples(70)
    seen = list(Batches(data, recipe()))
    assert len(seen) == len(Batches(data, recipe())) == 4
    index = torch.cat([batch.index for batch in seen])
    assert len(index.unique()) == 64
    for batch in seen:
        assert torch.equal(batch.labels, data.labels[batch.index])
        assert torch.equal((batch.inputs * 255).round().byte(), data.inputs[batch.index])
    assert len(Batches(data[:5], recipe())) == 1


def test_crop_and_flip_is_a_window_of_the_reflected_picture():
    torch.manual_seed(0)
    images = torch.randint(256, (40, 3, 9, 7), dtype=torch.uint8)
    result = crop_and_flip(images, 2, True)
    padded = nn.functional.pad(images.float(), [2] * 4, mode="reflect").byte()
    shifts = set()
    for picture, large in zip(result, padded, strict=True):
        matches = [
            (down, right, turn)
            for down in range(5)
            for right in range(5)
            for turn in (False, True)
            if torch.equal(
                picture,
                large[:, down : down + 9, right : right + 7].flip(2)
                if turn
                else large[:, down : down + 9, right : right + 7],
            )
        ]
        assert len(matches) == 1
        shifts.add(matches[0])
    assert len(shifts) > 15
    assert torch.equal(crop_and_flip(images, 0, False), images)


def test_fit_learns_and_is_repeatable():
    data = samples(120)
    weights = []
    for _ in range(2):
        torch.manual_seed(1)
        trained = fit()(Classifier(network(), recipe(epochs=15)), data, "classifier")
        weights.append(torch.cat([p.flatten() for p in trained.parameters()]))
    assert torch.equal(*weights)
    assert utility(predict(trained, data.inputs), data.labels)["accuracy"] > 0.95
    assert not trained.training


def test_fit_thaws_a_network_that_was_in_eval_mode():
    net = network().eval()
    before = [m.running_mean.clone() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    fit()(Classifier(net, recipe()), samples(), "classifier")
    after = [m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_loss_that_turns_nan_stops_the_training():
    with pytest.raises(InputError, match=r"in epoch 1 .*recipe\.lr=1000000000\.0"):
        fit()(Classifier(network(), recipe(lr=1e9, epochs=9)), samples(), "classifier")


def test_predictions_are_probabilities_and_leave_the_mode():
    net = network().train()
    inputs = samples(1500).inputs  # more than one batch
    p = predict(net, inputs)
    torch.testing.assert_close(p.sum(1), torch.ones(1500))
    assert net.training
    torch.testing.assert_close(p, torch.cat([predict(net, part) for part in inputs.split(10)]))


def test_predictions_need_no_gradients_and_sharpen_nothing():
    net = network()
    images = samples(5).inputs
    p = predict(net, images)
    assert not p.requires_grad
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, net.eval()(images.float() / 255).softmax(1).detach())


def test_a_network_that_was_moved_to_be_asked_can_be_trained_again(monkeypatch):
    """A move to a GPU copies the weights; on a CPU it doesn't, so here the move is a copy."""
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self._apply(torch.Tensor.clone))
    net = network()
    predict(net, samples(4).inputs)
    assert not any(tensor.is_inference() for tensor in net.state_dict(keep_vars=True).values())


@pytest.fixture
def chosen():
    """What a test chooses is forgotten after it."""
    threads = torch.get_num_threads()
    yield
    compute_on("auto", None)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("accelerator", "threads", "message"),
    [
        ("tpu", None, r"trainer\.accelerator=tpu: auto, cpu or gpu"),
        ("cpu", 0, r"trainer\.threads=0: at least 1"),
        ("cpu", -3, r"trainer\.threads=-3: at least 1"),
    ],
)
def test_a_trainer_that_cannot_be_is_named(accelerator, threads, message, chosen):
    with pytest.raises(InputError, match=message):
        compute_on(accelerator, threads)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_named(accelerator, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=rf"trainer\.accelerator={accelerator}: there is no GPU"):
        compute_on(accelerator, None)


def test_a_gpu_is_taken_where_it_is_wanted_and_there(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("cpu").type == "cpu"
        assert choose_device("gpu").type == choose_device("cuda").type == "cuda"
        assert choose_device("auto").type == ("cuda" if available else "cpu")


@contextlib.contextmanager
def default_type(kind):
    torch.set_default_dtype(kind)
    yield
    torch.set_default_dtype(torch.float32)


SETTINGS = {
    "float64": lambda: default_type(torch.float64),
    "float16": lambda: default_type(torch.float16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_what_a_process_has_set_changes_no_training_and_no_answer(setting):
    data, net = samples(40), network()
    modules = [Classifier(copy.deepcopy(net), recipe(epochs=1)) for _ in range(2)]

    def made(module):
        torch.manual_seed(1)
        trained = fit()(module, data, "classifier")
        return trained, predict(trained, data.inputs)

    expected, answers = made(modules[0])
    with setting():
        trained, found = made(modules[1])
        assert predict(expected, data.inputs).tolist() == answers.tolist()
    assert torch.equal(found, answers)
    assert found.dtype == torch.float32
    for one, other in zip(trained.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_on_a_mac_training_and_prediction_use_the_same_device(monkeypatch):
    """Lightning's own ``auto`` takes mps, where ``predict`` would take the CPU."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    trainer = Fit("auto")._trainer(1, 1, None, "example")
    assert trainer.strategy.root_device == choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="there is no GPU; cpu is"):
        compute_on("gpu", None)


@pytest.mark.parametrize(
    ("precision", "threads", "expected"),
    [("bf16-mixed", None, 1), ("bf16-mixed", 2, 2), ("32-true", None, 2)],
)
def test_bfloat16_on_a_cpu_takes_one_thread_unless_it_is_told(precision, threads, expected, chosen):
    seen = []

    class Watched(Classifier):
        def loss(self, batch):
            seen.append(torch.get_num_threads())
            return super().loss(batch)

    torch.set_num_threads(2)
    module = Watched(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), recipe(epochs=1))
    Fit("cpu", precision, threads=threads)(module, samples(20), "example")
    assert seen == [expected]
    assert torch.get_num_threads() == 2


def test_no_more_threads_than_there_are_cores(chosen, monkeypatch):
    monkeypatch.setattr("softmark.devices.os.cpu_count", lambda: 2)
    for threads, expected in ((1, 1), (2, 2), (64, 2), (None, 2)):
        compute_on("cpu", threads)
        assert torch.get_num_threads() == expected


def test_secrets_come_from_the_system_unless_an_experiment_says_otherwise():
    assert fit().entropy is secrets.token_bytes
    assert Fit("cpu", "32-true", unlogged, bytes).entropy(3) == bytes(3)


def test_a_training_is_logged_under_its_name_and_ends_its_logger():
    seen = []

    @contextlib.contextmanager
    def noting(name):
        seen.append(name)
        yield None
        seen.append("closed")

    Fit("cpu", "32-true", noting)(Classifier(network(), recipe(epochs=1)), samples(), "marking")
    assert seen == ["marking", "closed"]


def test_pruning_zeroes_the_smallest_weights_of_the_whole_network():
    net = network()
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    flat = torch.cat([w.detach().flatten() for w in weights])
    large = flat.abs() > flat.abs().sort().values[round(0.6 * len(flat)) - 1]
    pruned = Prune(sparsity=0.6).apply(net, samples(), fit()).network
    layers = [m for m in pruned.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    after = torch.cat([layer.weight.detach().flatten() for layer in layers])
    assert torch.equal(after, flat * large)


def test_the_last_layer_alone_moves_when_only_it_is_tuned():
    net = network()
    before = {name: p.clone() for name, p in net.named_parameters()}
    tuned = (
        FineTune(recipe=recipe(), epochs=1, lr_factor=0.1, layers="last", samples=None)
        .apply(net, samples(), fit())
        .network
    )
    for name, p in tuned.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith("head")
        assert p.requires_grad


def test_a_student_at_its_teachers_logits_has_the_least_loss():
    logits = torch.randn(6, 3)
    for temperature in (1.0, 4.0):
        student = Student(nn.Identity(), recipe(), logits.softmax(1), temperature, hard=False)
        batch = Batches(samples(6), recipe()).__iter__().__next__()
        batch = batch._replace(inputs=logits[batch.index].requires_grad_(True))
        (slope,) = torch.autograd.grad(student.loss(batch), batch.inputs)
        torch.testing.assert_close(slope, torch.zeros(6, 3), atol=1e-5, rtol=0)


def test_a_hard_student_learns_labels_alone():
    answers = torch.tensor([[0.4, 0.35, 0.25]])
    student = Student(nn.Identity(), recipe(), answers, 1.0, hard=True)
    assert student.targets.tolist() == [[1.0, 0.0, 0.0]]


def test_no_step_waits_for_a_figure(monkeypatch):
    """A figure that Python reads makes a GPU wait: once an epoch is enough."""
    inside, reads = [], []
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        real = getattr(torch.Tensor, name)

        def watched(tensor, real=real, name=name):
            reads.extend([name] * bool(inside))
            return real(tensor)

        monkeypatch.setattr(torch.Tensor, name, watched)

    class Watched(Classifier):
        def training_step(self, batches, chunk):
            inside.append(chunk)
            super().training_step(batches, chunk)
            inside.clear()

    class Reading(Watched):
        def loss(self, batch):
            loss = super().loss(batch)
            assert float(loss) > 0
            return loss

    fit()(Watched(network(), recipe(epochs=2)), samples(), "classifier")
    assert reads == []
    fit()(Reading(network(), recipe(epochs=2)), samples(), "classifier")
    assert len(reads) == 8


def test_a_recipes_defaults_are_those_of_the_small_scale():
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/scale/small.yaml"))["recipe"]
    del node["_target_"]
    # Not every picture may be shifted and mirrored: only a config says that these may.
    assert replace(Recipe(), pad=node["pad"], flip=node["flip"]) == Recipe(**node)


def test_a_scaled_recipe_keeps_an_epoch_and_two_samples():
    assert Recipe().scaled() == Recipe()
    assert Recipe().scaled(epochs=2, batch_size=0.5, lr=0.5) == Recipe(
        epochs=20, batch_size=64, lr=0.1
    )
    least = Recipe().scaled(epochs=0.01, batch_size=0.001)
    assert (least.epochs, least.batch_size) == (1, 2)
