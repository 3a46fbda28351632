"""Somebody's own class on a command line: what it becomes, and what is wrong with it."""

import importlib
import sys
from dataclasses import dataclass

import pytest

from softmark.errors import InputError
from softmark.experiment.plan import plan
from softmark.methods import Adi, Hybrid, Watermark
from softmark.recipe import Recipe
from softmark.settings import configs
from softmark.sweep.override_check import check_overrides
from softmark.sweep.own_method import overrides_of, with_own_method

MINE = """
from dataclasses import dataclass, field

from softmark.methods import TrainedWatermark
from softmark.recipe import Recipe
from softmark.verification.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Mine(TrainedWatermark):
    bits: int = 8

    def embed(self, victim, data, fit):
        return victim, self.draw(data, 10, fit.entropy)

    def evidence(self, suspect, key, probes):
        return Evidence.none("nothing yet")


class Half(TrainedWatermark):
    def embed(self, victim, data, fit):
        return victim, None


class Plain:
    pass
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """``here("name", text)``: a module in the current folder, which Python finds there alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, text: str = MINE) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"method._target_={name}.Mine"

    return write


def test_a_class_is_all_that_a_command_line_needs(here):
    words = ["-m", here("own_a"), "method.bits=16", "attack=none,prune", "seed=1"]
    assert with_own_method(words) == [
        "-m",
        "method=none",
        "method.name=Mine",
        "+method.message=softmark",
        "+method.recipe=${recipe}",
        "+method.epochs_factor=2.0",
        "+method.batch_size_factor=0.5",
        "+method.control={_target_:softmark.methods.parts.control.Control,"
        "recipe:${..recipe},epochs_factor:${..epochs_factor},"
        "batch_size_factor:${..batch_size_factor}}",
        "method._target_=own_a.Mine",
        "+method.bits=16",
        "attack=none,prune",
        "seed=1",
    ]
    # Whoever chooses the method's node knows what is in it; without a class nothing changes.
    for others in (["method=adi", "method._target_=own_a.Mine"], ["method=usp", "method.a=1"]):
        assert with_own_method(others) == others


def test_the_address_counts_the_code_of_the_class_and_no_name(here):
    def stages(name: str, text: str = MINE) -> tuple[str, str, str]:
        words = with_own_method([here(name, text), "scale=smoke", "attack=none"])
        with configs():
            config = check_overrides("config", words)
        assert config["method"]["recipe"] == config["recipe"]
        assert config["method"]["control"]["recipe"] == config["recipe"]
        made = plan(config, "0" * 64)
        return made.verdict.address, made.watermarked.address, made.victim.address

    verdict, marked, victim = stages("own_b")
    assert stages("own_c") == (verdict, marked, victim)
    changed = stages("own_d", MINE.replace("key, probes):", "key, probes):\n        key.bits = 1"))
    # What judges is no part of what embeds: a change of that alone keeps the marked model.
    assert (changed[0] == verdict, changed[1:]) == (False, (marked, victim))
    _, other, same_victim = stages("own_e", MINE.replace("data, 10,", "data, 12,"))
    assert (other == marked, same_victim) == (False, victim)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nowhere_at_all.Mine", "no module nowhere_at_all in "),
        ("Mine", "MODULE.CLASS is needed, as mine.Mine"),
        ("own_f.Min", "own_f has no class Min; did you mean Mine?"),
        ("own_f.Plain", "is no class that derives from softmark.methods.Watermark"),
        ("own_f.Half", "Half lacks evidence(self, suspect, key, probes)"),
        ("own_g.Mine", "own_g can't be imported: SyntaxError: "),
        ("own_h.Mine", "own_h can't be imported: No module named 'not_there'"),
        ("own_f.Mine,own_f.Half", "one class, as mine.Mine"),
    ],
)
def test_what_is_no_watermark_is_one_line(here, target, expected):
    here("own_f")
    here("own_g", "class Mine(:")
    here("own_h", "import not_there")
    with pytest.raises(InputError, match=r"method\._target_=") as caught:
        with_own_method([f"method._target_={target}"])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Own(Watermark):
    sizes: tuple[int, ...] = (1, 2)
    text: str = "plain"
    strict: bool = False
    recipe: Recipe | None = None

    def embed(self, victim, data, fit):
        return victim, None

    def evidence(self, suspect, key, probes):
        return None


class Forgetful(Own):
    def __init__(self, size):
        pass


def test_an_object_becomes_overrides_that_make_it_again():
    assert overrides_of(Own(sizes=(3,), text="it's, so", strict=True))[3:] == [
        "+method.sizes=[3]",
        "+method.text='it\\'s, so'",
        "+method.strict=true",
    ]
    assert "+method.recipe=${recipe}" in overrides_of(Own(recipe=Recipe()))
    assert any("epochs:3," in line for line in overrides_of(Own(recipe=Recipe(epochs=3))))
    with configs():
        config = check_overrides("config", overrides_of(Hybrid()))
    assert config["method"]["soft"]["recipe"] == config["recipe"]
    assert "+method.num_triggers=7" in overrides_of(Adi(num_triggers=7))


def test_what_cannot_be_made_again_is_named(monkeypatch):
    with pytest.raises(InputError, match=r"Forgetful keeps no size: make it a dataclass"):
        overrides_of(Forgetful(3))
    with pytest.raises(InputError, match=r"put it at the top of a file of its own, as mine.py"):
        overrides_of(type("Local", (Own,), {"__module__": "__main__"}))
    with pytest.raises(InputError, match=r"Own.text=<object object at .*: a number, a text"):
        overrides_of(Own(text=object()))
