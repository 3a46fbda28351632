"""The key: what it is drawn from, what its commitment binds, and what becomes of one that lies."""

import copy
import functools
import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers.soft_labels import answers, drawn, soft, told
from helpers.training import samples
from helpers.verification import LEVELS, verifier
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods import key as keys
from softmark.methods.csp import CSP
from softmark.methods.key import Key, as_bytes, method_hash
from softmark.methods.usp import USP
from softmark.methods.watermark import Unmarked, Watermark
from softmark.models.files import read_tensors, save_network
from softmark.models.networks import ConvNet, build

KINDS = (CSP, USP)
CLASSES = 5
TERMS = verifier().terms
POOL = samples(12)


def knowing(kind) -> Key:
    """A new key that knows an unmarked model."""
    return told(kind, drawn(kind, CLASSES), answers(200, CLASSES))


NAMES = sorted(knowing(CSP).file_tensors())


def node_of(kind) -> dict[str, Any]:
    """A config node with all that a real one has: nested objects, numbers, lists, nulls."""
    return {
        "_target_": f"softmark.methods.{kind.__name__.lower()}.{kind.__name__}",
        "name": kind.__name__.lower(),
        "message": "customer",
        "epochs_factor": 1.0,
        "batch_size_factor": 1.0,
        "recipe": {"_target_": "softmark.recipe.Recipe", "epochs": 2, "lr": 0.1, "flip": False},
        "marking": {"_target_": "softmark.methods.parts.loss.Marking", "eps": 0.1},
        "detector": {
            "_target_": "softmark.methods.parts.detector.Detector",
            "hidden": [8],
            "noise": 0.2,
        },
        "simulated_attacks": {
            "finetune": {"_target_": "softmark.attacks.finetune.FineTune", "samples": None}
        },
    }


NODES = {kind: node_of(kind) for kind in KINDS}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.lower())
def kind(request):
    return request.param


@pytest.fixture
def key(kind) -> Key:
    made = knowing(kind)
    made.commit(NODES[kind], TERMS, POOL)
    return made


@functools.cache
def saved(kind, folder) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What a committed key's file holds."""
    made = knowing(kind)
    made.commit(NODES[kind], TERMS, POOL)
    made.save(folder / f"{kind.__name__}.key")
    return read_tensors(folder / f"{kind.__name__}.key")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


def accepted(kind, folder, tensors, about, node=None, terms=None, pool=POOL) -> str:
    """The commitment that a judge reads from a file of such content; raises for a wrong one."""
    path = folder / "altered.key"
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, path, about)
    made = soft(kind).load_key(path)
    return made.check(node or NODES[kind], terms or TERMS, pool)


def refused(*told, **more) -> None:
    with pytest.raises(InputError):
        accepted(*told, **more)


# --- drawing ----------------------------------------------------------------------------------


def test_a_key_is_drawn_from_the_entropy_it_is_given():
    asked = []
    made = Key.draw("Größe 7", 10, lambda count: asked.append(count) or bytes(range(count)))
    assert asked == [32, 16]
    assert bytes(made.secret.tolist()) == bytes(range(32))
    assert bytes(made.salt.tolist()) == bytes(range(16))
    assert bytes(made.message.tolist()).decode() == "Größe 7"
    assert made.classes == 10
    assert (made.method, made.terms, made.probes, made.commitment) == ("", {}, "", "")


def test_an_empty_message_is_refused():
    with pytest.raises(InputError, match=r"method\.message"):
        Key.draw("", 10, Random(0).randbytes)


@given(
    st.binary(min_size=1, max_size=70),
    st.binary(max_size=40),
    st.text(min_size=1, max_size=40),
    st.integers(0, 200),
)
def test_the_stream_is_hmac_sha256_over_seed_counter_and_what_is_usual(secret, salt, message, size):
    parts = [torch.tensor(list(part), dtype=torch.uint8) for part in (secret, salt)]
    seed = hmac.new(secret, salt + message.encode(), hashlib.sha256).digest()
    usual = torch.randn(2, 3, 3)
    numbers = struct.pack("<18f", *usual.flatten().tolist())
    for known, shown in ((None, b""), (usual, numbers)):
        blocks = [
            hmac.new(seed, n.to_bytes(8, "big") + shown, hashlib.sha256).digest() for n in range(7)
        ]
        made = Key(*parts, as_bytes(message), 3, known)
        assert made.seed() == seed
        assert made.stream(size) == b"".join(blocks)[:size]


