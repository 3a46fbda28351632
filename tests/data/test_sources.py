import io
import json
import os
import re
import sys
from dataclasses import replace

import datasets
import numpy as np
import pytest
from PIL import Image

from softmark.data.hub import Hub
from softmark.data.sources import Digits, ImageFolder
from softmark.data.synthetic import Synthetic
from softmark.errors import InputError


def assert_short(raised):
    lines = str(raised.value).splitlines()
    assert 1 <= len(lines) <= 3
    assert max(map(len, lines)) < 340


def test_digits():
    decoded = Digits().read()
    assert decoded.images.shape == (1797, 1, 8, 8)
    assert decoded.images.dtype == np.uint8
    assert (decoded.images.min(), decoded.images.max()) == (0, 255)
    assert decoded.classes == tuple("0123456789")
    assert decoded.train == 1797
    assert np.bincount(decoded.labels).min() > 170
    assert json.dumps(Digits().signature())


def test_drawn_pictures_are_the_same_each_time_and_classes_of_five_look_alike():
    source = Synthetic(classes=12, pictures=600, size=12, noise=0.5, seed=3)
    decoded = source.read()
    assert decoded.images.shape == (600, 1, 12, 12)
    assert (np.bincount(decoded.labels) == 50).all()
    assert decoded.classes == tuple(map(str, range(12)))
    assert decoded.fingerprint == source.read().fingerprint
    assert decoded.fingerprint != replace(source, seed=4).read().fingerprint
    mean = np.stack([decoded.images[decoded.labels == label].mean(0) for label in range(12)])
    alike = np.corrcoef(mean.reshape(12, -1))
    group = np.arange(12) // 5
    same = (group[:, None] == group) & ~np.eye(12, dtype=bool)
    assert alike[same].mean() > alike[group[:, None] != group].mean() + 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"classes": 1}, "data.classes=1"), ({"pictures": 17}, "data.pictures=17: at least 18"),
     ({"size": 3}, "data.size=3"), ({"noise": -1.0}, "data.noise=-1.0")],
)  # fmt: skip
def test_pictures_that_cannot_be_drawn(changes, message):
    good = {"classes": 3, "pictures": 18, "size": 4, "noise": 0.0, "seed": 0}
    with pytest.raises(InputError, match=re.escape(message)):
        Synthetic(**{**good, **changes})


def png(colour, size=(8, 8), mode="RGB", form="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, form)
    return file.getvalue()


def hub(path=None, **changes):
    given = {
        "dataset": None,
        "subset": None,
        "path": str(path) if path else None,
        "image": "img",
        "label": "label",
        "train_split": "train",
        "test_split": "test",
        "size": None,
    }
    return Hub(**{**given, **changes})


def rows(pictures, labels, names=("cat", "dog")):
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64"),
        }
    )
    cells = [picture and {"bytes": picture, "path": None} for picture in pictures]
    return datasets.Dataset.from_dict({"img": cells, "label": labels}, features=features)


PICTURES = [png((10 * n, 0, 0)) for n in range(6)]
LABELS = [0, 1, 0, 1, 1, 0]


@pytest.fixture
def parquet(tmp_path):
    """A function that writes parquet files into a folder and gives the folder."""
    folder = tmp_path / "set"
    folder.mkdir()

    def write(**splits):
        for name, split in splits.items():
            split.to_parquet(folder / f"{name}.parquet")
        return folder

    return write


