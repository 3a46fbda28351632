"""What a command line says of a server that is a suspect."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softmark import Endpoint


def add_server_arguments(server: argparse._ArgumentGroup) -> None:
    """Add what a server as a suspect needs."""
    server.add_argument(
        "--protocol",
        choices=("v2", "grpc", "json"),
        default="v2",
        help="v2: Open Inference Protocol; grpc: the same at grpc://HOST:PORT (needs "
        "softmark[grpc]); json: any other JSON POST (default: v2)",
    )
    server.add_argument("--model", metavar="NAME", help="name of the model (v2; needed)")
    server.add_argument("--model-version", metavar="V", help="version of the model (v2)")
    server.add_argument(
        "--input", metavar="NAME", help="name of the input tensor (v2; default: the only one)"
    )
    server.add_argument(
        "--output", metavar="NAME", help="name of the output tensor (v2; default: the only one)"
    )
    _add_bodies(server)
    server.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="sent with each request, and shown nowhere; may be repeated",
    )
    _add_limits(server)


def _add_bodies(server: argparse._ArgumentGroup) -> None:
    """Add what requests and replies look like."""
    server.add_argument(
        "--request",
        default="instances",
        metavar="NAME",
        help="name of the list of inputs in the body (json; default: instances)",
    )
    server.add_argument(
        "--encoding",
        choices=("numbers", "bytes", "base64", "multipart", "file", "binary"),
        default="numbers",
        metavar="FORM",
        help="of the inputs: numbers, bytes (whole numbers from 0 to 255), base64 (PNG files in "
        "text), multipart (a PNG file in a form) or file (a PNG file alone) (json); binary "
        "(tensors as bytes behind the JSON) (v2)",
    )
    server.add_argument(
        "--body",
        metavar="JSON",
        help='the whole body, with "{inputs}", "{input}" (one a request) or {data_url} where '
        "inputs belong (json; default: the list of inputs alone)",
    )
    server.add_argument(
        "--answer",
        default="predictions",
        metavar="PATH",
        help="dotted path to the answers in the reply, * for each entry of a list (json; default: "
        "predictions)",
    )


def _add_limits(server: argparse._ArgumentGroup) -> None:
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


def endpoint(options: argparse.Namespace) -> Endpoint:
    """Return the server that the options describe."""
    from softmark.owner.suspects.endpoint import Endpoint

    headers = dict(map(_header, options.header))
    return Endpoint(
        options.suspect,
        protocol=options.protocol,
        model=options.model,
        version=options.model_version,
        input=options.input,
        output=options.output,
        request=options.request,
        encoding=options.encoding,
        body=options.body,
        answer=options.answer,
        headers=headers,
        batch_size=options.batch_size,
        rate=options.rate,
        budget=options.budget,
        timeout=options.timeout,
        retries=options.retries,
        answer_log=options.answer_log,
    )


def _header(text: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE, or of NAME: VALUE as curl has it.

    Nothing of a text that is neither is shown: where its name ends, nobody knows.
    """
    from softmark.errors import InputError

    match = re.fullmatch(r"([\w!#$%&'*+.^`|~-]+)(?:=|:\s*)(.+)", text, re.ASCII | re.DOTALL)
    if not match:
        raise InputError(
            "--header: NAME=VALUE or 'NAME: VALUE' is needed; yours isn't shown, as it may hold a "
            "secret"
        )
    return match[1], match[2]
