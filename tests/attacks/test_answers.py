"""What attackers make of answers."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.training import NETWORK, fit, network, recipe, samples
from softmark.attacks import answers as changes
from softmark.attacks.answers import Temper
from softmark.attacks.attack import Attack, AttackResult, Keep
from softmark.attacks.served import Blur, Jpeg, Levels, Median, PixelNoise, Serve
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Classifier, predict

KEEPING = (
    changes.Change(),
    changes.Flatten(),
    changes.Shuffle(),
    changes.TopK(k=2),
    changes.DropRunnersUp(),
    changes.Temper(temperature=3.0),
    changes.Noise(sd=2.0),
    changes.Labels(),
)


def answers(seed: int, count: int = 40, classes: int = 5) -> torch.Tensor:
    return (3 * torch.randn(count, classes, generator=torch.manual_seed(seed))).softmax(1)


@pytest.mark.parametrize("change", KEEPING, ids=lambda change: type(change).__name__)
@given(seed=st.integers(0, 10_000))
def test_a_change_keeps_the_class_and_gives_probabilities(change, seed):
    p = answers(seed)
    told = change(p)
    assert torch.equal(told.argmax(1), p.argmax(1))
    assert (told >= 0).all()
    torch.testing.assert_close(told.sum(1), torch.ones(len(p)))
    assert torch.equal(change(p), told)


@given(seed=st.integers(0, 10_000))
def test_flat_and_shuffled_tails_keep_the_confidence(seed):
    p = answers(seed)
    flat, shuffled = changes.Flatten()(p), changes.Shuffle()(p)
    torch.testing.assert_close(shuffled.sort(1).values, p.sort(1).values)
    top = p.amax(1)
    # An even tail may not exceed what the likeliest class had.
    fair = torch.where(top > (1 - top) / 4, top, flat.amax(1))
    torch.testing.assert_close(flat.amax(1), fair)
    tails = flat.masked_fill(changes.is_top(p), torch.nan)
    assert (tails.nan_to_num(0).amax(1) - tails.nan_to_num(1).amin(1)).abs().max() < 1e-6


def test_shuffling_leaves_no_pattern():
    p = answers(1, count=1).expand(5000, -1)
    told = changes.Shuffle()(p)
    there = ~changes.is_top(p)[0]
    mean = told.mean(0)[there]
    assert mean.std() / mean.mean() < 0.05
    assert p[0][there].std() / p[0][there].mean() > 0.3


def test_the_top_k_are_told_and_no_more():
    told = changes.TopK(k=3)(answers(0))
    assert ((told > 0).sum(1) == 3).all()
    with pytest.raises(InputError, match=r"attack\.change\.k=9: the model has 5 classes"):
        changes.TopK(k=9)(answers(0))


def test_rounding_leaves_so_many_decimals():
    told = changes.Round(digits=1)(answers(0))
    torch.testing.assert_close((10 * told).round() / 10, told)


def test_who_abstains_says_nothing_where_unsure():
    p = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]])
    told = changes.Abstain(confidence=0.5)(p)
    assert torch.equal(told[0], p[0])
    torch.testing.assert_close(told[1], torch.full((3,), 1 / 3))


def marked_answers(template: torch.Tensor, count: int = 400, seed: int = 0) -> torch.Tensor:
    """Answers whose log-tails are their class's row of ``template``, and noise."""
    draw = torch.manual_seed(seed)
    classes = len(template)
    top = torch.arange(count) % classes
    logits = template[top] + 0.3 * torch.randn(count, classes, generator=draw)
    return logits.scatter(1, top[:, None], 6.0).softmax(1)


def test_subtraction_takes_off_what_a_class_has_in_common():
    template = torch.randn(6, 6, generator=torch.manual_seed(3))
    p = marked_answers(template)
    change = changes.Subtract()
    change.learn(p, samples(), fit())
    assert changes.mean_tails(p).norm() > 3
    told = change(p)
    assert changes.mean_tails(told).norm() < 1e-3
    # What is an answer's own stays.
    assert changes.log_of(told).std(0).mean() > 0.2


def test_subtraction_is_kept_with_the_suspect():
    change = changes.Subtract()
    change.learn(marked_answers(torch.randn(6, 6)), samples(), fit())
    other = changes.Subtract()
    other.load_state_dict(change.state_dict())
    torch.testing.assert_close(other.learnt, change.learnt)
    assert float(other.learnt.abs().sum()) > 0


def test_swapping_puts_the_own_models_tails_there():
    torch.manual_seed(0)
    data = samples(300)
    change = changes.Swap(recipe=recipe(epochs=4), network=NETWORK)
    target = fit()(Classifier(network(), recipe(epochs=4)), data, "classifier")
    seen = []
    real = fit()

    def watched(module, data, name):
        seen.append(real(module, data, name))
        return seen[-1]

    p = predict(target, data.inputs)
    change.learn(p, data, watched)
    own = changes.mean_tails(predict(seen[0], data.inputs))
    torch.testing.assert_close(change.learnt, changes.mean_tails(p) - own)
    template = torch.randn(3, 3)
    change.learnt = changes.mean_tails(marked_answers(template)) - own
    put_there = changes.mean_tails(change(marked_answers(template)))
    torch.testing.assert_close(put_there, own, rtol=1e-3, atol=1e-3)


