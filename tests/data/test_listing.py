"""What a folder of pictures holds: its reader and its cache's key see the same files."""

import functools
import io
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.data import SHARES, numbered, numbers_of, parts
from softmark.data import cache as caching
from softmark.data import listing
from softmark.data.roles import Samples, halves, share
from softmark.data.sources import ImageFolder
from softmark.errors import InputError


@functools.cache
def picture(value):
    """The bytes of a grey picture: one number for one value."""
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


def put(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(value))
    return path


def classes(folder, *values):
    """One picture of each value in the classes ant and bee of ``folder``."""
    for name, offset in (("ant", 0), ("bee", 100)):
        for value in values:
            put(folder / name / f"{value}.png", offset + value)
    return folder


def source(folder):
    return ImageFolder(str(folder), None)


def values(decoded):
    return decoded.images[:, 0, 0, 0].tolist()


# --- built at random --------------------------------------------------------------------------

LAYOUTS = [
    ("", None, None),
    ("train", None, None),
    ("Train", "Test", None),
    ("TRAINING", "val", None),
    ("train", "Validation", None),
    ("train", "test", "VAL"),
]
SHOWN = (".png", ".PNG", ".jfif", ".jp2", ".Tiff")  # what it is, Pillow sees by the content


@dataclass(frozen=True)
class Entry:
    """A file of a random folder: of which part and class, where in it, and how it is there."""

    part: int
    label: str
    place: str
    name: str
    suffix: str
    kind: str
    value: int

    @property
    def path(self):
        return PurePath(self.label, self.place, f"{self.name}{self.suffix}")

    @property
    def is_read(self):
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in self.path.parts)
        return not hidden and self.suffix in SHOWN


ENTRIES = st.builds(
    Entry,
    part=st.integers(0, 2),
    label=st.sampled_from(["ant", "bee"]),
    place=st.sampled_from(["", "sub", "sub/deep", ".ipynb_checkpoints", "__MACOSX", "linked"]),
    name=st.sampled_from(["0", "a", "A", "é x", "._0"]),
    suffix=st.sampled_from([*SHOWN, ".txt", ""]),
    kind=st.sampled_from(["file", "file", "link"]),
    value=st.integers(1, 9),
)


def build(folder, layout, entries):
    """Write ``entries`` into ``folder``; what they link to lies beside it."""
    beside = folder.parent / "beside"
    for number, entry in enumerate(entries):
        path = folder / layout[entry.part] / entry.path
        if entry.place == "linked" and not path.parent.exists():
            target = beside / f"folder {number}"
            target.mkdir(parents=True)
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.symlink_to(target)
        if entry.kind == "file":
            put(path, entry.value)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(put(beside / f"{number}.png", entry.value))


@settings(max_examples=15, deadline=None)
@given(layout=st.sampled_from(LAYOUTS), entries=st.lists(ENTRIES, max_size=12))
def test_fingerprint_and_reader_see_the_same_files(layout, entries):
    always = [
        Entry(part, label, "", "z", ".png", "file", 10 + number)
        for part in range(3)
        for number, label in enumerate(("ant", "ant", "bee", "bee"))
    ]
    always = [replace(entry, name=f"z{number}") for number, entry in enumerate(always)]
    unique = {(entry.part, entry.path): entry for entry in [*entries, *always]}
    entries = [entry for entry in unique.values() if layout[entry.part] is not None]
    read = [entry for entry in entries if entry.is_read and entry.part < 2]
    read.sort(key=lambda entry: (entry.part, entry.path.parts))
    with tempfile.TemporaryDirectory() as base:
        folder, cache = Path(base, "top"), Path(base, "cache")
        build(folder, layout, entries)
        of = source(folder)
        decoded = of.read()
        names = [str(PurePath(layout[entry.part], entry.path)) for entry in read]
        assert [name for name, *_ in of.signature()["files"]] == names
        assert values(decoded) == [entry.value for entry in read]
        assert decoded.labels.tolist() == [entry.label == "bee" for entry in read]
        assert decoded.train == sum(entry.part == 0 for entry in read)
        # What isn't read changes no key, what is read changes it.
        content = caching.decode(of, cache)
        put(folder / layout[0] / "ant" / ".hidden" / "new.png", 99)
        assert caching.fingerprint(of, cache) == content == decoded.fingerprint
        changed = folder / names[-1]
        changed.write_bytes(picture(77))
        assert caching.fingerprint(of, cache) is None
        assert values(of.read())[-1] == 77


