"""A file is data: whatever stands in it, nothing is imported, resolved or called.

Names of everything that could be called, nodes of Hydra and interpolations are put everywhere in a
model's file and in a record, and the bytes of every kind of file are changed at random.
"""

import contextlib
import functools
import json
import pkgutil
import subprocess
import sys
import textwrap
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from torch import nn

import softmark
import softmark.owner.model_files
from helpers.cells import composed, described
from helpers.training import samples
from softmark.errors import InputError
from softmark.experiment.plan import decode_data, plan
from softmark.models.files import load_network, read_tensors, save_network
from softmark.models.networks import KINDS, ConvNet, build
from softmark.owner.probe_files import load_probes, save_probes
from softmark.owner.suspects.answer_log import AnswerLog
from softmark.owner.suspects.files import read_predictions
from softmark.report import records

MOST = 20_000  # names, of which hypothesis draws
EXAMPLES = settings(
    max_examples=400,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NET = build(functools.partial(ConvNet, width=2), samples(), 3)
called: list = []


class Trap(nn.Module):
    """Tells that it was made, however it was named."""

    def __init__(self, *args, **kwargs):
        called.append((args, kwargs))
        super().__init__()


def trap(*args, **kwargs):
    called.append((args, kwargs))


# --- what could be called ---------------------------------------------------------------------


def submodules(package) -> list[str]:
    """Names of the modules of ``package``, imported or not."""
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [module.name for module in found]


def callables(module: types.ModuleType, name: str) -> list[str]:
    return [f"{name}.{each}" for each, value in list(vars(module).items()) if callable(value)]


@functools.cache
def names() -> list[str]:
    """Dotted names of modules, of what can be called in them, and of both through softmark."""
    modules = {name: each for name, each in list(sys.modules.items()) if hasattr(each, "__dict__")}
    packages = [softmark, torch, np]
    packages += [each for name, each in modules.items() if name.startswith("softmark.")]
    found = [name for each in packages if hasattr(each, "__path__") for name in submodules(each)]
    found += modules
    for name, module in modules.items():
        found += callables(module, name)
        if name.startswith("softmark."):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, types.ModuleType):
                    found += callables(value, f"{name}.{attribute}")[:200]
                elif isinstance(value, type):
                    found += [f"{name}.{attribute}.{each}" for each in vars(value)]
    unlike = sorted({name for name in found if name not in KINDS})
    return [name for name in unlike if isinstance(name, str)]


FIRST = [
    f"{__name__}.trap",
    f"{__name__}.Trap",
    "bait.Net",
    "bait",
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "pathlib.Path.touch",
    "torch.load",
    "torch.hub.load",
    "softmark.owner.model_files.torch.load",
    "softmark.models.files.load_network",
    "softmark.models.networks.Network",
    "distutils.core.run_setup",
    "antigravity",
    "softmark./tmp/a.b",
    "softmark..models.networks.ConvNet",
]
NAME = st.one_of(st.sampled_from(FIRST), st.deferred(lambda: st.sampled_from(names())))
TEXT = st.one_of(
    NAME,
    st.sampled_from(["${oc.env:HOME}", "${oc.create:{_target_: bait.Net}}", "${.}", "${", "???"]),
)


@st.composite
def nodes(draw):
    """What Hydra would make something of: a name, a node, an interpolation, in a list or not."""
    text = draw(TEXT)
    node = {draw(st.sampled_from(["_target_", "kind", "networks", "path"])): text}
    more = {"_args_": [text], "_partial_": True, "_recursive_": True, "_convert_": "all", "a": text}
    for key in draw(st.lists(st.sampled_from(sorted(more)), max_size=3)):
        node[key] = more[key]
    return draw(st.sampled_from([text, node, node, [text], [node], {text: node}, [[node]]]))


def places(value, path=()) -> list[tuple]:
    """The way to each value inside of ``value``, and to itself."""
    found = [path]
    inside = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else inside:
        found += places(inner, (*path, key))
    return found


