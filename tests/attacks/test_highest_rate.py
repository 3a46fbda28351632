"""Fine-tuning at the highest rate that held-out accuracy allows."""

import pytest
import torch

from helpers.training import network, recipe, samples
from softmark.attacks.highest_rate import HighestRate
from softmark.errors import InputError
from softmark.training import DivergedError


def spoilt(rate: float, seen: list):
    """A trainer that spoils the network at ``rate`` and above, and notes all rates."""

    def training(module, data, name):
        seen.append((round(module.recipe.lr, 6), len(data), module.rate(0.5)))
        if module.recipe.lr > 2 * rate:
            raise DivergedError("the loss became nan")
        with torch.no_grad():
            good = module.recipe.lr < rate
            module.network.head.bias.copy_(torch.tensor([1.0, 0, 0] if good else [0, 0, 1.0]))
        return module.network

    return training


def constant() -> torch.nn.Module:
    """A network that answers class 0 whatever it sees."""
    model = network()
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1.0, 0.0, 0.0])
    return model.eval()


def zeros():
    data = samples(50)
    data.labels.zero_()
    return data


def test_the_highest_rate_that_accuracy_allows_is_taken():
    seen = []
    attack = HighestRate(recipe=recipe(lr=0.1), epochs=4, held_out=0.2)
    result = attack.apply(constant(), zeros(), spoilt(1.0, seen))
    # 1.5 spoils it, .5 doesn't, and .1 isn't tried any more; 40 of 50 pictures are trained on.
    assert seen == [(1.5, 40, pytest.approx(0.81)), (0.5, 40, pytest.approx(0.81))]
    assert result.network.head.bias.tolist() == [1.0, 0.0, 0.0]
    assert result.note == "5 times the rate: held-out accuracy 1.000 to 1.000"


def test_where_no_rate_is_allowed_the_most_accurate_is_handed_back():
    seen = []
    result = HighestRate(recipe=recipe(lr=0.1)).apply(constant(), zeros(), spoilt(0.05, seen))
    assert [rate for rate, *_ in seen] == [1.5, 0.5, 0.1]
    assert result.note == "1 times the rate: held-out accuracy 1.000 to 0.000"
    with pytest.raises(DivergedError):
        HighestRate(recipe=recipe(lr=0.1)).apply(constant(), zeros(), spoilt(0.01, seen))


@pytest.mark.parametrize(
    ("name", "value"),
    [("factors", []), ("factors", [1.0, 0.0]), ("lr_decay", 0.0), ("tolerance", 1.1)],
)
def test_numbers_of_the_highest_rate_are_checked(name, value):
    with pytest.raises(InputError, match=rf"attack\.{name}="):
        HighestRate(recipe=recipe(), **{name: value})
