"""What people and shells write on a command line, and what Hydra is given for it."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from softmark.errors import InputError
from softmark.sweep.override_check import parse_override
from softmark.sweep.spelling import folders_of, spelled


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home of ö"))
    monkeypatch.chdir(tmp_path)


def value_of(word: str):
    (word,) = spelled([word])
    override = parse_override(word)
    if override.is_sweep_override():
        return [str(getattr(one, "text", one)) for one in override.value().list]
    return override.value()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("output_dir=~/o", "HOME/o"),
        ('output_dir="~/o"', "HOME/o"),
        ("output_dir='~/o'", "HOME/o"),
        ("output_dir=~", "HOME"),
        ("data.path=~/x (1)", "HOME/x (1)"),
        ("++data.path=~/x", "HOME/x"),
        ("data.path=~/a,~/b", ["HOME/a", "HOME/b"]),
        ("hydra.searchpath=[~/x]", ["HOME/x"]),
        ("data.path=größe", "größe"),
        ("data.path=/a=b/c", "/a=b/c"),
        ("data.path=/it's", "/it's"),
        ("data.path=C:\\x", "C:\\x"),
        ("output_dir=größe/${method.name}", "größe/${method.name}"),
        ("output_dir=out~1", "out~1"),
        ("method.message=größe,klein", ["größe", "klein"]),
        ("method.message=licence 7!", "licence 7!"),
        ("method.message=1;2", "1;2"),
        ("method.detector.hidden=[ä,b]", ["ä", "b"]),
        ("method=usp\r", "usp"),
        # What Hydra reads stays as it is.
        ("method.message='a,b'", "a,b"),
        ("data.roles.split_seed=${seed}", "${seed}"),
        ("seed=0,1", ["0", "1"]),
        ("method.message=~x", "~x"),
    ],
)
def test_what_was_meant_is_read(word, value, tmp_path):
    home = str(tmp_path / "home of ö")
    if isinstance(value, list):
        assert value_of(word) == [one.replace("HOME", home) for one in value]
    else:
        assert value_of(word) == value.replace("HOME", home)


def test_a_path_with_a_comma_is_one_where_it_is_there(tmp_path):
    assert value_of("data.path=ä,b") == ["ä", "b"]
    (tmp_path / "ä,b").mkdir()
    assert value_of("data.path=ä,b") == "ä,b"


@pytest.mark.parametrize(
    "word", ["seed=0,", "data.path=/a(1),/b(2)", "method.message='ä", "seed=[1", "seed"]
)
def test_what_may_mean_anything_is_left_to_the_parser(word):
    assert spelled([word]) == [word]


def test_nobodys_home_is_refused():
    with pytest.raises(InputError, match=r"~nobody-here/x: there is no such user"):
        spelled(["data.path=~nobody-here/x"])


def test_a_script_with_windows_line_ends_runs_whole_lines_alone():
    # As bash gives them: of a last line, and of a line that a backslash was to continue.
    assert spelled(["method=csp", "attack=prune\r"]) == ["method=csp", "attack=prune"]
    with pytest.raises(InputError, match="Windows' line ends"):
        spelled(["method=csp", "\r"])


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            "seed=1 -m method=usp --config-dir D data=hub",
            "-m --config-dir D seed=1 method=usp data=hub",
        ),
        ("~table --cfg job seed=1 --resolve", "--cfg job --resolve ~table seed=1"),
        ("--help attack=prune", "--help attack=prune"),
        ("", ""),
    ],
)
def test_options_may_stand_among_overrides(words, wanted):
    assert spelled(shlex.split(words)) == shlex.split(wanted)


TEXT = st.text("ab0 ~,=()[]{}:'\"\\$#!;é\n\t%/", max_size=12)


@settings(max_examples=150)
@given(key=st.sampled_from(["data.path", "method.message", "output_dir", "seed"]), text=TEXT)
@example("data.path", "~/'")
@example("output_dir", "~,")
def test_what_hydra_reads_is_never_read_otherwise(key, text):
    """But for the home folder: a word that Hydra can read means the same afterwards."""
    word = f"{key}={text}"
    try:
        wanted = OverridesParser.create().parse_override(word)
    except Exception:
        return
    if "~" not in text:
        assert spelled([word]) == [word]
    else:
        (better,) = spelled([word])
        assert OverridesParser.create().parse_override(better).value_type == wanted.value_type


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--config-dir", "nowhere"], "--config-dir nowhere: there is no such folder"),
        (["hydra.searchpath=[nowhere]"], "hydra.searchpath=nowhere: there is no such folder"),
        (["hydra.searchpath=here"], "a list of folders is needed"),
        (["--config-path", "."], "--config-path: .*--config-dir"),
        (["-cn", "other"], "--config-name: .*--config-dir"),
    ],
)
def test_folders_of_configs_are_there(words, reason):
    with pytest.raises(InputError, match=reason):
        folders_of(words)


def test_folders_of_configs_are_searched_in_hydras_order(tmp_path):
    Path("a").mkdir()
    Path("b").mkdir()
    words = ["--config-dir", "a", f"hydra.searchpath=[{tmp_path}/b,pkg://mine]"]
    assert folders_of(words) == [f"{tmp_path}/a", f"{tmp_path}/b", "pkg://mine"]