def test_another_message_has_the_same_secret_and_salt_and_nothing_that_was_learnt(key):
    other = key.for_message("other")
    assert torch.equal(other.secret, key.secret)
    assert torch.equal(other.salt, key.salt)
    assert bytes(other.message.tolist()) == b"other"
    assert other.classes == key.classes
    assert sorted(other.file_tensors()) == ["message", "salt", "secret", "usual"]
    assert other.stream(64) != key.stream(64)
    assert key.for_message("customer").stream(64) == key.stream(64)
    with pytest.raises(InputError, match="never committed"):
        other.check(NODES[CSP], key.terms, POOL)


def test_a_key_without_keys_is_none(folder):
    assert Unmarked().draw(POOL, 3, Random(0).randbytes) is None
    assert Unmarked().load_key(folder / "nowhere") is None


# --- a key that is what it was ----------------------------------------------------------------


def test_a_key_survives_saving(kind, key, tmp_path):
    key.save(tmp_path / "key")
    again = soft(kind).load_key(tmp_path / "key")
    assert again.check(NODES[kind], TERMS, POOL) == key.commitment == key.digest()
    assert len(key.commitment) == 64
    assert not again.training
    assert again.state_dict().keys() == key.state_dict().keys()
    for name, tensor in key.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    for name in ("classes", "method", "terms", "probes", "commitment"):
        assert getattr(again, name) == getattr(key, name)
    torch.testing.assert_close(again.detector.features.pattern, key.detector.features.pattern)
    scores = torch.randn(7, CLASSES).log_softmax(1)
    torch.testing.assert_close(again.detector(scores), key.detector(scores))


def test_a_key_of_a_method_without_modules_survives_saving(tmp_path):
    class Triggers(Watermark):
        def draw(self, like, classes, entropy):
            made = Key.draw("customer", classes, entropy)
            made.register_buffer("triggers", like.inputs[:3])
            made.register_buffer("labels", torch.tensor([2, 0, 1]))
            made.register_buffer("nothing", torch.empty(0))
            made.register_buffer("one", torch.tensor(1.5))
            return made

    made = Triggers().draw(POOL, 3, Random(0).randbytes)
    made.commit({"name": "triggers"}, TERMS, POOL)
    made.save(tmp_path / "key")
    again = Triggers().load_key(tmp_path / "key")
    assert again.check({"name": "triggers"}, TERMS, POOL) == made.commitment
    assert torch.equal(again.triggers, POOL.inputs[:3])
    again.labels[0] = 1
    with pytest.raises(InputError, match="content"):
        again.check({"name": "triggers"}, TERMS, POOL)


def test_the_commitment_depends_on_nothing_else(key, kind):
    first = key.commitment
    key.requires_grad_(False)
    key.train()
    assert key.check(NODES[kind], TERMS, POOL) == first
    assert copy.deepcopy(key).check(NODES[kind], TERMS, POOL) == first
    assert key.commit(NODES[kind], TERMS, samples(12)) == first
    # The judge's own config may have been read from elsewhere, in another order.
    shuffled = dict(reversed(json.loads(json.dumps(NODES[kind])).items()))
    assert key.check(shuffled, dict(reversed(TERMS.items())), POOL) == first


def test_the_pattern_that_follows_from_the_secret_is_in_no_file(kind, folder):
    tensors, about = saved(kind, folder)
    assert sorted(tensors) == NAMES
    assert accepted(kind, folder, tensors, about) == about["commitment"]
    pattern = soft(kind).pattern(knowing(kind))
    alike = {name for name, tensor in tensors.items() if tensor.shape == pattern.shape}
    assert not alike
    for shown in tensors["usual"]:
        assert F.cosine_similarity(shown.flatten(), pattern.flatten(), dim=0).abs() < 0.6


