"""An owner's model and data, tried where they come in: what a library would raise is told."""

import copy
import re
import threading
from collections import namedtuple

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

import softmark
from helpers.owners import build, owned, victim
from softmark.errors import InputError
from softmark.models.own import check_model, check_trainable, plain_copy, plain_names
from softmark.owner.model_files import load_model
from softmark.owner.samples import as_samples

INPUTS, LABELS = owned()


class Compiled(nn.Module):
    """What torch.compile makes, whose import takes seconds: one module called _orig_mod."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model

    def forward(self, inputs):
        return self._orig_mod(inputs)


def inside(model):
    """``model`` with one of its layers wrapped, as old VGGs have them."""
    model[0] = nn.DataParallel(Compiled(model[0]))
    return model


WRAPPERS = {
    "compiled": Compiled,
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "both": lambda model: nn.DataParallel(Compiled(model)),
    "inside": inside,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_is_taken_off_and_the_owners_model_left(wrap):
    model = wrap(build())
    names = set(model.state_dict())
    plain = plain_copy(model)
    assert set(plain.state_dict()) == set(build().state_dict())
    assert set(model.state_dict()) == names
    torch.testing.assert_close(plain.eval()(INPUTS[:5]), model.eval()(INPUTS[:5]))


def test_what_was_marked_in_a_wrapper_is_read_into_the_plain_model(tmp_path, monkeypatch):
    """verify.py said of softmark's own file: weights of another model."""
    marked = softmark.mark(
        nn.DataParallel(Compiled(build())), (INPUTS, LABELS), "m", overrides=["tries=1"],
        recipe={"epochs": 1},
    )  # fmt: skip
    softmark.save(marked, tmp_path / "marked")
    (tmp_path / "plain_model.py").write_text("from helpers.owners import build")
    monkeypatch.chdir(tmp_path)
    read = load_model("plain_model:build", tmp_path / "marked" / "model.safetensors")
    torch.testing.assert_close(read(INPUTS[:5]), marked.model(INPUTS[:5]))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_weights_of_a_wrapped_model_are_read(wrap, tmp_path, monkeypatch):
    model = build()
    state = copy.deepcopy(model.state_dict())
    safetensors.torch.save_file(dict(wrap(model).state_dict()), tmp_path / "wrapped.safetensors")
    (tmp_path / "ours.py").write_text("from helpers.owners import build")
    monkeypatch.chdir(tmp_path)
    read = load_model("ours:build", tmp_path / "wrapped.safetensors").state_dict()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_an_owner_may_have_set_another_type_autocast_and_inference_mode():
    """A mark that was claimed was not, or a traceback told of scalar types."""
    model = victim()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            marked = softmark.mark(
                model, (INPUTS, LABELS), "m", overrides=["tries=1"], recipe={"epochs": 3}
            )
            verdict = softmark.verify(marked.model, marked.key, marked.probes)
            assert not softmark.verify(model, marked.key, marked.probes).claimed
    finally:
        torch.set_default_dtype(torch.float32)
    assert verdict.claimed
    assert verdict == softmark.verify(marked.model, marked.key, marked.probes)


def test_names_of_another_model_stay_what_they_are():
    """The message says what the file holds."""
    state = {"module.head.bias": torch.zeros(1)}
    assert plain_names(state, {"tail.bias"}) is state
    with_module = {"module.bias": torch.zeros(1)}  # its own layer is called so
    assert plain_names(with_module, {"module.bias"}) == with_module


def test_what_a_module_computed_last_does_not_keep_it_from_being_copied():
    """As torch.nn.utils.weight_norm keeps a weight with a history."""
    model = nn.Sequential(*build())
    model.computed = 2 * next(model.parameters())
    copied = plain_copy(model)
    assert torch.equal(copied.computed, model.computed)
    assert copied.computed.grad_fn is None
    assert model.computed.grad_fn is not None


