"""What configs of a sweep's cells share."""

import pytest
from omegaconf import OmegaConf

from softmark.settings import configs
from softmark.sweep.compose import CellComposer, _follows_seed


@pytest.mark.parametrize(
    ("text", "follows"),
    [("${seed}", True), ("a ${..seed}", True), ("${oc.env:${x}}", True), ("seed", False)],
)
def test_what_follows_from_the_seed_is_seen(text, follows):
    assert _follows_seed(OmegaConf.create({"roles": [{"split": text}]})) == follows


def test_a_config_that_follows_the_seed_is_no_other_seeds(monkeypatch):
    with configs():
        composer = CellComposer()
        plain = composer.compose(["method=csp", "seed=1"])
        assert composer.compose(["method=csp", "seed=2"])["data"] is plain["data"]
        monkeypatch.setattr("softmark.sweep.compose._follows_seed", lambda config: True)
        composer = CellComposer()
        first, second = (composer.compose(["method=csp", f"seed={n}"]) for n in (1, 2))
        assert (first["seed"], second["seed"]) == (1, 2)
        assert first["data"] is not second["data"]
