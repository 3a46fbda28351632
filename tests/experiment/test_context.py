"""What the making of a stage may use."""

import copy

import pytest
from PIL import Image

from helpers.cells import composed
from softmark.errors import InputError
from softmark.experiment.context import StageContext, roles_of
from softmark.experiment.plan import decode_data, plan
from softmark.store.store import Store


def test_data_that_change_in_a_run_are_read_anew_and_not_taken_for_those_before(tmp_path):
    for number in range(24):
        path = tmp_path / "top" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    config = copy.deepcopy(composed(("data=imagefolder", f"data.path={tmp_path / 'top'}")))
    config |= {"output_dir": str(tmp_path / "out")}

    def context(cell):
        store = Store.under(config["output_dir"])
        return StageContext(cell.victim, None, roles_of(config), None, store)

    decode_data(config)
    cell = plan(config)
    context(cell).check_data()
    assert roles_of(config) is roles_of(config)
    Image.new("L", (8, 8), 99).save(tmp_path / "top" / "a" / "0.png")
    with pytest.raises(InputError, match="the data have changed since this run began"):
        context(cell).check_data()
    context(plan(config)).check_data()
    assert plan(config).victim.address != cell.victim.address