def put(value, path, new, instead: bool):
    """``value`` with ``new`` at ``path``: instead of what is there, or beside it."""
    if path:
        head, *rest = path
        inner = put(value[head], tuple(rest), new, instead)
        if isinstance(value, dict):
            return {**value, head: inner}
        return [*value[:head], inner, *value[head + 1 :]]
    if instead or not isinstance(value, dict | list):
        return new
    if isinstance(value, list):
        return [*value, new]
    return {**value, **new} if isinstance(new, dict) else {**value, "_args_": [new]}


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """``with nothing():`` fails if anything is imported, called or written by what follows."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    text = "from pathlib import Path\nPath('touched').touch()\nclass Net: pass\n"
    (tmp_path / "there" / "bait.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    called.clear()

    @contextlib.contextmanager
    def watch():
        before = set(sys.modules)
        yield
        assert called == []
        assert set(sys.modules) == before
        assert list(Path.cwd().iterdir()) == []

    return watch


# --- a model's file ---------------------------------------------------------------------------

CONV = NET.node
ENSEMBLE = {"kind": "ensemble", "networks": [CONV, {"kind": "ensemble", "networks": [CONV]}]}
OLD_NAMES = {kind: name for name, kind in KINDS.items()}


def older(node):
    if isinstance(node, list):
        return [older(each) for each in node]
    if not isinstance(node, dict) or "kind" not in node:
        return node
    inner = {key: older(value) for key, value in node.items() if key != "kind"}
    return {"_target_": OLD_NAMES[node["kind"]], **inner}


MODELS = [("softmark network 2", CONV), ("softmark network 2", ENSEMBLE)]
MODELS += [("softmark network 1", older(CONV)), ("softmark network 1", older(ENSEMBLE))]


def refuse(path: Path, format: str, node, allowed=()) -> None:
    about = {"format": format, "node": json.dumps(node)}
    safetensors.torch.save_file(NET.state_dict(), path, about)
    with pytest.raises(InputError, match=r"/model: [^\n]*$"):
        load_network(path, allowed)


def test_there_are_names_enough():
    assert len(names()) > 5000
    assert sum("softmark.owner.model_files.torch." in name for name in names()) > 50


@EXAMPLES
@given(st.sampled_from(MODELS), nodes(), st.booleans(), st.data())
def test_a_model_file_calls_nothing(nothing, tmp_path, model, new, instead, data):
    format, node = model
    path = data.draw(st.sampled_from(places(node)))
    changed = put(node, path, new, instead)
    # Names that a config of the user's own holds, but not these.
    allowed = data.draw(st.sampled_from([(), ("softmark.experiment.cell.Plan", "gone.Net")]))
    with nothing():
        refuse(tmp_path / "model", format, changed, allowed)


def test_every_name_is_refused_as_a_kind(nothing, tmp_path):
    """Each of several thousand, without hypothesis: it is quick where no file is written."""
    from softmark.models.kinds import check

    few = [*FIRST, *names()[:: len(names()) // MOST + 1]]
    with nothing():
        for name in few:
            with pytest.raises(InputError):
                check({**CONV, "kind": name})
        for name in FIRST[:2]:
            # Even one that is allowed is only called if it is a network, with what stands there.
            refuse(tmp_path / "model", "softmark network 2", {"kind": name, "_args_": []}, {name})


# --- a record ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A record of a cell that this code would make, and the folder that it lies in."""
    output = tmp_path_factory.mktemp("outputs")
    config = json.loads(json.dumps(composed(("method=csp", "attack=prune"))))
    config |= {"output_dir": str(output)}
    decode_data(config)
    made = json.loads(json.dumps(described(plan(config), [f"output_dir={output}"])))
    assert records.RecordCheck(output).is_current(made)
    return made, output


def texts(value) -> set[str]:
    """Every text in ``value``, the keys of mappings left out."""
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        return set().union(*map(texts, inside))
    return {value} if isinstance(value, str) else set()


def last(names) -> set[str]:
    return {name.rpartition(".")[2] for name in names if "." in name}


def nearby(path) -> bool:
    """Whether ``path`` lies in the node of the data's source."""
    return path[:3] == ("config", "data", "source")


@EXAMPLES
@given(nodes(), st.booleans(), st.booleans(), st.data())
def test_a_record_calls_nothing(nothing, record, new, instead, source, data):
    made, output = record
    # Another name of a class that the record has is the same code, and so the same address.
    assume(not last(texts(new)) & last(texts(made["config"])))
    there = [path for path in places(made) if nearby(path) == source and path]
    path = data.draw(st.sampled_from(there))
    changed = put(made, path, new, instead)
    with nothing():
        current = records.RecordCheck(output).is_current(changed)
    if current:
        # Then nothing reads that place: anything else there is as good.
        assert not source
        assert "${" not in json.dumps(changed["config"])
        assert records.RecordCheck(output).is_current(put(made, path, {"a": 1}, instead))