def test_weights_of_another_type_are_named():
    with pytest.raises(InputError, match=r"weights are torch.float16: model.float\(\) is needed"):
        check_model(nn.Linear(64, 10).half(), torch.rand(8, 64))


class Locked(nn.Sequential):
    def __init__(self):
        super().__init__(*build())
        self.lock = threading.Lock()


class Caching(nn.Sequential):
    """Keeps what it computed of its first batch, as rotary embeddings do."""

    scale = None

    def forward(self, inputs):
        if self.scale is None:
            self.scale = torch.ones(64)
        return super().forward(inputs * self.scale)


class Switching(nn.Sequential):
    """Without gradients in eval mode alone, which is right."""

    def forward(self, inputs):
        with torch.set_grad_enabled(self.training):
            return super().forward(inputs)


class Frozen(nn.Sequential):
    @torch.no_grad()
    def forward(self, inputs):
        return super().forward(inputs)


class Auxiliary(nn.Sequential):
    """As Inception: a tuple in train mode."""

    def forward(self, inputs):
        logits = super().forward(inputs)
        return namedtuple("Outputs", "logits aux")(logits, logits) if self.training else logits


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Locked(), r"model: it can't be copied \(cannot pickle '_thread.lock' object\): a lock"),
        (Frozen(*build()), r"model: no gradient reaches its weights: .*no_grad"),
        (Auxiliary(*build()), r"model: it gives a Outputs while it trains for 8 data .*; logits"),
        (nn.Linear(64, 10).requires_grad_(False), "none of its weights can be trained"),
        (softmark.mark, "model is a function: a torch.nn.Module is needed"),
    ],
)
def test_a_model_that_cannot_be_trained_is_told_before_a_key_is_drawn(model, message, monkeypatch):
    monkeypatch.setattr("softmark.owner.mark.commit_key", None)
    with pytest.raises(InputError, match=message) as raised:
        softmark.mark(model, (INPUTS, LABELS), "m")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [Switching, Caching, nn.Sequential])
def test_trying_a_model_leaves_no_trace(kind):
    model = kind(*build())
    model[1].eval()  # a BatchNorm that its owner has frozen
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert check_model(model, INPUTS) == 10
    check_trainable(model, INPUTS)
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model(INPUTS[:8]).sum().backward()


def test_a_lazy_model_can_be_trained_after_it_was_tried():
    model = plain_copy(nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(10)))
    assert check_model(model, INPUTS) == 10
    check_trainable(model, INPUTS)
    model(INPUTS[:8]).sum().backward()


class Pictures(Dataset):
    """Pictures of ``sizes`` in turn, as PIL has them or as tensors."""

    def __init__(self, sizes, pil):
        self.sizes, self.pil = sizes, pil

    def __len__(self):
        return 12

    def __getitem__(self, index):
        size = self.sizes[index % len(self.sizes)]
        return Image.new("L", (size, size)) if self.pil else torch.ones(1, size, size), index % 3


class Broken(Pictures):
    def __getitem__(self, index):
        raise OSError(f"cannot identify image file '{index}.png'")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Pictures([8], pil=True), r"data: TypeError: .*PIL\.Image.*; each input .*PILToTensor"),
        (Pictures([8, 9], pil=False), r"data: RuntimeError: stack .*Resize\(\(N, N\)\)"),
        (DataLoader(Pictures([8, 9], pil=False), batch_size=1), r"shape \(1, 8, 8\) and of"),
        (DataLoader(Pictures([8], pil=True)), r"data: TypeError: .*PIL"),
        (Broken([8], pil=True), r"data: OSError: cannot identify image file '0\.png'"),
    ],
)  # fmt: skip
def test_data_of_which_no_batch_can_be_made_are_told(data, message):
    with pytest.raises(InputError, match=message) as raised:
        as_samples(data)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=re.escape("one shape")):
        softmark.new_key("m", 10, data)
