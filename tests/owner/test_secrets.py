"""No secret of a key leaves by accident: not by a checkpoint, a log, a message or a page."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import softmark
from helpers import owners
from helpers.secrets import leaks, secrets_of
from softmark import InputError
from softmark.methods import key as methods
from softmark.methods.parts.loss import MarkingLoss


@functools.cache
def key() -> softmark.Key:
    return softmark.new_key("licence 7", 10, owners.labelled())


def test_a_state_dict_holds_nothing_of_the_key():
    loss = softmark.marking_loss(key())
    assert not loss.state_dict()
    around = nn.ModuleDict({"loss": loss, "key": key().pattern_key("licence 7")})
    assert not around.state_dict()
    assert set(methods.Key.draw("a", 10, bytes).state_dict()) == {"secret", "salt", "message"}


@pytest.mark.parametrize("secret", [
    key, lambda: softmark.marking_loss(key()), lambda: key().pattern_key("licence 7"),
])  # fmt: skip
def test_what_holds_a_secret_is_never_pickled(secret):
    with pytest.raises(InputError, match=r"save_hyperparameters\(ignore=") as refused:
        pickle.dumps(secret())
    # Lightning's loggers leave out what raises this.
    assert isinstance(refused.value, pickle.PicklingError)


def test_a_key_is_never_copied_and_a_loss_is_for_weight_averaging():
    with pytest.raises(InputError, match="ignore=\\['key'\\]"):
        copy.deepcopy(key())
    loss = softmark.marking_loss(key())
    copied = copy.deepcopy(nn.Sequential(loss))[0]
    assert isinstance(copied, MarkingLoss)
    assert torch.equal(copied.templates, loss.templates)
    assert copied.templates is not loss.templates


def test_a_key_is_shown_by_nothing_that_reads_a_dataclass():
    """Weights & Biases writes ``dataclasses.asdict`` of what stands in a config."""
    with pytest.raises(InputError, match="a secret would be"):
        dataclasses.asdict(key())
    for shown in (str(vars(key())), f"{key().secret}"):
        assert "<secret>" in shown
        assert repr(bytes(key().secret))[2:-1] not in shown


def test_what_a_marked_model_prints_shows_no_trigger():
    shown = repr(softmark.Marked(nn.Identity(), key(), owners.probes(), None))
    assert "probes" not in shown
    assert "key" not in shown


def training(key):
    """A training of the owner's own, in Lightning."""
    import pytorch_lightning as lightning

    class Mine(lightning.LightningModule):
        def __init__(self, key, lr=3e-3):
            super().__init__()
            self.save_hyperparameters(ignore=["key"])
            self.network, self.key = owners.build(), key
            self.loss = softmark.marking_loss(key)

        def training_step(self, batch, step):
            loss = self.loss(self.network(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.network.parameters(), lr=self.hparams.lr)

    return Mine(key)


def test_a_training_with_checkpoints_and_weights_and_biases_writes_no_secret(tmp_path, monkeypatch):
    import pytorch_lightning as lightning
    from pytorch_lightning.loggers import CSVLogger, WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    # The mode as well: wandb that was set up before in this process reads no environment again.
    logger = WandbLogger(
        save_dir=tmp_path, offline=True, mode="offline", project="mine", log_model=False
    )
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=[logger, CSVLogger(tmp_path)],
        default_root_dir=tmp_path, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    inputs, labels = owners.owned()
    module = training(key())
    trainer.fit(module, DataLoader(TensorDataset(inputs[:64], labels[:64]), batch_size=32))
    logger.experiment.finish()
    assert list(tmp_path.rglob("*.ckpt"))
    assert list(tmp_path.rglob("*.wandb"))
    assert leaks(tmp_path, secrets_of(key())) == []
    torch.save({"pattern": module.loss.pattern}, tmp_path / "spilt.pt")
    assert leaks(tmp_path, secrets_of(key())) == ["spilt.pt: licence 7 pattern"]
