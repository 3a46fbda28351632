"""What attackers make of answers, of inputs and of what they ask."""

import copy
import functools
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from softmark.attacks import answers as changes
from softmark.attacks.distill import (
    DistillAveraged,
    DistillChanged,
    DistillLabelled,
    Student,
)
from softmark.attacks.finetune import SelfDistill, SmoothLabels, TrainAdversarially
from softmark.attacks.perturb import perturbed
from softmark.attacks.queries import (
    DistillBoundary,
    DistillMixtures,
    DistillNoise,
    DistillPhotographs,
    photographs,
)
from softmark.attacks.served import (
    Blur,
    Inputs,
    Jpeg,
    Levels,
    Median,
    Mirror,
    OtherTail,
    PixelNoise,
    Serve,
    ServeOwnTail,
    ServeTogether,
    Smoothing,
)
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Query
from softmark.models.files import load_network, save_network
from softmark.models.networks import ConvNet, build
from softmark.training import Classifier, accuracy, predict
from test_training import fit, network, recipe, samples

KEEPING = (
    changes.Change(),
    changes.Flatten(),
    changes.Shuffle(),
    changes.TopK(k=2),
    changes.Temper(temperature=3.0),
    changes.Noise(sd=2.0),
    changes.Labels(),
)
NETWORK = functools.partial(ConvNet, width=4)
STUDENT = functools.partial(Student, temperature=1.0, hard=False)


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


# --- What is served ----------------------------------------------------------------------------


def test_a_served_change_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    attack, target, data = Serve(change=changes.Flatten()), network(), samples()
    before = copy.deepcopy(target.state_dict())
    stolen = attack.apply(target, data, fit())
    assert stolen.network is target
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    told = attack.serve(lambda images: predict(target, images))(data.inputs)
    torch.testing.assert_close(told, changes.Flatten()(predict(target, data.inputs)))


def test_what_cannot_be_served_is_said_when_the_model_is_stolen():
    with pytest.raises(InputError, match=r"k=100: the model has"):
        Serve(change=changes.TopK(k=100)).apply(network(), samples(), fit())


def test_the_own_tail_is_the_own_models():
    torch.manual_seed(0)
    data = samples(200)
    stolen = fit()(Classifier(build(NETWORK, data, 3), recipe(epochs=6)), data, "classifier")
    whole = ServeOwnTail(recipe=recipe(), network=NETWORK).apply(stolen, data, fit()).network
    assert isinstance(whole, OtherTail)
    told = predict(whole, data.inputs)
    first, second = (predict(each, data.inputs) for each in whole.networks)
    assert torch.equal(told.argmax(1), first.argmax(1))
    top = changes.is_top(first)
    ratio = (told / second).masked_fill(top, torch.nan)
    spread = ratio.nan_to_num(0).amax(1) / ratio.nan_to_num(torch.inf).amin(1)
    # Proportional to the second's, but where that would exceed the likeliest class.
    assert spread.median() < 1.001


@pytest.mark.parametrize("kind", [ServeTogether, ServeOwnTail])
def test_what_is_served_by_two_models_is_the_same_from_a_file(kind, tmp_path):
    torch.manual_seed(0)
    data = samples(50)
    whole = (
        kind(recipe=recipe(), network=NETWORK).apply(build(NETWORK, data, 3), data, fit()).network
    )
    save_network(whole, tmp_path / "model")
    again = load_network(tmp_path / "model")
    assert type(again) is type(whole)
    assert torch.equal(predict(again, data.inputs), predict(whole, data.inputs))


def test_together_they_answer_with_their_mean():
    torch.manual_seed(0)
    data = samples(100)
    stolen = build(NETWORK, data, 3)
    whole = ServeTogether(recipe=recipe(), network=NETWORK).apply(stolen, data, fit()).network
    mean = torch.stack([predict(each, data.inputs) for each in whole.networks]).mean(0)
    torch.testing.assert_close(predict(whole, data.inputs), mean)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
