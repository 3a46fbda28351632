"""Say whether a suspect derives from a marked model, and write evidence that others can check.

    python scripts/verify.py marked answers.csv
    python scripts/verify.py marked suspect.safetensors --to evidence
    python scripts/verify.py marked package.module:build --weights state.pt
    python scripts/verify.py marked http://127.0.0.1:8080 --model iris --budget 2000

SUSPECT is a file of predictions (CSV, Parquet, NPY, NPZ or JSON lines, one row for each probe), a
.safetensors file of one of softmark's networks, MODULE:FUNCTION with --weights, or the URL of a
server: one that speaks the Open Inference Protocol (v2), or with --protocol json any other that
takes a JSON POST. A locked key's passphrase is taken from SOFTMARK_PASSPHRASE, or asked for on a
terminal.

Exit status: 0 claimed, 3 not claimed, 2 for input that can't be used.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import Any


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("marked", type=Path, metavar="MARKED", help="the folder that mark.py wrote")
    parser.add_argument(
        "suspect",
        metavar="SUSPECT",
        help="a file of predictions, a .safetensors file, MODULE:FUNCTION or a URL",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="a state dict for MODULE:FUNCTION"
    )
    parser.add_argument("--logits", action="store_true", help="the predictions are logits")
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
        help="put the seed of the pattern into the evidence: recheck.py can compute p then, and "
        "whoever reads it can remove the mark",
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
    add_server_arguments(parser.add_argument_group("for a URL"))
    return parser


def add_server_arguments(server: argparse._ArgumentGroup) -> None:
    server.add_argument(
        "--protocol",
        choices=("v2", "json"),
        default="v2",
        help="v2: Open Inference Protocol; json: any other JSON POST (default: v2)",
    )
    server.add_argument("--model", metavar="NAME", help="name of the model (v2; needed)")
    server.add_argument("--model-version", metavar="V", help="version of the model (v2)")
    server.add_argument(
        "--input", metavar="NAME", help="name of the input tensor (v2; default: the only one)"
    )
    server.add_argument(
        "--output", metavar="NAME", help="name of the output tensor (v2; default: the only one)"
    )
    server.add_argument(
        "--request",
        default="instances",
        metavar="NAME",
        help="name of the list of inputs in the body (json; default: instances)",
    )
    server.add_argument(
        "--answer",
        default="predictions",
        metavar="PATH",
        help="dotted path to the answers in the reply, * for each entry of a list (json; default: "
        "predictions)",
    )
    server.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="sent with each request, and shown nowhere; may be repeated",
    )
    server.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="inputs per request (default: 32)"
    )
    server.add_argument(
        "--rate", type=float, metavar="N", help="requests per second at most (default: no limit)"
    )
    server.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="inputs that may be sent in all, retries included (default: no limit)",
    )
    server.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds per request (default: 30)"
    )
    server.add_argument(
        "--retries",
        type=int,
        default=4,
        metavar="N",
        help="how often a failed request is sent again (default: 4)",
    )
    server.add_argument(
        "--answer-log",
        "--kept",
        type=Path,
        metavar="FILE",
        help="written as answers come: a later call asks only for what is missing there",
    )


def main() -> None:
    options = arguments().parse_args()

    from softmark.console import conclude

    log = options.answer_log
    left_behind = f"{log} holds the answers so far" if log else "nothing was written"
    conclude(lambda: 0 if run(options) else 3, left_behind)


def run(options: argparse.Namespace) -> bool:
    from softmark.owner.beacon import QUICKNET, Beacon
    from softmark.owner.commitment import COMMITMENT, read_publication
    from softmark.owner.evidence import (
        check_folder,
        evidence_of,
        source_of_endpoint,
        source_of_file,
        write_evidence,
    )
    from softmark.owner.folder import load
    from softmark.owner.suspects.endpoint import Endpoint
    from softmark.owner.suspects.files import read_predictions
    from softmark.owner.verify import examine

    if options.to:
        check_folder(options.to)
    key, probes = load(options.marked, passphrase_of(options.marked))
    labels = read_predictions(options.labels) if options.labels else None
    chain = options.chain or QUICKNET
    beacon = Beacon(options.beacon, chain) if options.beacon else None
    suspect, file = suspect_of(options)
    examination = examine(
        suspect,
        key,
        probes,
        keys_tried=options.keys_tried,
        logits=options.logits,
        labels=labels,
        beacon=beacon,
        published=options.published,
    )
    source = source_of_file(file) if file else None
    if isinstance(suspect, Endpoint):
        source = source_of_endpoint(suspect)
    published = read_publication(options.commitment or options.marked / COMMITMENT)
    name = options.name or options.suspect
    evidence = evidence_of(examination, name, published, options.disclose, source)
    show(evidence)
    if options.to:
        for path in write_evidence(evidence, options.to, probes):
            print(path)
    return evidence["claimed"]


def passphrase_of(marked: Path) -> str | None:
    """Return the passphrase of the key in ``marked``, from the environment or the terminal."""
    from softmark.methods.keyfile import is_locked
    from softmark.owner.folder import KEY

    given = os.environ.get("SOFTMARK_PASSPHRASE")
    if given is None and is_locked(marked / KEY) and sys.stdin.isatty():
        return getpass.getpass(f"Passphrase of {marked / KEY}: ")
    return given


def suspect_of(options: argparse.Namespace) -> tuple[Any, Path | None]:
    """Return the suspect, and the file that it was read from, if any."""
    from softmark.errors import InputError
    from softmark.owner.model_files import load_model
    from softmark.owner.suspects.files import FORMATS, read_predictions

    name, file = options.suspect, Path(options.suspect)
    server = name.startswith(("http://", "https://"))
    if options.weights and (server or file.suffix in FORMATS):
        raise InputError(f"--weights={options.weights}: {name} is no MODULE:FUNCTION, it has none")
    if server:
        return endpoint(options), None
    if file.suffix in FORMATS:
        return read_predictions(file), file
    if ":" not in name and file.suffix != ".safetensors":
        raise InputError(
            f"{name}: a .safetensors file of softmark's, MODULE:FUNCTION, a server's address, or "
            f"predictions ({', '.join(FORMATS)}) are needed"
        )
    model = load_model(name, options.weights)
    return model, options.weights or (file if file.is_file() else None)


def endpoint(options: argparse.Namespace) -> Any:
    from softmark.errors import InputError
    from softmark.owner.suspects.endpoint import Endpoint

    headers = dict(word.partition("=")[::2] for word in options.header)
    if wrong := [name for name, value in headers.items() if not value]:
        raise InputError(f"--header={wrong[0]}: NAME=VALUE is needed")
    return Endpoint(
        options.suspect,
        protocol=options.protocol,
        model=options.model,
        version=options.model_version,
        input=options.input,
        output=options.output,
        request=options.request,
        answer=options.answer,
        headers=headers,
        batch_size=options.batch_size,
        rate=options.rate,
        budget=options.budget,
        timeout=options.timeout,
        retries=options.retries,
        answer_log=options.answer_log,
    )


def show(evidence: dict[str, Any]) -> None:
    """Print the verdict, in a few lines."""
    if evidence["p"] is None:
        print("no verdict: nothing could be tested")
    else:
        verdict = "claimed" if evidence["claimed"] else "not claimed"
        copy = f", the copy of {evidence['customer']}" if evidence["customer"] else ""
        print(
            f"{verdict}{copy}: p {evidence['p']:.3g} on {len(evidence['ranks'])} probes "
            f"({evidence['test']}, exact); a claim needs {evidence['level']:.2g} or less"
        )
        print(f"it stands on: {evidence['grounds']}")
    for remark in evidence["remarks"]:
        print(f"note: {remark}")
    if (agreement := evidence["agreement"]) and agreement["contradicted"]:
        print(
            f"the suspect gives the committed label for {agreement['agrees']} of "
            f"{agreement['labels']} probes; evidence.html (--to) shows those where it contradicts"
        )
    date = evidence["published"] or "never"
    print(f"commitment {evidence['commitment'][:16]}..., published {date}, as its file says")


if __name__ == "__main__":
    main()