def test_parquet(parquet, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    folder = parquet(
        **{
            "train-0": rows(PICTURES[:4], LABELS[:4]),
            "train-1": rows(PICTURES[4:], LABELS[4:]),
            "test-0": rows([png((0, 0, 99))], [1]),
        }
    )
    decoded = hub(folder).read()
    assert decoded.images.shape == (7, 3, 8, 8)
    assert decoded.images[:, 0, 3, 3].tolist() == [0, 10, 20, 30, 40, 50, 0]
    assert decoded.images[6, :, 0, 0].tolist() == [0, 0, 99]
    assert decoded.labels.tolist() == [*LABELS, 1]
    assert decoded.classes == ("cat", "dog")
    assert decoded.train == 6
    assert not home.exists()  # no second copy
    assert sorted(file.name for file in folder.iterdir()) == [
        "test-0.parquet",
        "train-0.parquet",
        "train-1.parquet",
    ]


def test_parquet_without_a_test_file_or_names(parquet):
    decoded = hub(parquet(train=rows(PICTURES, [7, 3, 7, 3, 9, 9], names=None))).read()
    assert decoded.train == 6
    assert decoded.classes == ("3", "7", "9")
    assert decoded.labels.tolist() == [1, 0, 1, 0, 2, 2]


def test_a_test_split_that_is_mistyped_is_not_silent(parquet):
    folder = parquet(train=rows(PICTURES, LABELS), test=rows(PICTURES[:1], [0]))
    message = r"test_split=tset: .* has no tset\*\.parquet, but test\.parquet\n.*test_split=null"
    for use in (Hub.read, Hub.signature):
        with pytest.raises(InputError, match=message) as raised:
            use(hub(folder, test_split="tset"))
        assert_short(raised)
    # Nothing is mistyped where both splits are there, and a third one.
    parquet(validation=rows(PICTURES[:2], [0, 1]))
    assert len(hub(folder).read().labels) == 7


def test_a_test_split_that_is_not_wanted_is_left_out(parquet):
    folder = parquet(train=rows(PICTURES, LABELS), test=rows(PICTURES[:1], [0]))
    assert len(hub(folder, test_split=None).read().labels) == 6


def test_pictures_as_plain_bytes(parquet):
    plain = datasets.Dataset.from_dict({"img": PICTURES, "label": LABELS})
    plain = plain.cast_column("img", datasets.Value("binary"))
    assert hub(parquet(train=plain)).read().images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_signature_of_parquet(parquet, tmp_path):
    folder = parquet(train=rows(PICTURES, LABELS))
    signature = hub(folder).signature()
    assert json.loads(json.dumps(signature))["files"][0][0] == "train.parquet"
    moved = folder.rename(tmp_path / "elsewhere")
    assert hub(moved).signature() == signature
    assert hub(moved, size=8).signature() != signature
    os.utime(moved / "train.parquet", ns=(1, 1))
    assert hub(moved).signature() != signature


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "image"}, "data.source.image=image: the columns are img, label"),
        ({"label": "fine"}, "data.source.label=fine: the columns are img, label"),
        ({"image": "label"}, "data.source.image=label holds .*: pictures are needed"),
        ({"label": "img"}, "data.source.label=img holds .*: integers are needed"),
        ({"train_split": "trian"}, r"no trian\*.parquet \(it holds test.parquet, train.parquet"),
        ({"size": 4}, "data.size=4: null or an integer from 8"),
        ({"size": 9.5}, "data.size=9.5: null or an integer from 8"),
    ],
)
def test_parquet_settings_that_do_not_fit(parquet, changes, message):
    folder = parquet(train=rows(PICTURES, LABELS), test=rows(PICTURES[:1], [0]))
    with pytest.raises(InputError, match=message) as raised:
        hub(folder, **changes).read()
    assert_short(raised)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (rows(PICTURES, LABELS), rows(PICTURES[:2], [0, -1]), r"test\[1\] is -1.*\n.*test_split"),
        (rows(PICTURES, [0, 1, -1, 0, 1, 1], None), None, r"train\[2\] is -1"),
        (rows(PICTURES, LABELS), rows(PICTURES[:2], [None, 1]), r"test\[0\] is None"),
        (rows(PICTURES, LABELS, None), rows(PICTURES[:1], [5], None), r"test\[0\] is 5"),
        (rows(PICTURES, LABELS), rows(PICTURES[:1], [0], None), "do not match"),
        (rows([*PICTURES[:5], b"text"], LABELS), None, r"train\[5\] is no readable picture"),
        (rows([*PICTURES[:5], PICTURES[5][:50]], LABELS), None, r"train\[5\] is no readable"),
        (rows([*PICTURES[:5], None], LABELS), None, r"train\[5\] holds no picture"),
        (rows([], []), None, "no samples"),
        (
            rows([*PICTURES[:5], png(0, (9, 8))], LABELS),
            None,
            r"train\[5\] has 9x8 pixels, train\[0\] has 8x8.*\ndata.size=N",
        ),
        (
            rows(PICTURES, LABELS),
            rows([png(0, (9, 9))], [0]),
            r"test\[0\] has 9x9 pixels, train\[0\] has 8x8",
        ),
        (rows([png(0, (7, 9))] * 2, [0, 1]), None, r"train\[0\] has 7x9 pixels, fewer than 8x8"),
        (rows([png(0, mode="I;16")] * 2, [0, 1]), None, "more than 8 bits a channel"),
    ],
)
def test_rows_that_cannot_be_used(parquet, train, test, message):
    folder = parquet(train=train, **({"test": test} if test else {}))
    with pytest.raises(InputError, match=message) as raised:
        hub(folder).read()
    assert_short(raised)


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        (
            rows(PICTURES, LABELS).rename_column("img", "pic"),
            r"columns are .* \(train-1\.parquet\)",
        ),
        (rows(PICTURES, LABELS, ("dog", "cat")), r"train-1\.parquet holds .*dog.*all must hold"),
        (rows(PICTURES, LABELS, None), r"train-1\.parquet holds .*int64.*all must hold"),
    ],
)
def test_shards_with_other_columns_are_named(parquet, shard, message):
    folder = parquet(**{"train-0": rows(PICTURES, LABELS), "train-1": shard})
    with pytest.raises(InputError, match=message) as raised:
        hub(folder).read()
    assert len(str(raised.value)) < 500


