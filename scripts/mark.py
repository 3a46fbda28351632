"""Marks a model of your own, and writes the key, the commitment to publish, and the probes.

    python scripts/mark.py model.safetensors --message 'licence 7' --to marked \\
        data=cifar10 data.path=DIR
    python scripts/mark.py package.module:build --weights state.pt --message anna --message bert \\
        --to marked data=imagefolder data.path=DIR method=usp recipe.epochs=5

MODEL is a file that softmark has written, or MODULE:FUNCTION, a function without arguments that
returns a torch.nn.Module; --weights is a state dict, as safetensors or from torch.save. It must
map float pictures in [0, 1] to logits. All training pictures of data= are trained on; the probes
come from its test pictures. The other overrides are those of conf/owner.yaml (recipe.epochs,
recipe.lr, method, method.marking.beta, verifier.probes, ...). With several --message each customer
gets a copy.

--to DIR gets model.safetensors (model-1, model-2, ... for customers), key.safetensors (secret: keep
it), softmark.commitment.json (publish it now) and probes.npz (with method=csp_margin or usp_margin
it ends with the triggers: keep it until you ask a suspect). The passphrase that locks the key is
taken from SOFTMARK_PASSPHRASE, or asked for with --lock.

Exit status: 0 where the mark can be claimed, 3 where it is too weak, 2 for unusable input.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softmark import Beacon, Verdict


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file or MODULE:FUNCTION")
    parser.add_argument("overrides", nargs="*", help="such as data=cifar10 recipe.epochs=5")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="for MODULE:FUNCTION")
    parser.add_argument("--message", action="append", required=True, help="customer or licence")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--lock", action="store_true", help="ask for a passphrase for the key")
    parser.add_argument(
        "--beacon", metavar="URL", help="a drand server: a claim needs 1e-6 then, and not 1e-12"
    )
    parser.add_argument(
        "--chain", metavar="HASH", help="of its chain; quicknet where none is given"
    )
    parser.add_argument(
        "--delay", type=float, default=600.0, metavar="S", help="until the round: publish within it"
    )
    options = parser.parse_intermixed_args()

    from softmark.console import conclude

    conclude(lambda: run(options), "nothing was written")


def run(options: argparse.Namespace) -> int:
    from softmark.owner.commitment import COMMITMENT
    from softmark.owner.folder import KEY, PROBES, check_new, save
    from softmark.owner.kinds import settings
    from softmark.owner.mark import mark_each
    from softmark.owner.models import load_model
    from softmark.owner.pictures import training_and_probes
    from softmark.owner.verify import verify
    from softmark.training import accuracy, predict

    # Before anything is trained for nothing.
    check_new(options.to)
    passphrase = asked_passphrase(options.lock)
    model = load_model(options.model, options.weights)
    named = [word for word in options.overrides if word.startswith("method=")]
    method = named[-1].removeprefix("method=") if named else "csp"
    rest = [word for word in options.overrides if word not in named]
    exactly = any(word.startswith("verifier.probes=") for word in rest)
    beacon = beacon_of(options) if options.beacon else None
    data, held = training_and_probes(settings(method, rest), exactly)
    marked = mark_each(
        model,
        (data.inputs, data.labels),
        options.message,
        method=method,
        probes=(held.inputs, held.labels),
        overrides=rest,
        beacon=beacon,
    )
    save(marked, options.to, passphrase)
    before = accuracy(predict(model, held.inputs), held.labels)
    unmarked = verify(model, marked[0].key, marked[0].probes)
    print(f"accuracy is that on the {len(held)} probes, test pictures that nothing is trained on")
    print(f"your model: p {p_of(unmarked)}; accuracy {100 * before:.2f} %")
    for each, message in zip(marked, options.message, strict=True):
        after = accuracy(predict(each.model, held.inputs), held.labels)
        claim = "claimed" if each.verdict.claimed else "NOT claimed"
        print(f"{message!r}: p {p_of(each.verdict)}, {claim}; accuracy {100 * after:.2f} %")
    if not all(each.verdict.claimed for each in marked):
        print("too weak to prove anything: raise recipe.epochs, recipe.lr or method.marking.beta")
        return 3
    if (customers := min(each.customers for each in marked)) > 1:
        print(f"such a mark tells {customers:,} customers or more apart")
    print(f"publish now: {options.to / COMMITMENT}")
    print(f"keep secret: {options.to / KEY}")
    if marked[0].key.statement.has_triggers:
        print(f"keep secret until you ask a suspect: {options.to / PROBES}, with the triggers")
    return 0


def beacon_of(options: argparse.Namespace) -> Beacon:
    """The beacon, which has the commitment written into the folder before its round comes."""
    from softmark.owner.beacon import QUICKNET, Beacon, ask_to_publish
    from softmark.owner.commitment import write_publication

    def publish(made, until):
        write_publication(made, options.to)
        ask_to_publish(made, until)

    return Beacon(options.beacon, options.chain or QUICKNET, options.delay, publish)


def p_of(verdict: Verdict) -> str:
    return "none" if verdict.p_value is None else f"{verdict.p_value:.2g}"


def asked_passphrase(ask: bool) -> str | None:
    from softmark.errors import InputError

    if not ask:
        given = os.environ.get("SOFTMARK_PASSPHRASE")
        if given == "":
            raise InputError("SOFTMARK_PASSPHRASE is empty: it would lock nothing; unset it")
        return given
    if not sys.stdin.isatty():
        raise InputError("--lock asks at a terminal, and there is none: set SOFTMARK_PASSPHRASE")
    first, second = (getpass.getpass(f"{word} for the key: ") for word in ("Passphrase", "Again"))
    if first != second:
        raise InputError("the two passphrases differ")
    return first


if __name__ == "__main__":
    main()
