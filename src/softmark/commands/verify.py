"""Say whether a suspect derives from a marked model, and write evidence that others can check.

    softmark verify marked answers.csv
    softmark verify marked suspect.safetensors --to evidence
    softmark verify marked package.module:build --weights state.pt
    softmark verify marked http://127.0.0.1:8080 --model iris --budget 2000

SUSPECT is a file of predictions (CSV, Excel, Parquet, NPY, NPZ or JSON, one row for each probe), a
.safetensors file of one of softmark's networks, MODULE:FUNCTION with --weights, or the URL of a
server: one that speaks the Open Inference Protocol (v2), or with --protocol json any other that
takes a JSON POST. A locked key's passphrase is taken from SOFTMARK_PASSPHRASE, or asked for on a
terminal.

Exit status: 0 claimed, 3 not claimed, 2 no verdict, or input that can't be used.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmark.commands.server_options import add_server_arguments, endpoint

if TYPE_CHECKING:
    from softmark.owner.suspects.forms import Classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes to ``parser``."""
    parser.add_argument(
        "marked", type=Path, metavar="MARKED", help="the folder that softmark mark wrote"
    )
    parser.add_argument(
        "suspect",
        metavar="SUSPECT",
        help="a file of predictions, a .safetensors file, MODULE:FUNCTION or a URL",
    )
    _add_suspect_arguments(parser)
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="write evidence.html and evidence.json there"
    )
    parser.add_argument(
        "--name", help="what the evidence calls the suspect (default: SUSPECT as you typed it)"
    )
    parser.add_argument(
        "--commitment",
        type=Path,
        metavar="FILE",
        help="the commitment as it was published (default: the one in MARKED)",
    )
    parser.add_argument(
        "--disclose",
        action="store_true",
        help="put the seed of the pattern into the evidence: softmark recheck can compute p then, "
        "and whoever reads it can remove the mark",
    )
    parser.add_argument(
        "--keys-tried",
        type=int,
        default=1,
        metavar="N",
        help="keys that were tried on this suspect; p is multiplied by N (default: 1)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="the classes that you see in the probes, one for each probe: then what the suspect "
        "mistakes for what counts, where the owner's labels are yours",
    )
    _add_beacon_arguments(parser)
    add_server_arguments(parser.add_argument_group("for a URL"))


def _add_suspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="a state dict for MODULE:FUNCTION"
    )
    parser.add_argument("--logits", action="store_true", help="the predictions are logits")
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="the names of the classes in the order of the labels, one a line, where SUSPECT names "
        "them",
    )


def _add_beacon_arguments(parser: argparse.ArgumentParser) -> None:
    beacon = parser.add_argument_group("for a key with a beacon (without them the level is 1e-12)")
    beacon.add_argument(
        "--beacon", metavar="URL", help="a drand server, to look up the key's round"
    )
    beacon.add_argument(
        "--chain", metavar="HASH", help="a chain that you trust (default: quicknet's)"
    )
    beacon.add_argument(
        "--published",
        metavar="TIME",
        help="when the commitment became public, such as 2026-12-01T10:00Z",
    )


def left_behind(options: argparse.Namespace) -> str:
    """Return what is there after an interruption."""
    log = options.answer_log
    return f"{log} holds the answers so far" if log else "nothing was written"


def run(options: argparse.Namespace) -> int:
    """Ask the suspect and judge it; return the exit status."""
    from softmark.owner.beacon import QUICKNET, Beacon
    from softmark.owner.commitment import COMMITMENT, read_publication
    from softmark.owner.evidence import (
        check_folder,
        evidence_of,
        write_evidence,
    )
    from softmark.owner.folder import load
    from softmark.owner.samples import as_inputs
    from softmark.owner.suspects.files import max_answer_bytes, read_predictions
    from softmark.owner.suspects.forms import Classes, read_class_names
    from softmark.owner.verify import examine

    key, probes = load(options.marked, passphrase_of(options.marked))
    if options.to:
        check_folder(options.to, key)
    count = key.statement.probes.count + key.statement.triggers
    max_bytes = max_answer_bytes(count, key.classes)
    labels = read_predictions(options.labels, max_bytes, None, count) if options.labels else None
    chain = options.chain or QUICKNET
    beacon = Beacon(options.beacon, chain) if options.beacon else None
    class_names = read_class_names(options.class_names) if options.class_names else None
    suspect, file = suspect_of(options, max_bytes, Classes(key.classes, class_names), count)
    examination = examine(
        suspect,
        key,
        probes,
        keys_tried=options.keys_tried,
        logits=options.logits,
        labels=labels,
        beacon=beacon,
        published=options.published,
        class_names=class_names,
    )
    source = source_of(suspect, file)
    published = read_publication(options.commitment or options.marked / COMMITMENT)
    # What follows ? in a server's address may be a password.
    name = options.name or re.sub(r"(?<=^http)(s?://[^?]*)\?.*", r"\1", options.suspect)
    evidence = evidence_of(
        examination, name, published, options.disclose, source, ranks=bool(options.to)
    )
    show(evidence)
    if options.to:
        for path in write_evidence(evidence, options.to, as_inputs(probes)):
            print(path)
    return {"claimed": 0, "not claimed": 3, "no verdict": 2}[examination.verdict.outcome]


