"""Mark a model of your own, and write the key, the commitment to publish, and the probes.

    softmark mark model.safetensors --message 'licence 7' --to marked \\
        data=cifar10 data.path=DIR
    softmark mark package.module:build --weights state.pt --message anna --message bert \\
        --to marked data=imagefolder data.path=DIR method=usp recipe.epochs=5

MODEL is a file that softmark has written, or MODULE:FUNCTION: a function without arguments that
returns a torch.nn.Module; --weights is a state dict, as safetensors or from torch.save. The model
must map float pictures in [0, 1] to logits. All training pictures of data= are trained on; the
probes come from its test pictures. The other overrides are keys of conf/owner.yaml: recipe.epochs,
recipe.lr, method, method.marking.beta, verifier.probes, ...

DIR gets model.safetensors (model-1, model-2, ... for several customers), key.safetensors (keep it
secret), softmark.commitment.json (publish it now), certificate.html (what was published, and when)
and probes.npz (with method=csp_margin or usp_margin it ends with the triggers: keep it secret until
you ask a suspect). The passphrase that locks the key is taken from SOFTMARK_PASSPHRASE, or asked
for with --lock.

Exit status: 0 where the mark can be claimed, 3 where it is too weak, 2 for input that can't be
used.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from softmark import Beacon, Marked, Verdict
    from softmark.data.roles import Samples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes to ``parser``."""
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file or MODULE:FUNCTION")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="keys of conf/owner.yaml, such as data=cifar10 recipe.epochs=5",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="a state dict for MODULE:FUNCTION"
    )
    parser.add_argument(
        "--message",
        action="append",
        required=True,
        metavar="TEXT",
        help="the customer or the licence; repeat it to mark a copy for each customer",
    )
    parser.add_argument(
        "--owner", metavar="TEXT", help="who you are: published with the commitment"
    )
    parser.add_argument("--name", metavar="TEXT", help="what you call the model: published, too")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--lock", action="store_true", help="ask for a passphrase for the key")
    beacon = parser.add_argument_group("a public beacon")
    beacon.add_argument(
        "--beacon",
        metavar="URL",
        help="a drand server: a later round goes into the pattern, so that a claim needs "
        "p <= 1e-6 instead of 1e-12",
    )
    beacon.add_argument(
        "--chain", metavar="HASH", help="the hash of its chain (default: quicknet's)"
    )
    beacon.add_argument(
        "--delay",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds until that round: publish the commitment within them (default: 600)",
    )


def left_behind(options: argparse.Namespace) -> str:
    """Return what is there after an interruption."""
    return "nothing was written"


def run(options: argparse.Namespace) -> int:
    """Mark the model; return the exit status."""
    from softmark.owner.folder import check_new, reserved

    # Before anything is trained for nothing.
    check_new(options.to)
    with reserved(options.to):
        return mark_and_save(options)


def mark_and_save(options: argparse.Namespace) -> int:
    """Mark the model and write the folder; return the exit status."""
    from softmark.owner.data import training_and_probes
    from softmark.owner.folder import bytes_needed, check_new, save
    from softmark.owner.mark import mark_each
    from softmark.owner.model_files import load_model
    from softmark.owner.watermarks import owner_config

    passphrase = read_passphrase(options.lock)
    model = load_model(options.model, options.weights)
    methods = [word for word in options.overrides if word.startswith("method=")]
    method = methods[-1].removeprefix("method=") if methods else "csp"
    overrides = [word for word in options.overrides if word not in methods]
    exactly = any(word.startswith("verifier.probes=") for word in overrides)
    beacon = beacon_of(options) if options.beacon else None
    training, probes = training_and_probes(owner_config(method, overrides), exactly)
    check_new(options.to, bytes_needed(model, len(options.message), probes.inputs))
    with unfinished_kept(options, passphrase):
        copies = mark_each(
            model,
            (training.inputs, training.labels),
            options.message,
            method=method,
            probes=(probes.inputs, probes.labels),
            overrides=overrides,
            beacon=beacon,
        )
    save(copies, options.to, passphrase, options.owner, options.name)
    show(model, copies, options, probes)
    if not all(marked.verdict.claimed for marked in copies):
        print("too weak to prove anything: raise recipe.epochs, recipe.lr or method.marking.beta")
        return 3
    show_next_steps(copies, options.to)
    return 0