@pytest.mark.parametrize(
    "change",
    [
        Jpeg(quality=45),
        Blur(sigma=0.5),
        Median(size=2),
        Levels(levels=4),
        PixelNoise(sigma=0.1),
        Mirror(),
        Smoothing(copies=3, sigma=0.05, pad=1),
    ],
    ids=lambda change: type(change).__name__,
)
def test_changed_inputs_are_pictures_of_the_same_kind(change, shape):
    images = torch.randint(256, (5, *shape), dtype=torch.uint8)
    seen = []

    def answer(images):
        seen.append(images)
        return torch.full((len(images), 4), 0.25)

    told = change(answer, images)
    assert told.shape == (5, 4)
    assert all(each.shape == images.shape and each.dtype == torch.uint8 for each in seen)
    again = len(seen)
    change(answer, images)
    assert all(torch.equal(a, b) for a, b in zip(seen[:again], seen[again:], strict=True)), (
        "a verdict can be repeated"
    )
    assert not all(torch.equal(each, images) for each in seen)


def test_input_changes_are_what_they_are_called():
    images = torch.randint(256, (3, 1, 12, 12), dtype=torch.uint8)

    def through(change):
        seen = []
        change(lambda pictures: seen.append(pictures), images)
        return seen[0]

    assert torch.equal(through(Mirror()), images.flip(3))
    assert len(through(Levels(levels=4)).unique()) <= 4
    assert through(Blur(sigma=2.0)).float().std() < images.float().std()
    noise = through(PixelNoise(sigma=0.01)).float() - images.float()
    assert 1.5 < noise.std() < 3.5
    file = io.BytesIO()
    Image.fromarray(images[0, 0].numpy()).save(file, "JPEG", quality=45)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    assert torch.equal(through(Jpeg(quality=45))[0, 0], decoded)


def test_changed_inputs_are_served():
    attack = Inputs(change=Mirror())
    asked = []
    attack.serve(lambda images: asked.append(images))(samples(4).inputs)
    assert torch.equal(asked[0], samples(4).inputs.flip(3))


# --- What is asked and learnt -------------------------------------------------------------------


def asked_by(attack, data):
    """What ``attack`` asks, what it is told, and what its student learns."""
    queries = []

    def answer(images):
        queries.append(images)
        torch.manual_seed(5)
        return torch.rand(len(images), 4).softmax(1)

    query = Query(answer, 4)
    learnt, targets = attack.ask(query, data, fit())
    return torch.cat(queries), learnt, targets, query.count


def test_a_student_of_changed_answers_learns_these():
    data = samples(50)
    asked, learnt, targets, count = asked_by(
        DistillChanged(recipe=recipe(), network=NETWORK, student=STUDENT, change=changes.Labels()),
        data,
    )
    assert torch.equal(asked, data.inputs)
    assert learnt is data
    assert set(targets.unique().tolist()) == {0.0, 1.0}
    assert count == 50


def test_true_labels_are_mixed_in():
    data = samples(50)
    data.labels.clamp_(max=3)
    _, _, targets, _ = asked_by(
        DistillLabelled(recipe=recipe(), network=NETWORK, student=STUDENT, label_weight=0.5), data
    )
    torch.manual_seed(5)
    told = torch.rand(50, 4).softmax(1)
    true = torch.nn.functional.one_hot(data.labels, 4).float()
    torch.testing.assert_close(targets, (told + true) / 2)