@EXAMPLES
@given(TEXT, st.data())
def test_a_source_of_another_name_is_none(nothing, record, name, data):
    made, output = record
    more = data.draw(st.sampled_from([{}, {"_args_": [name]}, {"_partial_": True}, {"path": name}]))
    source = {"_target_": name, **more}
    changed = put(made, ("config", "data", "source"), source, True)
    with nothing():
        digits = name == "softmark.data.sources.Digits" and not more
        assert records.RecordCheck(output).is_current(changed) == digits


def test_a_record_is_no_reason_to_draw_or_download(nothing, record, monkeypatch):
    from softmark.data import hub as hubs
    from softmark.data import sources, synthetic

    made, output = record
    for kind in (hubs.Hub, sources.ImageFolder, synthetic.Synthetic):
        monkeypatch.setattr(kind, "read", trap)
    hub = dict.fromkeys(("subset", "path", "test_split", "size")) | {"dataset": "some/set"}
    hub |= {"image": "image", "label": "label", "train_split": "train"}
    folder = {"path": str(output), "size": 10**9}
    drawn = {"classes": 10, "pictures": 10**15, "size": 10**6, "noise": 1.0, "seed": 0}
    for target, rest in (
        ("softmark.data.hub.Hub", hub),
        ("softmark.data.sources.ImageFolder", folder),
        ("softmark.data.synthetic.Synthetic", drawn),
    ):
        changed = put(made, ("config", "data", "source"), {"_target_": target, **rest}, True)
        with nothing():
            assert not records.RecordCheck(output).is_current(changed)


@pytest.mark.parametrize("count", [3000, 10**12, 1e30, "many", [1], None, True, -1])
def test_a_record_is_no_reason_for_a_million_stages(record, count):
    made, output = record
    for pool in ("calibration", "evaluation"):
        changed = put(made, ("config", "innocents", pool), count, True)
        assert not records.RecordCheck(output).is_current(changed)
    steps = {f"{n}": made["config"]["attack"] for n in range(100)}
    attack = {"name": "a", "steps": steps, "colluders": ["a"]}
    attack["steps"]["0"] = {**steps["0"], "colluders": [f"{n}" for n in range(100)]}
    changed = put(made, ("config", "attack"), attack, True)
    assert not records.RecordCheck(output).is_current(changed)


def test_a_nested_record_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"status": "done", "config": ' + "[" * 100_000)
    assert records.read(tmp_path) == ([], ["a.json: " + records.read(tmp_path)[1][0][8:]])
    assert "not a whole record" in records.read(tmp_path)[1][0]


@EXAMPLES
@given(nodes(), st.booleans(), st.data())
def test_a_record_of_anything_is_read_or_named(nothing, record, tmp_path, new, instead, data):
    made, _ = record
    path = data.draw(st.sampled_from([each for each in places(made) if len(each) < 3]))
    changed = put(made, path, new, instead)
    (tmp_path / f"{made['address']}.json").write_text(json.dumps(changed))
    with nothing():
        read, broken = records.read(tmp_path)
    assert len(read) + len(broken) == 1


# --- bytes ------------------------------------------------------------------------------------

ANSWERS = np.random.default_rng(0).dirichlet(np.ones(5), 12).astype(np.float32)
ORDER = list(range(11, -1, -1))
IDENTITY = {"url": "http://localhost", "inputs": "abc"}


def write_answer_log(path: Path) -> None:
    AnswerLog(path, IDENTITY).read(12)
    for start in (0, 6):
        AnswerLog(path, IDENTITY).append(start, torch.tensor(ANSWERS[start : start + 6]))


def table(**options):
    names = [f"{place:05d}.png" for place in ORDER]
    columns = {f"c{number}": ANSWERS[ORDER, number] for number in range(5)}
    return lambda path: parquet.write_table(pa.table({"probe": names, **columns}), path, **options)


def lines(text: str):
    return lambda path: path.write_text(text)


def read_probes(path):
    return load_probes(path, 2**30)