@contextlib.contextmanager
def unfinished_kept(options: argparse.Namespace, passphrase: str | None) -> Iterator[None]:
    """Write the copies that are done where the training of another one is ended."""
    from softmark.console import report
    from softmark.owner.folder import save_aside

    try:
        yield
    except BaseException as error:
        done = getattr(error, "copies", [])
        if done:
            aside = save_aside(done, options.to, passphrase, options.owner, options.name)
            report(f"{len(done)} of {len(options.message)} copies were marked: {aside} has them")
        raise


def show(
    model: nn.Module, copies: list[Marked], options: argparse.Namespace, probes: Samples
) -> None:
    """Print p and accuracy of the unmarked model and of each copy."""
    from softmark.accuracy import accuracy
    from softmark.owner.verify import verify
    from softmark.training import predict

    def percent(network: nn.Module) -> str:
        return f"{100 * accuracy(predict(network, probes.inputs), probes.labels):.2f} %"

    unmarked = verify(model, copies[0].key, copies[0].probes)
    print(f"accuracy is that on the {len(probes)} probes, test pictures that nothing is trained on")
    print(f"your model: p {p_of(unmarked)}; accuracy {percent(model)}")
    for marked, message in zip(copies, options.message, strict=True):
        claim = "claimed" if marked.verdict.claimed else "NOT claimed"
        print(f"{message!r}: p {p_of(marked.verdict)}, {claim}; accuracy {percent(marked.model)}")


def show_next_steps(copies: list[Marked], folder: Path) -> None:
    """Print what the mark can identify, and which files to publish and to keep."""
    from softmark.owner.certificate import CERTIFICATE
    from softmark.owner.commitment import COMMITMENT
    from softmark.owner.folder import KEY, PROBES

    if (customers := min(marked.max_customers for marked in copies)) > 1:
        print(f"such a mark tells {customers:,} customers or more apart")
    print(f"publish now: {folder / COMMITMENT}")
    print(f"what that proves: {folder / CERTIFICATE}")
    print(f"keep secret: {folder / KEY}")
    if copies[0].key.statement.has_triggers:
        print(f"keep secret until you ask a suspect: {folder / PROBES}, with the triggers")


def beacon_of(options: argparse.Namespace) -> Beacon:
    """Return the beacon; it has the commitment written into the folder before its round comes."""
    from softmark.owner.beacon import QUICKNET, Beacon, ask_to_publish
    from softmark.owner.commitment import write_publication

    def publish(publication: Mapping[str, Any], until: datetime) -> None:
        write_publication(publication, options.to)
        ask_to_publish(publication, until)

    return Beacon(options.beacon, options.chain or QUICKNET, options.delay, publish)


def p_of(verdict: Verdict) -> str:
    """Return p as text."""
    return "none" if verdict.p_value is None else f"{verdict.p_value:.2g}"


def read_passphrase(ask: bool) -> str | None:
    """Return the passphrase from the terminal or the environment; None for none."""
    from softmark.errors import InputError

    if not ask:
        passphrase = os.environ.get("SOFTMARK_PASSPHRASE")
        if passphrase == "":
            raise InputError("SOFTMARK_PASSPHRASE is empty: it would lock nothing; unset it")
        return passphrase
    if not sys.stdin.isatty():
        raise InputError("--lock asks at a terminal, and there is none: set SOFTMARK_PASSPHRASE")
    first, second = (getpass.getpass(f"{word} for the key: ") for word in ("Passphrase", "Again"))
    if first != second:
        raise InputError("the two passphrases differ")
    return first