def test_a_class_of_another_name_and_module_is_the_same_method(key, kind):
    moved = copy.deepcopy(NODES[kind])
    moved["_target_"] = f"softmark.methods.{kind.__name__}"
    moved["recipe"]["_target_"] = "softmark.training.Recipe"
    moved["simulated_attacks"]["finetune"]["_target_"] = "softmark.attacks.FineTune"
    moved["name"] = "mine"
    assert key.check(moved, TERMS, POOL) == key.commitment
    assert key.commit(moved, TERMS, POOL) == key.commitment


def test_a_file_names_no_code(kind, folder):
    _, about = saved(kind, folder)
    assert about["method"] == method_hash(NODES[kind])
    assert not any(word in str(about) for word in ("_target_", "softmark.", kind.__name__))


# --- a key that is not ------------------------------------------------------------------------


def test_a_key_that_nobody_committed_to_is_refused(kind):
    with pytest.raises(InputError, match="never committed"):
        drawn(kind, CLASSES).check(NODES[kind], TERMS, POOL)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@example("secret", 0.0, 1)
@example("salt", 0.999, 128)
@example("message", 0.5, 32)
@example("usual", 0.0, 128)  # 0.0 becomes -0.0
def test_a_key_of_which_one_byte_was_altered_is_refused(kind, folder, name, place, mask):
    tensors, about = saved(kind, folder)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    flat = tensors[name].reshape(-1).view(torch.uint8)
    flat[int(place * len(flat))] ^= mask
    refused(kind, folder, tensors, about)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, -1])
def test_the_first_and_the_last_byte_of_every_tensor_count(kind, folder, name, place):
    tensors, about = saved(kind, folder)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensors[name].reshape(-1).view(torch.uint8)[place] ^= 1
    refused(kind, folder, tensors, about)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_in_memory_counts_as_one_in_a_file(key, kind, name):
    tensor = key.file_tensors()[name]
    tensor.reshape(-1).view(torch.uint8)[-1] ^= 1
    with pytest.raises(InputError, match=r"commitment \w{16}\.\.\. doesn't fit its content"):
        key.check(NODES[kind], TERMS, POOL)
    tensor.reshape(-1).view(torch.uint8)[-1] ^= 1
    assert key.check(NODES[kind], TERMS, POOL)


def held(made: Key) -> tuple:
    """All that a verdict can stand on."""
    tensors = {
        name: (str(t.dtype), tuple(t.shape), t.reshape(-1).view(torch.uint8).tolist())
        for name, t in made.state_dict().items()
    }
    return tensors, made.classes, made.terms, made.probes, made.commitment


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_file_of_which_any_byte_was_altered_is_refused_or_the_same_key(kind, folder, place, mask):
    """Header and metadata too: spaces and where a class lies may change, nothing else."""
    saved(kind, folder)
    raw = bytearray((folder / f"{kind.__name__}.key").read_bytes())
    whole = soft(kind).load_key(folder / f"{kind.__name__}.key")
    raw[int(place * len(raw))] ^= mask
    (folder / "byte.key").write_bytes(raw)
    try:
        made = soft(kind).load_key(folder / "byte.key")
        made.check(NODES[kind], TERMS, POOL)
    except InputError:
        return
    assert held(made) == held(whole)


def leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path to every plain value."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, (*path, name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from leaves(value, (*path, number))
    else:
        yield path


def altered(node: Any, path: tuple) -> Any:
    """``node`` with another value at ``path``: as near to the old one as can be."""
    whole = copy.deepcopy(node)
    inner = functools.reduce(lambda part, name: part[name], path[:-1], whole)
    old = inner[path[-1]]
    if isinstance(old, bool):
        inner[path[-1]] = not old
    elif isinstance(old, int):
        inner[path[-1]] = old + 1
    elif isinstance(old, float):
        inner[path[-1]] = old * (1 + 2**-52)
    else:
        inner[path[-1]] = 0 if old is None else f"{old}x"
    return whole