def test_a_column_that_one_shard_has_alone_does_not_matter(parquet, capsys):
    more = rows(PICTURES, LABELS).add_column("url", ["x"] * 6)
    folder = parquet(**{"train-0": rows(PICTURES, LABELS), "train-1": more})
    (folder / "Train-2.parquet").touch()
    capsys.readouterr()
    assert len(hub(folder, test_split=None).read().labels) == 12
    assert capsys.readouterr().err == f"data.path={folder}: left out are Train-2.parquet\n"


def test_a_split_whose_name_begins_as_the_others_does(parquet):
    folder = parquet(**{"train": rows(PICTURES, LABELS), "train_judge": rows(PICTURES[:1], [0])})
    decoded = hub(folder, test_split="train_judge").read()
    assert (decoded.train, len(decoded.labels)) == (6, 7)


def test_rows_that_name_files_instead_of_holding_them(parquet, tmp_path):
    """The key of a cache lists no such file, and whoever wrote the set chose it."""
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    column = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    split = datasets.Dataset.from_dict({"img": column, "label": [0, 1]}, features=features)
    table = split.data.table  # to_parquet would take the file's content in
    import pyarrow.parquet

    folder = tmp_path / "named"
    folder.mkdir()
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(InputError, match=r"train\[0\] holds the name of a file, .*secret.png, and"):
        hub(folder).read()


