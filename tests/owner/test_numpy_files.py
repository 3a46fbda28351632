"""NumPy's files as others write them: what is read, and what is refused in one line."""

import io
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from softmark.errors import InputError
from softmark.owner import numpy_files
from softmark.owner.probe_files import load_probes, save_probes
from softmark.owner.suspects.files import read_predictions

ANSWERS = np.random.default_rng(0).random((6, 4))
LIMIT = 2**25  # bytes of probes


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", ">f8", "<i8", ">i4", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed], ids=lambda f: f.__name__)
def test_arrays_are_read_as_numpy_reads_them(save, order, kind, tmp_path):
    answers = np.asarray(9 * ANSWERS, dtype=kind, order=order)
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, answers)
    found = read_predictions(path)
    np.testing.assert_array_equal(found, answers)
    assert found.dtype == answers.dtype.newbyteorder("=")
    torch.from_numpy(found)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 2, 3)])
def test_every_shape_is_read(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    assert read_predictions(tmp_path / "a.npy").shape == shape


def test_a_large_array_is_read_piece_by_piece(tmp_path):
    large = np.random.default_rng(0).random(numpy_files.CHUNK_BYTES // 4)
    np.savez(tmp_path / "a.npz", answers=large)
    np.testing.assert_array_equal(read_predictions(tmp_path / "a.npz"), large)


def test_pictures_of_one_colour_are_probes(tmp_path):
    probes = torch.full((2000, 3, 64, 64), 7, dtype=torch.uint8)
    save_probes(probes, tmp_path / "probes.npz")
    assert (tmp_path / "probes.npz").stat().st_size < probes.numel() / 900
    assert torch.equal(load_probes(tmp_path / "probes.npz", LIMIT), probes)


def test_what_holds_more_than_was_committed_to_takes_no_memory(tmp_path):
    np.savez_compressed(tmp_path / "probes.npz", inputs=np.zeros((2**26, 1), np.uint8))
    npy_header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    with (tmp_path / "declared.npy").open("wb") as file:
        npy.write_array_header_1_0(file, npy_header)
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(InputError, match="holds 67,108,864 bytes; 33,554,432 are expected"):
        load_probes(tmp_path / "probes.npz", LIMIT)
    with pytest.raises(InputError, match="declares 8,000,000,000,000,000 bytes"):
        load_probes(tmp_path / "declared.npy", LIMIT)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert time.perf_counter() - begin < 1


def test_what_else_lies_in_the_file_is_left_alone(tmp_path):
    names = np.array(["a", None], dtype=object)
    np.savez(tmp_path / "a.npz", answers=ANSWERS, names=names)
    np.testing.assert_array_equal(read_predictions(tmp_path / "a.npz"), ANSWERS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([["a"]], dtype=object), "holds object"),
        (np.array([["a"]]), "holds <U1"),
        (np.zeros((2, 2), complex), "holds complex128"),
        (np.zeros((2, 2), [("a", "f4")]), "holds"),
        (np.zeros((2, 2), "datetime64[s]"), "holds datetime64"),
        (np.zeros(3), r"inputs of shape \(3,\)"),
        (np.zeros((2, 2), np.longdouble), "no probes of softmark"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_is_no_probes_is_named(values, message, tmp_path):
    np.savez(tmp_path / "probes.npz", inputs=values)
    with pytest.raises(InputError, match=rf"/probes\.npz: .*{message}"):
        load_probes(tmp_path / "probes.npz", LIMIT)
    np.savez(tmp_path / "other.npz", outputs=values)
    with pytest.raises(InputError, match=r"/other\.npz: .*holds outputs, and no inputs"):
        load_probes(tmp_path / "other.npz", LIMIT)


def test_what_is_no_file_of_numpys_is_named(tmp_path):
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("no array")
    (tmp_path / "folder.npz").mkdir()
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("inputs", b"no array")
    for name in ("empty", "text", "folder", "none", "raw", "missing"):
        with pytest.raises(InputError, match=rf"/{name}\.npz: "):
            load_probes(tmp_path / f"{name}.npz", LIMIT)


def test_an_array_that_is_cut_short_is_named(tmp_path):
    file = io.BytesIO()
    np.save(file, ANSWERS)
    for end in (0, 5, 8, 40, 128, len(file.getvalue()) - 1):
        (tmp_path / "a.npy").write_bytes(file.getvalue()[:end])
        with pytest.raises(InputError, match=r"/a\.npy: it can't be read as npy"):
            read_predictions(tmp_path / "a.npy")