# All but the name that tables show.
METHOD_LEAVES = [path for path in leaves(node_of(CSP)) if path != ("name",)]
TERM_LEAVES = list(leaves(TERMS))


@pytest.mark.parametrize("path", METHOD_LEAVES, ids=str)
def test_every_number_of_the_method_is_bound(key, kind, folder, path):
    other = altered(NODES[kind], path)
    with pytest.raises(InputError, match=r"doesn't fit its method: no verdict"):
        key.check(other, TERMS, POOL)
    tensors, about = saved(kind, folder)
    told = {**about, "method": method_hash(other)}
    refused(kind, folder, tensors, told)
    refused(kind, folder, tensors, told, node=other)  # by a judge who plays along


@pytest.mark.parametrize("change", ["more", "less", "deeper", "empty", "list"])
def test_the_methods_keys_are_bound(key, kind, folder, change):
    node = NODES[kind]
    other = {
        "more": {**node, "extra": None},
        "less": {name: value for name, value in node.items() if name != "epochs_factor"},
        "deeper": {**node, "simulated_attacks": {}},
        "empty": {},
        "list": [node],
    }[change]
    if change != "list":
        with pytest.raises(InputError, match="method"):
            key.check(other, TERMS, POOL)
    tensors, about = saved(kind, folder)
    refused(kind, folder, tensors, {**about, "method": method_hash(other)})


@pytest.mark.parametrize("path", TERM_LEAVES, ids=str)
def test_every_term_is_bound(key, kind, folder, path):
    other = altered(TERMS, path)
    with pytest.raises(InputError, match=r"doesn't fit its terms of a claim: no verdict"):
        key.check(NODES[kind], other, POOL)
    tensors, about = saved(kind, folder)
    told = {**about, "terms": json.dumps(other)}
    refused(kind, folder, tensors, told)
    refused(kind, folder, tensors, told, terms=other)


@pytest.mark.parametrize(
    "changed",
    [
        {"probes": 99},
        {"inputs": "noise"},
        {"usable": 0.4},
        *({"levels": {**LEVELS, name: 0.2}} for name in LEVELS),
    ],
    ids=str,
)
def test_a_judge_of_other_terms_is_refused(key, kind, changed):
    with pytest.raises(InputError, match="terms of a claim"):
        key.check(NODES[kind], verifier(**changed).terms, POOL)


def test_what_is_no_term_may_change(key, kind):
    other = verifier(keys_tried=5, messages=["a"], false_flags=0.2)
    assert key.check(NODES[kind], other.terms, POOL) == key.commitment


def with_image(pixel: int) -> Samples:
    images = POOL.inputs.clone()
    images[3, 0, 4, 5] = pixel
    return Samples(images, POOL.labels)


OTHER_PROBES = {
    "reordered": POOL[torch.arange(11, -1, -1)],
    "two exchanged": POOL[torch.tensor([1, 0, *range(2, 12)])],
    "cut": POOL[:11],
    "doubled": POOL[torch.arange(12).repeat(2)],
    "one doubled": POOL[torch.tensor([*range(12), 11])],
    "one pixel": with_image(int(POOL.inputs[3, 0, 4, 5]) ^ 1),
    "one label": Samples(POOL.inputs, (POOL.labels + (torch.arange(12) == 3)) % 3),
    "none": POOL[:0],
}


@pytest.mark.parametrize("how", OTHER_PROBES)
def test_the_probes_are_bound_in_their_order(key, kind, folder, how):
    other = OTHER_PROBES[how]
    with pytest.raises(InputError, match=r"doesn't fit its probes: no verdict"):
        key.check(NODES[kind], TERMS, other)
    tensors, about = saved(kind, folder)
    told = {**about, "probes": other.fingerprint}
    refused(kind, folder, tensors, told)
    refused(kind, folder, tensors, told, pool=other)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("classes", ["4", "6", "3", "2", "1", "0", "-5", "5.0", "many", "", "1" + "0" * 5000]),
        ("probes", ["", "0" * 64]),
        ("commitment", ["", "0" * 64, "f" * 63]),
        ("format", ["", "softmark key 2", "softmark key 33", "softmark network 1"]),
        ("method", ["{}", "null", "", "0" * 64, "f" * 63]),
        ("terms", ["{}", "null", "", "[]", "NaN", '{"probes": NaN}']),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_field_of_the_file_is_bound(kind, folder, field, values):
    tensors, about = saved(kind, folder)
    assert sorted(about) == ["classes", "commitment", "format", "method", "probes", "terms"]
    for value in values:
        refused(kind, folder, tensors, {**about, field: value})
    refused(kind, folder, tensors, {name: each for name, each in about.items() if name != field})