@settings(max_examples=15, deadline=None)
@given(
    copies=st.lists(st.tuples(st.integers(0, 149), st.integers(0, 149)), max_size=40),
    train=st.sampled_from([100, 150]),
)
def test_no_two_parties_hold_the_same_picture(copies, train):
    decoded = numbered([75, 75], train=train)
    whole = parts(share(decoded, SHARES))
    for here, there in copies:
        decoded.images[here] = decoded.images[there]
    pictures = decoded.images.reshape(150, -1)[:, 0].tolist()  # the number in each
    roles = share(decoded, SHARES)
    held = {role: {*numbers_of(getattr(roles, role))} for role in whole}
    assert not held["judge"] & held["owner"]
    assert not (held["judge"] | held["owner"]) & held["attacker"]
    # Everything is there still, and what nobody shares stays where it was.
    assert len(set().union(*held.values())) == len(set(pictures))
    assert sum(len(getattr(roles, role)) for role in whole) + roles.num_copies == 150
    for role, places in whole.items():
        alone = {pictures[place] for place in places if pictures.count(pictures[place]) == 1}
        assert alone <= held[role]
    one, other = (set(numbers_of(half)) for half in halves(roles.training, 0))
    assert not one & other


# --- each case --------------------------------------------------------------------------------


def test_folders_behind_links_are_not_read_as_one_another(tmp_path):
    """B's verdict was A's: both keys listed nothing."""
    for name, value in (("A", 1), ("B", 2)):
        classes(tmp_path / "real" / name, value, value + 10)
        (tmp_path / name).mkdir()
        for label in ("ant", "bee"):
            (tmp_path / name / label).symlink_to(tmp_path / "real" / name / label)
    first, second = source(tmp_path / "A"), source(tmp_path / "B")
    assert caching.decode(first, tmp_path / "cache") != caching.decode(second, tmp_path / "cache")
    stored = caching._load(caching.cache_file(second, tmp_path / "cache")[0])
    assert sorted(values(stored)) == [2, 12, 102, 112]
    put(tmp_path / "real" / "B" / "ant" / "3.png", 3)
    assert sorted(values(second.read())) == [2, 3, 12, 102, 112]
    assert caching.fingerprint(second, tmp_path / "cache") is None


def test_folders_of_the_same_names_sizes_and_dates_are_told_apart(tmp_path):
    """As unpacked archives are, whose dates are rounded."""
    for name, value in (("A", 1), ("B", 2)):
        for path in classes(tmp_path / name, value).rglob("*.png"):
            os.utime(path.rename(path.with_name("0.png")), (0, 0))
    assert len(picture(1)) == len(picture(2))
    first, second = source(tmp_path / "A"), source(tmp_path / "B")
    assert caching.decode(first, tmp_path) != caching.decode(second, tmp_path)
    # A folder that is moved as a whole isn't decoded again.
    signature = first.signature()
    assert source((tmp_path / "A").rename(tmp_path / "C")).signature() == signature


@pytest.mark.parametrize("loop", ["ant/again", "ant/deep/again", "train/ant/again", "train/again"])
def test_a_link_around_in_a_circle_is_refused(tmp_path, loop):
    folder = tmp_path / "top"
    classes(folder / "train" if loop.startswith("train") else folder, 1)
    link = folder / loop
    link.parent.mkdir(exist_ok=True)
    for target in (folder, tmp_path, link.parent):
        link.symlink_to(target)
        for use in (ImageFolder.read, ImageFolder.signature):
            with pytest.raises(InputError, match=r"again.* read already or lies around it"):
                use(source(folder))
        link.unlink()


def test_a_folder_that_is_linked_twice_and_a_link_to_nothing_are_refused(tmp_path):
    folder = classes(tmp_path / "top", 1)
    (folder / "cow").symlink_to(folder / "ant")
    with pytest.raises(InputError, match=r"cow is .*ant, which is read already"):
        source(folder).signature()
    (folder / "cow").unlink()
    for name in ("cow", "ant/2.png"):
        (folder / name).symlink_to(tmp_path / "gone")
        for use in (ImageFolder.read, ImageFolder.signature):
            with pytest.raises(InputError, match=rf"{name} is a link to nothing: .*gone"):
                use(source(folder))
        (folder / name).unlink()