def source_of(suspect: Any, file: Path | None) -> dict[str, Any] | None:
    """Return where the answers come from: a file, a server, or neither."""
    from softmark.owner.evidence import source_of_endpoint, source_of_file
    from softmark.owner.suspects.endpoint import Endpoint

    if isinstance(suspect, Endpoint):
        return source_of_endpoint(suspect)
    return source_of_file(file) if file else None


def passphrase_of(marked: Path) -> str | None:
    """Return the passphrase of the key in ``marked``, from the environment or the terminal."""
    from softmark.methods.keyfile import is_locked
    from softmark.owner.folder import KEY

    given = os.environ.get("SOFTMARK_PASSPHRASE")
    if given is None and is_locked(marked / KEY) and sys.stdin.isatty():
        return getpass.getpass(f"Passphrase of {marked / KEY}: ")
    return given


def suspect_of(
    options: argparse.Namespace, max_bytes: int, classes: Classes, num_probes: int
) -> tuple[Any, Path | None]:
    """Return the suspect, and the file that it was read from, if any."""
    from softmark.errors import InputError
    from softmark.owner.model_files import load_model
    from softmark.owner.suspects.files import FORMATS, read_predictions

    name, file = options.suspect, Path(options.suspect)
    server = name.startswith(("http://", "https://", "grpc://", "grpcs://"))
    if options.weights and (server or file.suffix in FORMATS):
        raise InputError(f"--weights={options.weights}: {name} is no MODULE:FUNCTION, it has none")
    if server:
        return endpoint(options), None
    if file.suffix in FORMATS:
        return read_predictions(file, max_bytes, classes, num_probes), file
    if ":" not in name and file.suffix != ".safetensors":
        raise InputError(
            f"{name}: a .safetensors file of softmark's, MODULE:FUNCTION, a server's address, or "
            f"predictions ({', '.join(FORMATS)}) are needed"
        )
    model = load_model(name, options.weights)
    return model, options.weights or (file if file.is_file() else None)


def num_inputs_of(evidence: dict[str, Any]) -> int:
    """Return how many probes and triggers the suspect was asked."""
    statement = evidence["statement"]
    return statement["probes"]["count"] + statement["triggers"]


def show(evidence: dict[str, Any]) -> None:
    """Print the verdict, in a few lines."""
    if evidence["p"] is None:
        reason = next(iter(evidence["remarks"]), "")
        print(reason if reason.startswith("no verdict") else "no verdict: nothing could be tested")
    else:
        verdict = "claimed" if evidence["claimed"] else "not claimed"
        copy = f", the copy of {evidence['customer']}" if evidence["customer"] else ""
        print(
            f"{verdict}{copy}: p {evidence['p']:.3g} on {num_inputs_of(evidence)} probes "
            f"({evidence['test']}, exact); a claim needs {evidence['level']:.2g} or less"
        )
        print(f"it stands on: {evidence['grounds']}")
    for remark in evidence["remarks"]:
        if not remark.startswith("no verdict"):
            print(f"note: {remark}")
    if agreement := evidence["agreement"]:
        shown = "; evidence.html (--to) shows those where it contradicts"
        print(
            f"the suspect gives the committed label for {agreement['agrees']} of "
            f"{agreement['labels']} probes{shown if agreement['contradicted'] else ''}"
        )
    date = evidence["published"] or "never"
    print(f"commitment {evidence['commitment'][:16]}..., published {date}, as its file says")