def test_the_classes_are_bound_where_no_tensor_shows_them(tmp_path):
    class Plain(Watermark):
        pass

    made = Key.draw("customer", 10, Random(0).randbytes)
    made.commit({}, TERMS, POOL)
    made.save(tmp_path / "key")
    tensors, about = read_tensors(tmp_path / "key")
    safetensors.torch.save_file(tensors, tmp_path / "other", {**about, "classes": "9"})
    assert Plain().load_key(tmp_path / "key").check({}, TERMS, POOL)
    with pytest.raises(InputError, match="content"):
        Plain().load_key(tmp_path / "other").check({}, TERMS, POOL)


def test_a_file_that_claims_many_classes_costs_no_hours(kind, folder, monkeypatch):
    """A pattern of a million classes would be a stream of 125 GB."""
    tensors, about = saved(kind, folder)
    real = Key.stream

    def stream(made, size):
        assert size < 10**5
        return real(made, size)

    monkeypatch.setattr(Key, "stream", stream)
    for classes in ("3000", "1000000"):
        refused(kind, folder, tensors, {**about, "classes": classes})


@pytest.mark.parametrize(
    "name",
    [
        "extra",
        "extra.deep",
        "detector",
        "detector.extra",
        "detector.features.pattern",
        "classes",
        "method",
        "terms",
        "probes",
        "commitment",
        "training",
        "digest",
        "_buffers",
        "",
        ".",
        "secret.",
    ],
)
@pytest.mark.parametrize("content", [torch.zeros(0), torch.zeros(CLASSES, CLASSES)], ids=len)
def test_a_tensor_that_was_added_is_refused(kind, folder, name, content):
    tensors, about = saved(kind, folder)
    refused(kind, folder, {**tensors, name: content}, about)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_was_removed_is_refused(kind, folder, name):
    tensors, about = saved(kind, folder)
    refused(kind, folder, {other: t for other, t in tensors.items() if other != name}, about)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["longer", "shorter", "empty", "another shape"])
def test_a_tensor_of_another_size_is_refused(kind, folder, name, how):
    tensors, about = saved(kind, folder)
    old = tensors[name]
    new = {
        "longer": torch.cat([old, old[:1]]),
        "shorter": old[:-1],
        "empty": old[:0],
        "another shape": old[None],
    }[how]
    refused(kind, folder, {**tensors, name: new}, about)


@pytest.mark.parametrize("name", ["secret", "salt", "message"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float32, torch.bool])
def test_secret_bytes_of_another_type_are_refused(kind, folder, name, dtype):
    tensors, about = saved(kind, folder)
    refused(kind, folder, {**tensors, name: tensors[name].to(dtype)}, about)


def test_bytes_may_not_wander_between_secret_salt_and_message(kind, folder):
    """Each has its own length before the hash, and HMAC's parts are told apart by it."""
    tensors, about = saved(kind, folder)
    secret, salt, message = (tensors[name] for name in ("secret", "salt", "message"))
    for moved in (
        {"message": torch.cat([message, salt[:1]]), "salt": salt[1:]},
        {"message": message[:-1], "salt": torch.cat([message[-1:], salt])},
        {"message": torch.cat([salt[-1:], message]), "salt": salt[:-1]},
        {"salt": torch.cat([salt, secret[:1]]), "secret": secret[1:]},
        {"salt": salt[:-1], "secret": torch.cat([salt[-1:], secret])},
        {"message": salt, "salt": message},
    ):
        refused(kind, folder, {**tensors, **moved}, about)