ROWS = [[place, *ANSWERS[place].tolist()] for place in ORDER]
CSV = "probe,a,b,c,d,e\n" + "\n".join(",".join(map(str, row)) for row in ROWS)
JSON = "\n".join(json.dumps({"probe": row[0], "answers": row[1:]}) for row in ROWS)
PICTURES = torch.arange(4 * 64).to(torch.uint8).view(4, 1, 8, 8)
FILES = {
    "model": (lambda path: save_network(NET, path), load_network),
    "tensors": (lambda path: save_network(NET, path), read_tensors),
    "probes.npz": (lambda path: save_probes(PICTURES, path), read_probes),
    "a.npz": (lambda path: np.savez(path, answers=ANSWERS), read_predictions),
    "a.npy": (lambda path: np.save(path, ANSWERS), read_predictions),
    "a.parquet": (table(), read_predictions),
    "b.parquet": (table(compression="zstd", data_page_version="2.0"), read_predictions),
    "a.csv": (lines(CSV), read_predictions),
    "a.jsonl": (lines(JSON), read_predictions),
    "answer_log": (write_answer_log, lambda path: AnswerLog(path, IDENTITY).read(12)),
}
# Numbers of several formats that say a lot, the marks of others, and what ends a line.
PIECES = [b"\0", b"\xff", b"\x80", b"\xff" * 8, b"\xfe\xff\xff\x7f", b"9" * 12, b"1e999", b"NaN"]
PIECES += [b"[", b"{", b'"', b",", b"\n", b"-", b"null", b"[" * 5000, b"\x1b[31m", b"PK\x03\x04"]
PLACE = st.one_of(st.floats(0, 1), st.integers(0, 80), st.integers(-80, -1))
CHANGE = st.one_of(
    st.tuples(st.just("set"), PLACE, st.integers(0, 255)),
    st.tuples(st.just("cut"), PLACE, st.none()),
    st.tuples(st.just("drop"), PLACE, st.integers(1, 8)),
    st.tuples(st.just("insert"), PLACE, st.sampled_from(PIECES)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 60)),
)


def altered(content: bytes, changes) -> bytes:
    for what, where, value in changes:
        size = len(content)
        place = int(where * (size - 1)) if isinstance(where, float) else where % max(1, size)
        before, after = content[:place], content[place:]
        match what:
            case "set":
                content = before + bytes([value]) + after[1:]
            case "cut":
                content = before
            case "drop":
                content = before + after[value:]
            case "insert":
                content = before + value + after
            case "repeat":
                content = before + after[:value] + after
    return content


@pytest.mark.parametrize("name", FILES)
@settings(EXAMPLES, max_examples=300)
@given(changes=st.lists(CHANGE, min_size=1, max_size=4))
@example(changes=[("cut", 0, None)])
def test_a_damaged_file_is_read_or_refused(name, changes, tmp_path):
    write, read = FILES[name]
    path = tmp_path / name
    whole = tmp_path / f"whole-{name}"
    if not whole.exists():
        write(whole)
        path.write_bytes(whole.read_bytes())
        read(path)
    path.write_bytes(altered(whole.read_bytes(), changes))
    told = f"{path}: "
    with warnings.catch_warnings(record=True) as warned:
        try:
            read(path)
        except InputError as error:
            told = str(error)
    assert str(path) in told
    assert "\n" not in told
    assert not warned


# --- bombs ------------------------------------------------------------------------------------

# Reads each file that follows, and tells the message and how many bytes of memory it took.
READER = """
    import resource, sys
    from pathlib import Path
    import torch
    from softmark.errors import InputError
    from softmark.models.files import load_network
    from softmark.owner.suspects.answer_log import AnswerLog
    from softmark.owner.probe_files import load_probes
    from softmark.owner.suspects.files import FORMATS, read_predictions

    def used():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def read(path):
        if path.suffix == ".answer_log":
            return AnswerLog(path, {"a": 1}).read(10)
        if path.stem in ("probes", "inputs"):
            return load_probes(path, 2**30)
        return (read_predictions if path.suffix in FORMATS else load_network)(path)

    # What each library takes for itself, once.
    folder = Path(sys.argv[1])
    for path in sorted((folder / "good").iterdir()):
        read(path)
    for path in sorted((folder / "bombs").iterdir()):
        before = used()
        try:
            read(path)
            said = "nothing was refused"
        except InputError as error:
            said = str(error)
        print(path.name, path.stat().st_size, used() - before, said, sep="\\t")
"""


def varint(value: int) -> bytes:
    """``value`` as Parquet has it."""
    value, found = 2 * value, b""
    while value > 127:
        value, found = value >> 7, found + bytes([value & 127 | 128])
    return found + bytes([value])


