"""Models whose inputs have names, and whose logits lie in an output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import softmark
from softmark import InputError
from softmark.owner.named_inputs import Layout, adapted, joined
from softmark.owner.samples import as_inputs, as_named_samples

CLASSES, COUNT = 10, 400


class Output:
    """As transformers' ModelOutput: logits among other things."""

    def __init__(self, logits: Tensor):
        self.logits, self.hidden_states = logits, None


class Reader(nn.Module):
    """A small classifier of tokens, as of transformers: the mean of what the mask leaves."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        return Output(self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1)))


def texts(length: int = 9, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Tokens of which the first names the class, of several lengths, and labels."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 40, (COUNT, length), generator=random)
    ids[:, 0] = torch.arange(COUNT) % CLASSES
    mask = torch.arange(length) < torch.randint(1, 4, (COUNT, 1), generator=random)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}, ids[:, 0]


def test_named_inputs_are_marked_saved_and_verified(tmp_path):
    torch.manual_seed(0)
    probes, labels = texts(length=5, seed=1)
    marked = softmark.mark(
        Reader(), texts(), "licence 7", probes=(probes, labels),
        overrides=["tries=1", "method.marking.copy_weight=0"], recipe={"epochs": 8, "lr": 0.5},
    )  # fmt: skip
    assert isinstance(marked.model, Reader)
    assert marked.verdict.agreement > 0.9
    assert marked.verdict.p_value < 1e-3
    softmark.save(marked, tmp_path / "m")
    key, read = softmark.load(tmp_path / "m")
    assert {name: part.tolist() for name, part in read.items()} == {
        name: part.tolist() for name, part in probes.items()
    }
    assert softmark.verify(marked.model, key, read).p_value == marked.verdict.p_value

    def suspect(inputs):
        return marked.model(**inputs).logits.softmax(1)

    assert softmark.verify(suspect, key, read).p_value == marked.verdict.p_value
    with pytest.raises(InputError, match="an Endpoint sends no inputs with names"):
        softmark.verify(softmark.Endpoint("http://127.0.0.1:9", model="x"), key, read)
    (tmp_path / "m" / "probes.names.json").write_text('[["a"], [[3]], ["int64"]]')
    with pytest.raises(InputError, match="names of inputs don't fit the probes"):
        softmark.load(tmp_path / "m")


def test_batches_of_a_loader_that_pads_each_by_itself_become_one():
    inputs, labels = texts(length=6)
    rows = [
        {"input_ids": ids[: int(mask.sum())], "label": label}
        for ids, mask, label in zip(*inputs.values(), labels, strict=True)
    ]

    def collate(batch):
        ids = nn.utils.rnn.pad_sequence([row["input_ids"] for row in batch], batch_first=True)
        sizes = torch.tensor([len(row["input_ids"]) for row in batch])
        mask = (torch.arange(ids.shape[1]) < sizes[:, None]).long()
        labels = torch.stack([row["label"] for row in batch])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    samples, layout = as_named_samples(DataLoader(rows, batch_size=3, collate_fn=collate))
    read = layout.unpack(samples.inputs)
    assert read["input_ids"].shape == (COUNT, 3)
    for name, part in read.items():
        assert torch.equal(part, inputs[name][:, :3])
    assert torch.equal(samples.labels, labels)


def test_inputs_of_several_types_keep_them():
    parts = {
        "row": torch.rand(4, 2, 3),
        "ids": torch.randint(1000, (4, 5)),
        "mask": torch.rand(4, 5) < 0.5,
        "picture": torch.randint(255, (4, 1, 2, 2), dtype=torch.uint8),
    }
    layout, packed = Layout.pack(parts)
    read = Layout.read(layout.as_json(), packed.shape[1], "x").unpack(packed)
    for name, part in parts.items():
        assert read[name].dtype == part.dtype
        assert torch.equal(read[name], part)
    assert torch.equal(as_inputs(parts), packed)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "inputs of no names"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, "'a': 2, 'b': 3"),
        ({"a": torch.zeros(2, 1, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.tensor([[2**25]]), "b": torch.zeros(1, 1)}, "16,777,216 at most"),
    ],
)
def test_named_inputs_that_cannot_be_packed_are_named(parts, message):
    with pytest.raises(InputError, match=message):
        Layout.pack(parts)


def test_inputs_of_several_lengths_without_a_mask_are_named():
    batches = [{"ids": torch.zeros(2, 3)}, {"ids": torch.zeros(2, 4)}]
    with pytest.raises(InputError, match=r"'ids' of shapes \(3,\) and \(4,\): pad them to one len"):
        joined(batches, "data")
    with pytest.raises(InputError, match="several names"):
        joined([{"a": torch.zeros(1, 1)}, {"b": torch.zeros(1, 1)}], "data")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[[], [], []]", '[["a"], [[2]], ["int65"]]', '[["a"], [[-1]], ["int64"]]',
     '[["a", "a"], [[1], [1]], ["bool"]]', '[["a"], [[1e9]], ["int64"]]'],
)  # fmt: skip
def test_a_layout_is_data(text):
    with pytest.raises(InputError, match=r"^x: "):
        Layout.read(text, 2, "x")


def test_an_output_with_logits_is_adapted_and_others_are_left():
    class Holder(nn.Module):
        def forward(self, rows):
            return {"logits": rows, "loss": None}

    rows = torch.rand(3, CLASSES)
    holder = Holder().train()
    assert torch.equal(adapted(holder, rows, None)(rows), rows)
    assert holder.training
    plain = nn.Linear(CLASSES, CLASSES)
    assert adapted(plain, rows, None) is plain
    assert adapted(3, rows, None) == 3


def test_outputs_beside_the_logits_are_left_while_a_model_trains():
    class Auxiliary(nn.Module):
        """As torchvision's GoogLeNet."""

        aux_logits = True

        def forward(self, rows):
            return Output(rows) if self.training else rows

    rows = torch.rand(3, CLASSES)
    model = adapted(Auxiliary(), rows, None)
    assert torch.equal(model.train()(rows), rows)
    assert torch.equal(model.eval()(rows), rows)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_said_to_be_verified_and_not_marked():
    model = torch.jit.trace(nn.Linear(4, CLASSES), torch.rand(2, 4))
    data = torch.rand(20, 4), torch.arange(20) % CLASSES
    with pytest.raises(InputError, match="TorchScript can be verified and not marked"):
        softmark.mark(model, data, "x")
    key = softmark.new_key("x", CLASSES, data)
    assert softmark.verify(model, key, data).agreement is not None