def test_a_digest_tells_apart_how_bytes_are_shared_out():
    shares = [
        {"a": [97, 98], "b": [99]},
        {"a": [97], "b": [98, 99]},
        {"a": [], "b": [97, 98, 99]},
        {"a": [97, 98, 99]},
        {"b": [97, 98, 99]},
        {"a": [[97, 98, 99]]},
        {"a": [[97], [98], [99]]},
    ]
    digests = []
    for parts in shares:
        made = Key.draw("customer", 10, Random(0).randbytes)
        for name, part in parts.items():
            made.register_buffer(name, torch.tensor(part, dtype=torch.uint8))
        digests.append(made.digest())
    assert len(set(digests)) == len(shares)


def test_a_detector_of_another_size_is_refused(kind, key, tmp_path):
    key.save(tmp_path / "key")
    for hidden in ((9,), (8, 8), ()):
        with pytest.raises(InputError, match=r"key: the key of another method or network"):
            soft(kind, hidden=hidden).load_key(tmp_path / "key")


def test_a_key_of_another_method_is_refused(key, kind, tmp_path):
    key.save(tmp_path / "key")
    other = USP if kind is CSP else CSP
    read = soft(other).load_key(tmp_path / "key")
    with pytest.raises(InputError, match="method"):
        read.check(NODES[other], TERMS, POOL)
    with pytest.raises(InputError, match="another method or network"):
        Key.load(tmp_path / "key", lambda made: None)


def test_a_key_whose_secret_was_emptied_is_refused(key, kind):
    key.secret = torch.empty(0, dtype=torch.uint8)
    with pytest.raises(InputError, match="commitment"):
        key.check(NODES[kind], TERMS, POOL)


def test_all_that_does_not_fit_is_named(key):
    with pytest.raises(InputError, match="its method, terms of a claim, probes: no verdict"):
        key.check({}, {}, POOL[:3])


def test_a_broken_key_file_is_named(kind, key, tmp_path):
    key.save(tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "short").write_bytes(raw[:-1])
    (tmp_path / "header").write_bytes(raw[:20])
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no safetensors at all")
    (tmp_path / "pickle").write_bytes(b"\x80\x04]q\x00.")
    torch.save(key.state_dict(), tmp_path / "torch")
    (tmp_path / "folder").mkdir()
    broken = {path.name for path in tmp_path.iterdir()} - {"whole"} | {"missing"}
    assert len(broken) == 9
    for name in broken:
        why = "it can't be read" if name in ("missing", "folder") else "not a whole safetensors"
        with pytest.raises(InputError, match=f"/{name}: {why}"):
            soft(kind).load_key(tmp_path / name)


def test_a_file_that_holds_no_key_is_named(kind, tmp_path):
    save_network(build(functools.partial(ConvNet, width=4), POOL, 3), tmp_path / "network")
    safetensors.torch.save_file({"secret": torch.zeros(32)}, tmp_path / "bare")
    for name in ("network", "bare"):
        with pytest.raises(InputError, match=rf"/{name}: not a key of this version"):
            soft(kind).load_key(tmp_path / name)


def test_a_pickle_is_never_opened(kind, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("it was opened")

    monkeypatch.setattr("pickle.load", opened)
    monkeypatch.setattr("torch.load", opened)
    (tmp_path / "pickle").write_bytes(b"\x80\x04]q\x00.")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        soft(kind).load_key(tmp_path / "pickle")
    assert keys.FORMAT == "softmark experiment key 5"


def test_a_victim_of_many_classes_is_hashed_once_for_the_whole_stream():
    key = Key.draw("a", 300, lambda size: bytes(size))
    key.victim_stats = torch.rand(2, 300, 300)
    digest = hashlib.sha256(key.victim_bytes()).digest()
    blocks = [
        hmac.new(key.seed(), n.to_bytes(8, "big") + digest, hashlib.sha256).digest()
        for n in range(2)
    ]
    assert key.stream(50) == b"".join(blocks)[:50]