def claiming(content: bytes, true: int, claimed: int) -> bytes:
    """A Parquet file that says ``claimed`` wherever its footer says ``true``."""
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[begin:-8]
    assert varint(true) in footer
    footer = footer.replace(varint(true), varint(claimed))
    return content[:begin] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def npy_header(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def write_tables(folder: Path) -> None:
    rows = 1_000_000
    flat = pa.table({"a": np.zeros(rows), "b": np.zeros(rows)})
    parquet.write_table(flat, folder / "claims.parquet")
    path = folder / "claims.parquet"
    path.write_bytes(claiming(path.read_bytes(), rows, 10**9))
    # A page that says that it unpacks to 400 MB; nothing in the footer says so.
    path = folder / "page.parquet"
    pages = {"use_dictionary": False, "compression": "zstd"}
    parquet.write_table(pa.table({"a": np.zeros(15_000)}), path, **pages)
    packed = parquet.read_metadata(path).row_group(0).column(0).total_compressed_size
    content = path.read_bytes()
    assert content[4:7] + content[10:11] == b"\x15\x00\x15\x15"
    content = content[:7] + varint(400_000_000) + content[10:]
    path.write_bytes(claiming(content, packed, packed + 2))
    # As many as it says, each a bit.
    writer = parquet.ParquetWriter(folder / "true.parquet", flat.schema)
    for _ in range(8):
        writer.write_table(flat)
    writer.close()
    # A long name that every row shares, which pyarrow would write out in each.
    name = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60_000, np.int32)), ["0" * 100_000])
    shared = pa.table({"probe": name, "a": np.zeros(60_000)})
    parquet.write_table(shared, folder / "names.parquet")


def write_bombs(folder: Path) -> None:
    wide = {"image_shape": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "classes": 10**6}
    wide |= {"kind": "wideresnet", "width": 10**5, "depth": 250, "factor": 100}
    about = {"format": "softmark network 2"}
    node = json.dumps({"kind": "ensemble", "networks": [wide] * 64})
    safetensors.torch.save_file(NET.state_dict(), folder / "wide.model", {**about, "node": node})
    head = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    text = json.dumps(head).encode()
    (folder / "header.model").write_bytes(len(text).to_bytes(8, "little") + text)
    (folder / "header.npy").write_bytes(npy_header(f"({10**12},)") + b"0" * 80)
    (folder / "text.npy").write_bytes(npy_header("(2,)", "<U9999999") + b"0" * 80)
    for name in ("answers", "inputs"):
        with zipfile.ZipFile(folder / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", npy_header(f"({10**12}, 5)", "<f4") + b"0" * 240)
    (folder / "columns.csv").write_text("0," * 500_000)
    (folder / "nested.jsonl").write_text("[" * 500_000)
    (folder / "nested.answer_log").write_text(
        '{"a": 1}\n{"from": 0, "answers": ' + "[" * 500_000 + "\n"
    )
    write_tables(folder)


def test_bombs_are_refused_and_take_no_memory(tmp_path):
    for name in ("good", "bombs"):
        (tmp_path / name).mkdir()
    for name, (write, _) in FILES.items():
        if name not in ("answer_log", "tensors"):
            write(tmp_path / "good" / name)
    write_bombs(tmp_path / "bombs")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READER), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    told = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in told] == sorted(
        path.name for path in (tmp_path / "bombs").iterdir()
    )
    for name, size, taken, said in told:
        assert name in said, said
        # Far less than a file may unpack to: a few copies of it, and what a library takes.
        assert int(taken) < 50 * int(size) + (16 << 20), (name, size, taken)


def test_a_zip_bomb_is_refused(tmp_path):
    def refused(message: str, read=read_probes):
        with pytest.raises(InputError, match=rf"/probes\.npz: .*{message}"):
            read(path)

    path, flat = tmp_path / "probes.npz", np.zeros((2, 8), np.uint8)
    whole = npy_header("(2, 8)", "|u1") + flat.tobytes()
    for packed in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", packed) as archive:
            archive.writestr("inputs.npy", whole)
        for read in (read_probes, read_predictions):
            refused("packed in another way", read)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", whole)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("inputs.npy", whole)
    refused("two of its members have one name")
    np.savez_compressed(path, inputs=flat)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    path.write_bytes(content)
    refused("encrypted")
    content[place + 8] ^= 1
    content[place + 24 : place + 28] = b"\xf0\xff\xff\xff"  # what it unpacks to, it says
    path.write_bytes(content)
    refused("would unpack to 4,294,967,280")
