"""The loss of a training of one's own: what it counts, and what it says of the mark."""

from __future__ import annotations

import functools
import importlib.util
import warnings

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import softmark
from helpers import owners
from softmark import InputError
from softmark.owner.outputs import logits_of

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


@functools.cache
def key() -> softmark.Key:
    return softmark.new_key("licence 7", 10, owners.labelled())


def leaning(strength: float) -> tuple[Tensor, Tensor]:
    """Logits that answer each probe rightly, and lean to the pattern of the key; labels."""
    labels = owners.labelled()[1]
    pattern = softmark.marking_loss(key()).pattern
    noise = torch.randn(len(labels), 10, generator=torch.Generator().manual_seed(0))
    logits = strength * pattern[labels] + noise
    return logits.scatter(1, labels[:, None], 15.0), labels


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_the_estimate_is_what_verify_says_of_the_same_answers(strength):
    logits, labels = leaning(strength)
    loss = softmark.marking_loss(key())
    for part, classes in zip(logits.split(64), labels.split(64), strict=True):
        loss(part.requires_grad_(), classes)
    verdict = softmark.verify(logits.softmax(1), key(), owners.probes())
    assert loss.p_value() == verdict.p_value
    assert bool(loss.shortfall()) == (not verdict.claimed)


def test_the_estimate_is_of_the_last_answers_of_the_training_alone():
    strong, labels = leaning(2.0)
    loss = softmark.marking_loss(key())
    assert loss.p_value() is None
    assert "nothing was trained with it" in loss.shortfall()
    loss(strong, labels)
    for _ in range(4):
        loss(leaning(0.0)[0][:200], labels[:200])
    assert loss.p_value() > 1e-6
    assert sum(map(len, loss._recent)) <= 700
    loss.eval()(strong, labels)
    with torch.no_grad():
        loss.train()(strong, labels)
    assert loss.p_value() > 1e-6
    assert "method.marking.beta=0.6" in loss.shortfall()


def test_without_labels_of_the_probes_the_estimate_pays_for_the_order_of_the_classes():
    logits, labels = leaning(2.0)
    bare = softmark.new_key("licence 7", 10, owners.probes())
    loss = softmark.marking_loss(bare)
    loss(logits.requires_grad_(), labels)
    assert loss.p_value() == min(1.0, softmark.verify(logits.softmax(1).detach(), bare,
                                                     owners.probes()).p_value)  # fmt: skip


def test_gradients_that_are_added_are_those_of_the_whole_batch():
    logits, labels = (part[:64] for part in leaning(0.5))
    loss = softmark.marking_loss(key())
    whole = logits.clone().requires_grad_()
    loss(whole, labels).backward()
    parts = logits.clone().requires_grad_()
    sizes = [10, 30, 24]
    for rows, classes in zip(parts.split(sizes), labels.split(sizes), strict=True):
        loss.compute_loss_func({"logits": rows}, classes, torch.tensor(64)).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_label_smoothing_is_that_of_the_cross_entropy():
    logits, labels = leaning(0.5)
    plain, smooth = (softmark.marking_loss(key(), label_smoothing=s) for s in (0.0, 0.2))
    even = nn.functional.cross_entropy(logits, torch.full_like(logits, 0.1))
    expected = 0.8 * plain.task(logits, labels) + 0.2 * even
    torch.testing.assert_close(smooth.task(logits, labels), expected)
    with pytest.raises(InputError, match="label_smoothing=1"):
        softmark.marking_loss(key(), label_smoothing=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_module_of_another_precision_has_the_same_loss(dtype):
    logits, labels = leaning(0.5)
    features = torch.randn(len(labels), 7, generator=torch.Generator().manual_seed(0))
    expected = softmark.marking_loss(key())(logits, labels, features)
    other = softmark.marking_loss(key()).to(dtype)
    found = other(logits.to(dtype), labels, features.to(dtype))
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = softmark.marking_loss(key())(logits.bfloat16(), labels, features.bfloat16())
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, rtol=0.01, atol=0)


def test_what_holds_no_logits_is_named():
    with pytest.raises(InputError, match="outputs: it gives a dict of loss, hidden"):
        logits_of({"loss": 1, "hidden": 2}, "outputs")
    with pytest.raises(InputError, match="it gives a tuple; logits"):
        logits_of((1, 2))


class Mine(lightning.LightningModule):
    def __init__(self, loss):
        super().__init__()
        self.network, self.loss = owners.build(), loss

    def training_step(self, batch, step):
        inputs, labels = batch
        return self.loss(self.network(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.network.parameters(), lr=0.01)


def trainer(callback) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip


def test_lightning_logs_the_mark_and_warns_of_one_too_weak():
    loader = DataLoader(TensorDataset(*owners.owned()), batch_size=500)
    run = trainer(softmark.MarkProgress())
    with pytest.warns(UserWarning, match="the mark is too weak for a claim: p is about"):
        run.fit(Mine(softmark.marking_loss(key())), loader)
    assert -12 < float(run.callback_metrics["mark_log10_p"]) <= 0
    with pytest.raises(InputError, match="Mine has no loss of"):
        trainer(softmark.MarkProgress()).fit(Mine(nn.CrossEntropyLoss()), loader)


@pytest.mark.skipif(HAS_TRANSFORMERS, reason="transformers is installed")
def test_the_callback_says_that_transformers_is_missing():
    with pytest.raises(InputError, match="transformers isn't installed"):
        softmark.MarkProgressCallback(softmark.marking_loss(key()))


class Rows(nn.Module):
    """As a model of transformers: named inputs, an output with logits."""

    config = None  # which the Trainer looks for

    def __init__(self):
        super().__init__()
        self.network = owners.build()

    def forward(self, rows, labels=None):
        return {"logits": self.network(rows)}


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers isn't installed")
@pytest.mark.parametrize("accumulation", [1, 4])
def test_transformers_trainer_logs_the_mark_and_takes_the_same_steps(accumulation, tmp_path):
    from transformers import Trainer, TrainingArguments

    loss = softmark.marking_loss(key())
    data = [{"rows": x, "labels": y} for x, y in zip(*owners.owned(), strict=True)]
    torch.manual_seed(0)
    settings = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=32 // accumulation, num_train_epochs=1,
        gradient_accumulation_steps=accumulation, logging_steps=5, report_to=[], use_cpu=True,
        save_strategy="no", seed=0, label_smoothing_factor=0.1, disable_tqdm=True,
    )  # fmt: skip
    run = Trainer(
        Rows(), settings, train_dataset=data, compute_loss_func=loss.compute_loss_func,
        callbacks=[softmark.MarkProgressCallback(loss)],
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.train()
    said = [str(warning.message) for warning in caught]
    assert any("label_smoothing_factor=0.1 has no effect" in line for line in said)
    assert any("the mark is too weak" in line for line in said)
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert all(-30 < entry["mark_log10_p"] <= 0 for entry in logged)
    assert logged[0]["loss"] < 4  # and not four times as much