def test_averaged_answers_ask_each_copy():
    data = samples(20)
    asked, _, _, count = asked_by(
        DistillAveraged(recipe=recipe(pad=2), network=NETWORK, student=STUDENT, copies=3), data
    )
    assert count == 60
    assert not torch.equal(asked[:20], asked[20:40])


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (DistillNoise(recipe=recipe(), network=NETWORK, student=STUDENT), 30),
        (DistillMixtures(recipe=recipe(), network=NETWORK, student=STUDENT, weight=0.5), 30),
        (DistillPhotographs(recipe=recipe(), network=NETWORK, student=STUDENT), 30),
        (
            DistillBoundary(
                recipe=recipe(), network=NETWORK, student=STUDENT, eps=0.1, iterations=2
            ),
            60,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_queries_are_counted_and_learnt(attack, queries):
    torch.manual_seed(0)
    data = samples(30)
    asked, learnt, targets, count = asked_by(attack, data)
    assert count == queries
    assert torch.equal(learnt.inputs, asked)
    assert asked.shape == (queries, *data.inputs.shape[1:])
    assert asked.dtype == torch.uint8
    assert len(targets) == queries
    if queries == 60:
        assert torch.equal(asked[:30], data.inputs)
        moved = (asked[30:].float() - data.inputs.float()).abs()
        assert 0 < moved.max() <= 255 * 0.1 + 0.5
    else:
        assert not torch.equal(asked, data.inputs)


@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_are_pictures_of_something(channels):
    torch.manual_seed(0)
    images = photographs(50, (channels, 16, 16)).float()
    # Neighbouring pixels of a photograph are alike, those of noise aren't.
    near = (images[..., 1:] - images[..., :-1]).abs().mean()
    far = (images - images[torch.randperm(50)]).abs().mean()
    assert near < 0.5 * far


def test_perturbed_pictures_stay_in_the_box_and_raise_the_loss():
    torch.manual_seed(0)
    data = samples(200)
    model = fit()(Classifier(network(), recipe(epochs=6)), data, "classifier")
    images = as_input(data.inputs)
    model.zero_grad()
    moved = perturbed(model, images, data.labels, 0.1, 5)
    assert (moved - images).abs().max() <= 0.1 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    with torch.inference_mode():
        before, after = (
            torch.nn.functional.cross_entropy(model(each), data.labels) for each in (images, moved)
        )
    assert after > 1.5 * before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_adversarial_training_makes_a_model_harder_to_fool():
    torch.manual_seed(0)
    data = samples(400)
    plain = fit()(Classifier(network(), recipe(epochs=8)), data, "classifier")
    attack = TrainAdversarially(
        recipe=recipe(epochs=8), epochs=8, lr_factor=1.0, eps=0.3, iterations=3
    )
    tough = attack.apply(copy.deepcopy(plain), data, fit()).network
    images = as_input(data.inputs)

    def fooled(model):
        moved = perturbed(model, images, data.labels, 0.3, 5)
        return accuracy(model(moved).softmax(1), data.labels)

    assert fooled(tough) > fooled(plain) + 0.1


def test_smoothed_labels_make_a_model_less_sure():
    torch.manual_seed(0)
    data = samples(400)
    plain = fit()(Classifier(network(), recipe(epochs=8)), data, "classifier")
    attack = SmoothLabels(
        recipe=recipe(epochs=8),
        epochs=5,
        lr_factor=0.5,
        layers="all",
        samples=None,
        label_smoothing=0.5,
    )
    smooth = attack.apply(copy.deepcopy(plain), data, fit()).network
    sure = [float(predict(model, data.inputs).amax(1).mean()) for model in (smooth, plain)]
    assert sure[0] < sure[1] - 0.15


def test_self_distillation_flattens_the_models_own_tails():
    torch.manual_seed(0)
    data = samples(400)
    # A teacher whose answers have tails: class 0 leans to 1, and so on.
    template = torch.tensor([[0.7, 0.25, 0.05], [0.05, 0.7, 0.25], [0.25, 0.05, 0.7]])
    student = STUDENT(network(), recipe(epochs=20), answers=template[data.labels])
    target = fit()(student, data, "student")
    attack = SelfDistill(
        recipe=recipe(epochs=8), epochs=20, lr_factor=0.5, student=STUDENT, change=changes.Flatten()
    )
    before = changes.mean_tails(predict(target, data.inputs)).norm()
    flat = attack.apply(copy.deepcopy(target), data, fit()).network
    assert before > 1
    assert changes.mean_tails(predict(flat, data.inputs)).norm() < 0.2 * before
