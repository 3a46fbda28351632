"""Says whether a suspect derives from a marked model, and writes evidence that others can check.

    python scripts/verify.py marked answers.csv
    python scripts/verify.py marked suspect.safetensors --to evidence
    python scripts/verify.py marked package.module:build --weights state.pt
    python scripts/verify.py marked http://127.0.0.1:8080 --model iris --budget 2000

MARKED is the folder that mark.py wrote. SUSPECT is a file of predictions (CSV, Parquet, NPY, NPZ or
JSON lines, one row for each probe), a .safetensors file of one of softmark's networks,
MODULE:FUNCTION with --weights, or a URL: of a server that speaks the Open Inference Protocol (v2),
or with --protocol json of any other that takes a JSON POST. A locked key's passphrase is taken from
SOFTMARK_PASSPHRASE, or asked for on a terminal.

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
    parser.add_argument("marked", type=Path, metavar="MARKED", help="the folder of mark.py")
    parser.add_argument("suspect", metavar="SUSPECT")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="for MODULE:FUNCTION")
    parser.add_argument("--logits", action="store_true", help="the predictions are logits")
    parser.add_argument("--to", type=Path, metavar="DIR", help="for evidence.html and .json")
    parser.add_argument(
        "--name", help="of the suspect, in the evidence; SUSPECT where none is given"
    )
    parser.add_argument(
        "--commitment", type=Path, metavar="FILE", help="as it was published; MARKED's if none"
    )
    parser.add_argument("--disclose", action="store_true", help="put the pattern's seed into it")
    parser.add_argument(
        "--keys-tried", type=int, default=1, metavar="N", help="p is multiplied by N"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="the classes that you see in the probes, of all of them: only labels of the owner's "
        "that are yours, too, count",
    )
    beacon = parser.add_argument_group("of a key with a beacon")
    beacon.add_argument("--beacon", metavar="URL", help="a drand server, to look up its round")
    beacon.add_argument("--chain", metavar="HASH", help="a chain that you trust; quicknet if none")
    beacon.add_argument("--published", metavar="TIME", help="when the commitment was public")
    server = parser.add_argument_group("of a server")
    server.add_argument("--protocol", choices=("v2", "json"), default="v2")
    server.add_argument("--model", help="its name at the server (v2)")
    server.add_argument("--model-version", metavar="V", help="its version at the server (v2)")
    server.add_argument("--input", help="name of the input tensor (v2)")
    server.add_argument("--output", help="name of the output tensor (v2)")
    server.add_argument("--request", default="instances", help="key of the inputs (json)")
    server.add_argument("--answer", default="predictions", help="path to the answers (json)")
    server.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    server.add_argument("--batch-size", type=int, default=32)
    server.add_argument("--rate", type=float, help="requests a second at most")
    server.add_argument("--budget", type=int, help="inputs that may be asked in all")
    server.add_argument("--timeout", type=float, default=30.0, help="seconds a request")
    server.add_argument("--retries", type=int, default=4)
    server.add_argument(
        "--answer-log",
        "--kept",
        type=Path,
        metavar="FILE",
        help="written as answers come: a later call asks only for what is missing there",
    )
    return parser


def main() -> None:
    options = arguments().parse_args()

    from softmark.console import conclude

    log = options.answer_log
    left_behind = f"{log} holds the answers so far" if log else "nothing was written"
    conclude(lambda: 0 if run(options) else 3, left_behind)


def run(options: argparse.Namespace) -> bool:
    from softmark.owner.beacon import QUICKNET, Beacon
    from softmark.owner.commitment import COMMITMENT, read_publication
    from softmark.owner.evidence import check_folder, of_endpoint, of_file, statement, write
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
    looked_up = {"beacon": beacon, "published": options.published}
    suspect, file = suspect_of(options)
    found = examine(suspect, key, probes, options.keys_tried, options.logits, labels, **looked_up)
    source = of_file(file) if file else None
    if isinstance(suspect, Endpoint):
        source = of_endpoint(suspect)
    published = read_publication(options.commitment or options.marked / COMMITMENT)
    name = options.name or options.suspect
    made = statement(found, name, published, options.disclose, source)
    show(made)
    if options.to:
        for path in write(made, options.to, probes):
            print(path)
    return made["claimed"]


def passphrase_of(marked: Path) -> str | None:
    """The passphrase of the key in ``marked``: from the environment, or from whoever sits there."""
    from softmark.methods.keyfile import is_locked
    from softmark.owner.folder import KEY

    given = os.environ.get("SOFTMARK_PASSPHRASE")
    if given is None and is_locked(marked / KEY) and sys.stdin.isatty():
        return getpass.getpass(f"Passphrase of {marked / KEY}: ")
    return given


def suspect_of(options: argparse.Namespace) -> tuple[Any, Path | None]:
    """What to ask, and the file that it was read from."""
    from softmark.errors import InputError
    from softmark.owner.models import load_model
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


def show(made: dict[str, Any]) -> None:
    """The verdict, in a few lines."""
    if made["p"] is None:
        print("no verdict: nothing could be tested")
    else:
        word = "claimed" if made["claimed"] else "not claimed"
        named = f", the copy of {made['customer']}" if made["customer"] else ""
        print(
            f"{word}{named}: p {made['p']:.3g} on {len(made['ranks'])} probes "
            f"({made['test']}, exact); a claim needs {made['level']:.2g} or less"
        )
        print(f"it stands on: {made['grounds']}")
    for remark in made["remarks"]:
        print(f"note: {remark}")
    if (agreement := made["agreement"]) and agreement["contradicted"]:
        seen = f"the suspect answers {agreement['agrees']} of {agreement['labels']} labels"
        print(f"{seen}; those that it contradicts are on the page of --to, to be looked at")
    date = made["published"] or "never"
    print(f"commitment {made['commitment'][:16]}..., published {date} as its file says")


if __name__ == "__main__":
    main()
