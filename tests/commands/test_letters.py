"""scripts/letters.py: a folder of pictures without any download."""

import subprocess
import sys

import numpy as np

from helpers import ROOT
from softmark.data.sources import ImageFolder


def letters(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "letters.py", *options]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_letters_are_a_folder_that_is_the_same_each_time(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        assert letters("--to", folder, "--classes", 62, "--pictures", 380).returncode == 0
    read = [ImageFolder(str(folder), None).read() for folder in (one, other)]
    assert np.array_equal(read[0].images, read[1].images)
    assert read[0].images.shape == (380, 1, 20, 20)
    assert len({name.lower() for name in read[0].classes}) == 62
    assert np.bincount(read[0].labels).tolist() == [7] * 8 + [6] * 54


def test_letters_name_what_is_wrong(tmp_path):
    for options, said in (
        (["--to", tmp_path], f"--to={tmp_path} is there already"),
        (["--to", tmp_path / "new", "--classes", 63], "--classes=63: 2 to 62"),
        (["--to", tmp_path / "new", "--pictures", 3], "--pictures=3"),
        (["--to", "/proc/new"], "--to=/proc/new: No such file"),
    ):
        result = letters(*options)
        assert result.returncode == 1
        assert said in result.stderr