@pytest.mark.parametrize("names", [("val", "test"), ("Test", "VALID"), ("test",)])
def test_a_split_without_a_training_split_is_no_class(tmp_path, names):
    for name in names:
        classes(tmp_path / "top" / name, 1)
    for _ in range(2):
        with pytest.raises(InputError, match=rf"has .*{names[0]}.* and no train/"):
            source(tmp_path / "top").read()
        classes(tmp_path / "top", 2)  # beside classes as well


def test_splits_without_folders_of_classes_are_no_classes(tmp_path):
    for name in ("train", "test"):
        put(tmp_path / "top" / name / "0.png")
    with pytest.raises(InputError, match=r"has test, train, and no train/ with a folder"):
        source(tmp_path / "top").read()
    # A class may be called so, among others.
    put(tmp_path / "top" / "bus" / "0.png")
    assert source(tmp_path / "top").read().classes == ("bus", "test", "train")


def test_two_splits_of_one_name_are_refused(tmp_path):
    classes(tmp_path / "train", 1)
    classes(tmp_path / "Train", 1)
    with pytest.raises(InputError, match=r"which is the split 'train'"):
        source(tmp_path).read()


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "top"
    for name in ("train", "test", "val"):
        classes(folder / name, 1)
    for name in ("train/ant/0.heic", "train/bee/1.heic", "train/readme.txt", "LICENSE"):
        put(folder / name)
    put(folder / "train" / "cover.png")
    put(folder / "more" / "0.png")
    os.mkfifo(folder / "train" / "ant" / "pipe.png")  # which would be waited for
    assert source(folder).read().images.shape[0] == 4
    assert capsys.readouterr().err == (
        f"data.path={folder}: left out are 2 .heic, 1 .png, 1 .txt, 1 in more/, 2 in val/, "
        "1 outside of the classes' folders, 1 without a suffix\n"
    )
    # What isn't read can't go wrong.
    (folder / "val" / "ant" / "gone").symlink_to(tmp_path / "gone")
    (folder / "disk").symlink_to("/")
    monkeypatch.setattr(listing, "COUNTED_AT_MOST", 1)
    assert source(folder).read().images.shape[0] == 4
    remark = "0 in disk/, 0 in val/, 1 or more in more/"
    assert remark in capsys.readouterr().err
    shutil.rmtree(folder / "test")
    (folder / "val" / "ant" / "gone").unlink()
    source(folder).read()
    assert f"{folder / 'val'} is taken for the test split\n" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "jpe", "pbm", "dib", "apng", "WEBP"])
def test_what_pillow_writes_is_read(tmp_path, suffix):
    put(tmp_path / "ant" / "0.png")
    (tmp_path / "bee").mkdir()
    form = Image.registered_extensions()[f".{suffix.lower()}"]
    Image.new("1", (8, 8), 1).convert("1" if suffix == "pbm" else "L").save(
        tmp_path / "bee" / f"0.{suffix}", form
    )
    assert abs(values(source(tmp_path).read())[1] - 255) < 3


def test_copies_across_the_parties_are_kept_on_one_side_and_counted():
    """24 pictures that owner and judge both held."""
    decoded = numbered([60, 60], train=80)
    decoded.images[:24] = decoded.images[80:104]  # of the test split, in the training split
    roles = share(decoded, SHARES)
    held = parts(roles)
    assert sorted(held["judge"]) == list(range(80, 120))
    assert not set(held["judge"]) & {*held["owner"], *held["attacker"]}
    assert roles.num_copies == 24
    assert share(numbered([60, 60]), SHARES).num_copies == 0
    decoded.images[80:] = decoded.images[80]  # within one party they stay
    assert len(share(decoded, SHARES).judge) == 40
    decoded.images[:80] = decoded.images[80]
    with pytest.raises(InputError, match=r"owner would hold 0 samples .*80 copies of others"):
        share(decoded, SHARES)


def test_halves_have_no_picture_in_common():
    decoded = numbered([40, 40])
    decoded.images[:] = decoded.images[np.arange(80) // 2]
    import torch

    both = halves(Samples(torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels)), 0)
    first, second = (set(numbers_of(half)) for half in both)
    assert not first & second
    assert len(first | second) == 40