def test_a_folder_by_the_name_of_a_set_is_refused(tmp_path, monkeypatch):
    """load_dataset would read it, and its key never changes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    for use in (Hub.read, Hub.signature):
        with pytest.raises(InputError, match=r"dataset=set is a folder .* data\.path=DIR"):
            use(hub(dataset="set"))


def test_labels_that_are_words(parquet):
    words = datasets.Dataset.from_dict({"img": PICTURES, "label": ["a"] * 6})
    with pytest.raises(InputError, match=r"label=label holds .*string.*: integers are needed"):
        hub(parquet(train=words)).read()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[: len(raw) // 2], id="cut"),
        pytest.param(lambda raw: raw[:100] + b"x" * 300 + raw[400:], id="middle"),
        pytest.param(lambda raw: b"nonsense" * 100, id="all"),
        pytest.param(lambda raw: b"", id="empty"),
    ],
)
def test_parquet_that_is_damaged(parquet, capfd, damage):
    folder = parquet(train=rows(PICTURES, LABELS))
    file = folder / "train.parquet"
    file.write_bytes(damage(file.read_bytes()))
    capfd.readouterr()
    with pytest.raises(InputError, match=r"train\.parquet cannot be read as parquet") as raised:
        hub(folder).read()
    assert_short(raised)
    assert capfd.readouterr().err == ""  # no library tells its own story


@pytest.mark.parametrize("source", [hub("x"), ImageFolder("x", None)])
def test_folders_that_are_none(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data.path=x is no folder"):
        source.signature()
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=r"data.path=x is an empty folder"):
        source.signature()


def test_a_set_of_the_hub(monkeypatch):
    asked = []

    def load(*given):
        asked.append(given)
        return datasets.DatasetDict(
            train=rows(PICTURES, LABELS), validation=rows(PICTURES[:2], LABELS[:2])
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = hub(dataset="some/set", subset="small", test_split="validation")
    decoded = source.read()
    assert asked == [("some/set", "small")]
    assert (decoded.train, len(decoded.labels)) == (6, 8)
    assert json.dumps(source.signature())
    assert replace(source, dataset="other/set").signature() != source.signature()
    with pytest.raises(InputError, match=r"test_split=test: some/set has .* train, validation"):
        replace(source, test_split="test").read()
    with pytest.raises(InputError, match=r"train_split=all: some/set has"):
        replace(source, train_split="all").read()


def test_a_set_of_the_hub_that_cannot_be_loaded(monkeypatch):
    def load(*_):
        raise ConnectionError("no\nnetwork\nat\nall")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        InputError, match=r"some/set .*\nConnectionError: no\n.*data.path"
    ) as raised:
        hub(dataset="some/set").read()
    assert_short(raised)
    with pytest.raises(InputError, match=r"data.name and data.path are both null"):
        hub().read()


def picture_folder(folder, mode="RGB", sizes=((8, 8),)):
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            colour = 100 * label + number
            picture = Image.new(mode, sizes[number % len(sizes)], (colour,) * len(mode))
            picture.save(folder / name / f"{number}.png")
    return folder


def test_image_folder(tmp_path):
    folder = picture_folder(tmp_path / "top")
    (folder / "ant" / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    decoded = ImageFolder(str(folder), None).read()
    assert decoded.classes == ("ant", "bee")
    assert decoded.images.shape == (8, 3, 8, 8)
    assert decoded.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert decoded.labels.tolist() == [0] * 4 + [1] * 4
    assert decoded.train == 8


def test_progress_is_shown_to_a_person_and_not_to_a_log(tmp_path, monkeypatch):
    source = ImageFolder(str(picture_folder(tmp_path / "top")), None)
    monkeypatch.setenv("TERM", "xterm")
    for watched in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda watched=watched: watched
        monkeypatch.setattr(sys, "stderr", stream)
        source.read()
        assert ("Decoding pictures" in stream.getvalue()) is watched
        assert bool(stream.getvalue()) is watched


def test_image_folder_with_train_and_test(tmp_path):
    picture_folder(tmp_path / "train")
    picture_folder(tmp_path / "test")
    decoded = ImageFolder(str(tmp_path), None).read()
    assert decoded.classes == ("ant", "bee")
    assert decoded.train == 8
    assert decoded.labels.tolist() == ([0] * 4 + [1] * 4) * 2
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / "wasp")
    with pytest.raises(InputError, match=r"test/wasp: no such class"):
        ImageFolder(str(tmp_path), None).read()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 3), ("LA", 1)])
def test_channels(tmp_path, mode, channels):
    decoded = ImageFolder(str(picture_folder(tmp_path / mode, mode)), None).read()
    assert decoded.images.shape == (8, channels, 8, 8)
    assert decoded.images[5].flatten().tolist() == [101] * channels * 64


def test_one_colour_picture_makes_all_colour(tmp_path):
    folder = picture_folder(tmp_path / "top", "L")
    Image.new("RGB", (8, 8), (9, 8, 7)).save(folder / "bee" / "3.png")
    images = ImageFolder(str(folder), None).read().images
    assert images[:, :, 0, 0].tolist()[2:5] == [[2] * 3, [3] * 3, [100] * 3]
    assert images[7, :, 4, 4].tolist() == [9, 8, 7]


def test_pictures_of_many_sizes(tmp_path):
    folder = picture_folder(tmp_path / "top", sizes=((20, 12), (9, 30)))
    with pytest.raises(InputError, match=r"1\.png has 9x30 pixels, .*0\.png has 20x12") as raised:
        ImageFolder(str(folder), None).read()
    assert_short(raised)
    decoded = ImageFolder(str(folder), 10).read()
    assert decoded.images.shape == (8, 3, 10, 10)
    assert decoded.images[6].flatten().tolist() == [102] * 300


def test_resizing_keeps_the_middle_square(tmp_path):
    folder = picture_folder(tmp_path / "top", "L", sizes=((40, 10),))
    wide = np.zeros((10, 40), dtype=np.uint8)
    wide[:, 15:25] = 200
    Image.fromarray(wide).save(folder / "ant" / "0.png")
    assert set(ImageFolder(str(folder), 10).read().images[0].flatten().tolist()) == {200}


def test_a_picture_that_lies_on_its_side_is_turned(tmp_path):
    folder = picture_folder(tmp_path / "top", sizes=((8, 16),))
    lying = Image.new("RGB", (16, 8))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(folder / "ant" / "0.png", exif=exif)
    assert ImageFolder(str(folder), None).read().images.shape == (8, 3, 16, 8)


def test_image_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"data.path is null"):
        ImageFolder(None, None).signature()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(png(0))
    with pytest.raises(InputError, match=r"flat has no subfolders"):
        ImageFolder(str(tmp_path / "flat"), None).read()
    folder = picture_folder(tmp_path / "top")
    (folder / "cow").mkdir()
    (folder / "cow" / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"cow holds no .*png"):
        ImageFolder(str(folder), None).read()
    (folder / "cow" / "a.png").write_text("text")
    with pytest.raises(InputError, match=r"cow/a\.png is no readable picture"):
        ImageFolder(str(folder), None).read()


def test_signature_of_an_image_folder(tmp_path):
    folder = picture_folder(tmp_path / "top")
    source = ImageFolder(str(folder), None)
    signature = source.signature()
    assert len(json.loads(json.dumps(signature))["files"]) == 8
    assert source.signature() == signature != ImageFolder(str(folder), 8).signature()
    (folder / "ant" / "0.png").unlink()
    assert source.signature() != signature
