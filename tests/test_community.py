"""What contributors read agrees with the code."""

import re
import tomllib

import pytest
import yaml

from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = [
    path
    for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    if path.stem != "config"
]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_is_of_this_version():
    citation = read("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"][: len(citation["keywords"])]
    assert [paper["identifiers"][0]["value"] for paper in citation["references"]] == [
        "arXiv:2208.05477"
    ]


def test_ci_runs_every_python_that_the_project_names():
    tested = read(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    assert [f"{prefix}{version}" for version in tested] == PROJECT["classifiers"]
    assert PROJECT["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_something(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    names = [part["id"] for part in form["body"]]
    assert len(names) == len(set(names)) > 3
    for part in form["body"]:
        assert part["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert part["attributes"]["label"]
        assert ("options" in part["attributes"]) == (part["type"] in ("dropdown", "checkboxes"))


def test_the_families_of_attacks_are_those_of_the_configs():
    form = read(".github/ISSUE_TEMPLATE/attack.yml")
    (family,) = (part for part in form["body"] if part["id"] == "family")
    options = family["attributes"]["options"]
    names = [path.stem for path in (ROOT / "conf/attack").glob("*.yaml")]
    assert {f"{name.split('_')[0]}_" for name in names if "_" in name} == set(options[:-1])
    assert options[:-1] == re.findall(r"`(\w+_)`", (ROOT / "CONTRIBUTING.md").read_text())


def test_contributing_is_one_page_of_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) < 80
    for name in re.findall(r"(?:src|tests|scripts|conf|\.ci)/[\w/.-]+", text):
        assert (ROOT / name.rstrip(".")).exists() or "NAME" in name, name


def test_the_changelog_begins_with_what_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "Unreleased"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
