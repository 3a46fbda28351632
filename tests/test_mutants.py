"""The planted mistakes of scripts/mutants.py fit the code of today; none is tried here."""

import runpy
from pathlib import Path

import pytest

from helpers import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts/mutants.py"))


def test_each_mistake_has_a_name_of_its_own():
    names = [mutant.name for mutant in SCRIPT["MUTANTS"]]
    assert len(names) == len(set(names)) > 100


@pytest.mark.parametrize("mutant", SCRIPT["MUTANTS"], ids=lambda mutant: mutant.name)
def test_the_code_that_a_mistake_replaces_occurs_once(mutant):
    path = Path(SCRIPT["ROOT"], "src", "softmark", mutant.file)
    assert path.read_text().count(mutant.before) == 1
    assert mutant.after != mutant.before


def test_the_tests_that_may_notice_are_there():
    assert [test for test in SCRIPT["TESTS"] if not (ROOT / test).exists()] == []