def test_mean_tails_are_those_of_a_loop():
    p = answers(2)
    expected = torch.zeros(5, 5)
    for c in range(5):
        rows = [row.log() for row in p if int(row.argmax()) == c]
        if rows:
            tails = [row - (row.sum() - row[c]) / 4 for row in rows]
            expected[c] = torch.stack(tails).mean(0)
            expected[c, c] = 0
    torch.testing.assert_close(changes.mean_tails(p), expected)


def test_calibration_undoes_what_moved_the_borders():
    torch.manual_seed(0)
    true = (2 * torch.randn(20_000, 4)).log_softmax(1)
    labels = true.exp().multinomial(1)[:, 0]
    matrix = torch.eye(4) + 0.2 * torch.randn(4, 4)
    moved = (true @ matrix + torch.tensor([1.0, -1.0, 0.5, -0.5])).softmax(1)
    data = Samples(torch.zeros(20_000, 1, 1, 1, dtype=torch.uint8), labels)
    change = changes.Calibrate(penalty=0.0, flat=False)
    change.learn(moved, data, None)
    assert (moved - true.exp()).abs().mean() > 0.05
    assert (change(moved) - true.exp()).abs().mean() < 0.01
    again = changes.Calibrate(penalty=0.0, flat=False)
    again.load_state_dict(change.state_dict())
    assert torch.equal(again(moved), change(moved))
    # Few labels and a large penalty: the answers stay.
    held = changes.Calibrate(penalty=1e4, flat=False)
    held.learn(moved[:40], data[:40], None)
    torch.testing.assert_close(held(moved), moved, atol=1e-2, rtol=0)
    flat = changes.Calibrate(penalty=0.0, flat=True)
    flat.learn(moved, data, None)
    told = flat(moved)
    assert torch.equal(told.argmax(1), change(moved).argmax(1))
    assert (told.sort(1).values[:, 0] == told.sort(1).values[:, 2]).all()
    with pytest.raises(InputError, match=r"attack\.change\.penalty=-1"):
        changes.Calibrate(penalty=-1.0, flat=False)


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        (changes.Round, "digits", 0),
        (changes.TopK, "k", 0),
        (changes.DropRunnersUp, "k", 1),
        (changes.DropRunnersUp, "smoothing", 1.0),
        (changes.Temper, "temperature", 0.0),
        (changes.Noise, "sd", 0.0),
        (changes.Abstain, "confidence", 1.0),
        (Jpeg, "quality", 0),
        (Blur, "sigma", 0.0),
        (Median, "size", 1),
        (Levels, "levels", 1),
        (PixelNoise, "sigma", 0.0),
    ],
)
def test_numbers_of_changes_are_checked(kind, name, wrong):
    with pytest.raises(InputError, match=rf"attack\.change\.{name}={wrong}"):
        kind(**{name: wrong})


# --- at a temperature -----------------------------------------------------------------------------


@given(st.floats(0.1, 20), st.integers(0, 99))
def test_answers_at_a_temperature_are_those_of_the_logits_divided_by_it(temperature, seed):
    logits = 2 * torch.randn(20, 5, generator=torch.manual_seed(seed))
    served = Serve(change=Temper(temperature=temperature)).serve(lambda images: logits.softmax(1))
    told = served(torch.empty(20, 1, 8, 8))
    torch.testing.assert_close(told, (logits / temperature).softmax(1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(told.sum(1), torch.ones(20))
    assert torch.equal(told.argmax(1), logits.argmax(1))


def test_a_temperature_leaves_the_model_and_its_zeros_alone():
    attack, target = Serve(change=Temper(temperature=4.0)), network()
    before = copy.deepcopy(target.state_dict())
    assert attack.apply(target, samples(), fit()) == AttackResult(target)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    sure = torch.tensor([[0.0, 1.0, 0.0]])
    told = attack.serve(lambda images: sure)(torch.empty(1, 1, 8, 8))
    assert told.isfinite().all()
    assert told.argmax() == 1
    cold = Serve(change=Temper(temperature=1e-3)).serve(
        lambda images: torch.tensor([[0.2, 0.5, 0.3]])
    )
    torch.testing.assert_close(cold(torch.empty(1, 1, 8, 8)), sure)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(InputError, match=r"attack\.change\.temperature="):
        Temper(temperature=temperature)


def test_other_attacks_serve_what_the_model_answers():
    def answer(images):
        return images

    assert Attack().serve(answer) is answer
    target = network()
    assert Keep().apply(target, samples(), fit()) == AttackResult(target)


def test_runners_up_are_taken_out_and_the_rest_is_smoothed():
    told = changes.DropRunnersUp(k=3, smoothing=0.2)(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    torch.testing.assert_close(told, torch.tensor([[0.21, 0.05, 0.05, 0.69]]))
