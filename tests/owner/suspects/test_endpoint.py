"""A model behind HTTP: what is sent, what comes back, and every way in which a server can fail."""

import contextlib
import functools
import gzip
import json
import math
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.owner.suspects import http
from softmark.owner.suspects.endpoint import Endpoint

SHAPE = (1, 2, 3)  # of one input
CLASSES = 4
SECRET = "hunter2-hunter2"
WEIGHT = torch.linspace(-2, 2, 6 * CLASSES).reshape(6, CLASSES).double()


def pictures(count: int) -> Tensor:
    return (torch.arange(count * 6) * 37 % 256).to(torch.uint8).reshape(count, *SHAPE)


def right(inputs: Tensor) -> Tensor:
    """What the model answers: a linear layer and a softmax on floats in [0, 1]."""
    scaled = inputs.double() / 255 if inputs.dtype == torch.uint8 else inputs.double()
    return (scaled.reshape(len(inputs), -1) @ WEIGHT).softmax(1).float()


def tensor(name: str, shape: list[int], data: list, datatype: str = "FP32") -> dict:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it holds a body back for 40 ms

    def log_message(self, format: str, *values) -> None:
        pass

    def reply(self, status: int, body, **headers: str) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.gets += 1
        status, about = self.server.metadata
        self.reply(status, about)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        one = body["inputs"][0] if "inputs" in body else None
        data = one["data"] if one else body["instances"]
        inputs = torch.tensor(data, dtype=torch.float64).reshape(-1, *SHAPE)
        self.server.bodies.append(body)
        self.server.sizes.append(len(inputs))
        self.server.headers.append(dict(self.headers))
        self.server.paths.append(self.path)
        rows = right(inputs).tolist()
        if self.server.faults and (fault := self.server.faults.pop(0)):
            fault(self, rows)
        elif one:
            flat = [x for row in rows for x in row]
            self.reply(200, {"outputs": [tensor("p", [len(rows), CLASSES], flat)]})
        else:
            self.reply(200, {"predictions": rows})


class Server(ThreadingHTTPServer):
    """Serves the model rightly, but for ``faults``: one for each POST, None for none."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.gets, self.bodies, self.sizes, self.headers, self.faults = 0, [], [], [], []
        self.paths: list[str] = []
        self.over = threading.Event()
        self.metadata = (
            200,
            {
                "name": "m",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *SHAPE]}],
                "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1, CLASSES]}],
            },
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.01)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def plain(server):
    """``plain(rate=3)``: an endpoint that speaks plain JSON."""
    return lambda **options: Endpoint(server.url, protocol="json", **options)


@pytest.fixture
def open_inference(server):
    return lambda **options: Endpoint(server.url, **{"model": "m", **options})


def says(status: int, body, **headers: str):
    return lambda handler, rows: handler.reply(status, body, **headers)


def hangs(handler, rows) -> None:
    handler.server.over.wait(5)
    handler.close_connection = True


def drips(handler, rows) -> None:
    """A byte now and then, without an end: the time between two never runs out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.close_connection = True
    for _ in range(100):
        if handler.server.over.wait(0.05):
            return
        handler.wfile.write(b" ")
        handler.wfile.flush()


def never_ends(handler, rows) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"[" + b"1," * 2**20)


def cuts(handler, rows) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"predictions": [[')
    handler.close_connection = True


def drops(handler, rows) -> None:
    handler.close_connection = True


# --- what is sent and what comes back ---------------------------------------------------------


@pytest.mark.parametrize("protocol", ["v2", "json"])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float16", "int64"])
def test_answers_come_in_order_as_they_are(server, protocol, kind):
    inputs = pictures(10)
    if kind != "uint8":
        inputs = (inputs.float() / 64 - 2).to(getattr(torch, kind))
    endpoint = Endpoint(server.url, protocol=protocol, model="m", batch_size=4)
    answers = endpoint(inputs)
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers, right(inputs))
    assert endpoint.changed == 0
    assert server.sizes == [4, 4, 2, 4]
    assert (endpoint.inputs_sent, endpoint.requests_sent) == (14, 4 + server.gets)


def test_a_body_of_v2_says_what_the_protocol_asks_for(server, open_inference):
    inputs = pictures(2).flip(3)  # neither contiguous nor of floats
    open_inference()(inputs)
    scaled = (inputs.float() / 255).flatten().tolist()
    assert server.bodies[0] == {"inputs": [tensor("x", [2, *SHAPE], scaled)]}
    assert server.gets == 1


@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "INT32"])
def test_whole_numbers_stay_whole_where_the_server_asks_for_them(server, open_inference, datatype):
    server.metadata[1]["inputs"][0]["datatype"] = datatype
    open_inference()(pictures(3))
    assert server.bodies[0]["inputs"][0]["data"] == pictures(3).flatten().tolist()
    assert server.bodies[0]["inputs"][0]["datatype"] == datatype


def test_the_reply_may_be_anywhere_and_the_request_may_have_any_name(server, plain):
    nested = {"result": [{"soft": [[0.25, 0.75]]}]}
    server.faults = [says(200, nested), says(200, [[0.25, 0.75]])]
    expected = torch.tensor([[0.25, 0.75]])
    assert plain(answer="result.0.soft", budget=1)(pictures(1)).equal(expected)
    assert plain(answer="", budget=1)(pictures(1)).equal(expected)
    assert list(server.bodies[0]) == ["instances"]


def test_what_is_no_probability_passes(server, plain):
    server.faults = [
        says(200, b'{"predictions": [[NaN, null, -1, 1e300], [2, 0, -0.5, Infinity]]}')
    ]
    answers = plain(budget=2)(pictures(2))
    expected = torch.tensor([[math.nan, math.nan, -1, math.inf], [2, 0, -0.5, math.inf]])
    torch.testing.assert_close(answers, expected, equal_nan=True)


def test_a_compressed_reply_is_read(server, plain):
    body = gzip.compress(json.dumps({"predictions": [[0.5, 0.5]] * 50}).encode())
    server.faults = [says(200, body, Content_Encoding="gzip")]
    assert plain(batch_size=50, budget=50)(pictures(50)).shape == (50, 2)


@pytest.mark.parametrize("nested", [True, False])
def test_an_output_of_v2_is_picked_by_its_shape_or_name(server, open_inference, nested):
    rows = [[0.25, 0.75], [0.5, 0.5]]
    flat = [0.25, 0.75, 0.5, 0.5]
    outputs = [tensor("label", [2], [1, 0], "INT64"), tensor("p", [2, 2], rows if nested else flat)]
    both = [*outputs, tensor("logits", [2, 2], [[3, 4], [5, 6]])]
    server.faults = [says(200, {"outputs": outputs}), says(200, {"outputs": both})]
    del server.metadata[1]["outputs"]
    assert open_inference(budget=2)(pictures(2)).tolist() == rows
    assert open_inference(budget=2, output="logits")(pictures(2)).tolist() == [[3, 4], [5, 6]]
    server.faults = [says(200, {"outputs": both}), says(200, {"outputs": outputs[:1]})]
    with pytest.raises(InputError, match=r"--output NAME is needed.*'p' \[2, 2\].*'logits'"):
        open_inference()(pictures(2))
    assert open_inference()(pictures(2)).tolist() == [1, 0]  # labels alone
    server.faults = [says(200, {"outputs": both})]
    with pytest.raises(InputError, match=r"--output=label: .*one of two dimensions"):
        open_inference(output="label")(pictures(2))
    server.faults = [says(200, {"outputs": [tensor("p", [2, 2], [1, 2, 3])]})]
    with pytest.raises(InputError, match=r"3 numbers for the shape \[2, 2\]"):
        open_inference()(pictures(2))


# --- metadata ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 501])
def test_without_metadata_the_name_of_the_input_is_needed(server, open_inference, status):
    server.metadata = status, {"error": "no"}
    with pytest.raises(InputError, match="--input NAME is needed"):
        open_inference()(pictures(2))
    assert server.sizes == []
    torch.testing.assert_close(open_inference(input="x")(pictures(2)), right(pictures(2)))
    assert server.bodies[0]["inputs"][0]["datatype"] == "FP32"


@pytest.mark.parametrize("about", [None, [], {}, {"inputs": []}, {"inputs": [{"name": 3}]}])
def test_metadata_that_say_nothing_are_none(server, open_inference, about):
    server.metadata = 200, about
    if about is None:
        with pytest.raises(InputError, match="--input NAME is needed"):
            open_inference()(pictures(2))
    else:
        open_inference()(pictures(2))
        assert server.bodies[-1]["inputs"][0]["name"] == "input-0"
    torch.testing.assert_close(open_inference(input="x")(pictures(2)), right(pictures(2)))


def test_labels_alone_are_labels_by_either_protocol(server, tmp_path):
    log = tmp_path / "log"
    server.faults = [says(200, {"predictions": [3, 1]}), says(200, {"predictions": [0]})]
    endpoint = Endpoint(server.url, protocol="json", batch_size=2, budget=3, answer_log=log)
    assert endpoint(pictures(3)).tolist() == [3, 1, 0]
    assert endpoint(pictures(3)).tolist() == [3, 1, 0]  # out of the file


def test_a_star_goes_through_a_list(server):
    rows = [{"scores": [{"p": 0.25}, {"p": 0.75}]}, {"scores": [{"p": 0.5}, {"p": 0.5}]}]
    server.faults = [says(200, {"out": rows}), says(200, {"out": [{"label": 3}, {"label": 4}]})]
    asked = functools.partial(Endpoint, server.url, protocol="json", budget=2)
    answers = asked(answer="out.*.scores.*.p")(pictures(2))
    assert answers.tolist() == [[0.25, 0.75], [0.5, 0.5]]
    with pytest.raises(InputError, match=r"answers no 'p', but 'label'"):
        asked(answer="out.*.p")(pictures(2))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"shape": [-1, 3, 8, 8]}, {}, r"\[-1, 3, 8, 8\], the inputs have \[5, 1, 2, 3\]$"),
        ({"shape": [-1, 6]}, {}, r"\[-1, 6\], the inputs have \[5, 1, 2, 3\]$"),
        ({"shape": [1, *SHAPE]}, {}, r"have \[5, 1, 2, 3\]: --batch-size=1 is needed"),
        ({"datatype": "BYTES"}, {}, r"takes BYTES, the inputs are torch.uint8"),
        ({}, {"input": "y"}, r"--input=y: .*has 'x' \[-1, 1, 2, 3\]"),
        ({}, {"output": "q"}, r"--output=q: .*has 'p' \[-1, 4\]"),
    ],
)
def test_what_does_not_fit_the_metadata_is_not_asked(
    server, open_inference, change, options, message
):
    server.metadata[1]["inputs"][0].update(change)
    with pytest.raises(InputError, match=message):
        open_inference(**options)(pictures(5))
    assert server.sizes == []


def test_of_two_inputs_one_must_be_named(server, open_inference):
    server.metadata[1]["inputs"].append({"name": "mask", "datatype": "FP32", "shape": [-1]})
    with pytest.raises(InputError, match=r"--input NAME is needed: .*'x'.*'mask'"):
        open_inference()(pictures(2))
    open_inference(input="x")(pictures(2))


def test_floats_are_not_sent_as_whole_numbers(server, open_inference):
    server.metadata[1]["inputs"][0]["datatype"] = "UINT8"
    with pytest.raises(InputError, match=r"takes UINT8, the inputs are torch.float32"):
        open_inference()(pictures(2).float())


# --- a server that fails ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [says(500, "no"), says(500, "no")],
        [drops, cuts],
        [says(429, "slow", Retry_After="soon"), says(502, b"")],
        [says(503, "no", Retry_After="0")],
    ],
)
def test_what_passes_is_tried_again(server, plain, faults):
    server.faults = [*faults, None]
    endpoint = plain()
    torch.testing.assert_close(endpoint(pictures(5)), right(pictures(5)))
    assert endpoint.requests_sent == len(faults) + 2
    assert endpoint.inputs_sent == 5 * endpoint.requests_sent


def test_the_server_says_how_long_to_wait(server, plain):
    server.faults = [says(429, "slow", Retry_After="1")]
    start = time.monotonic()
    plain(budget=10)(pictures(5))
    assert 1 <= time.monotonic() - start < 3
    server.faults = [says(429, "tomorrow", Retry_After="86400")]
    with pytest.raises(InputError, match=r"answers 429 with Retry-After: 86400; softmark waits"):
        plain()(pictures(5))


@pytest.mark.parametrize(
    ("fault", "tries", "message"),
    [
        (says(500, "out of order"), 3, r'answers 500: "out of order" \(3 tries\)'),
        (says(429, "slow"), 3, r'answers 429: "slow" \(3 tries\)'),
        (drops, 3, r"can't be asked: .*closed.* \(3 tries\)"),
        (cuts, 3, r"can't be asked: IncompleteRead.* \(3 tries\)"),
        (hangs, 3, r"gives no answer within 0.2 s \(3 tries\)"),
        (drips, 3, r"gives no answer within 0.2 s \(3 tries\)"),
        (never_ends, 1, r"answers more than 16,777,216 bytes"),
        (says(404, b"x" * 999), 1, r"answers 404: x{200}$"),
        (says(401, "who?"), 1, r'answers 401: "who\?"$'),
        (says(302, "", Location="http://far.example/"), 1, r"answers 302 and points to http://far"),
        (says(200, b"<html>\n\x1b[31mhi"), 1, r"answers no JSON: <html> \[31mhi$"),
        (says(200, b""), 1, r"answers no JSON: nothing$"),
        (says(200, b"\xff\xfe\xff"), 1, r"answers no JSON"),
        (says(200, b"[" * 99_999), 1, r"answers no JSON"),
        (says(200, {"error": "no"}), 1, r"--answer=predictions: .*no 'predictions', but 'error'"),
        (says(200, [1]), 1, r"--answer=predictions: .*no 'predictions', but list"),
        (lambda h, rows: h.reply(200, {"predictions": rows[1:]}), 1, r"4 rows for 5 inputs"),
        (says(200, {"predictions": [[1, 2]] * 4 + [[1]]}), 1, r"rows of \[1, 2\] numbers"),
        (says(200, {"predictions": [[]] * 5}), 1, r"rows of \[0\] numbers"),
        (says(200, {"predictions": [1, 2, 3, "4", 5]}), 1, r"a list of numbers is needed for each"),
        (says(200, {"predictions": [1, 2, 3, 4]}), 1, r"4 rows for 5 inputs"),
        (says(200, {"predictions": "cat"}), 1, r"a list of numbers is needed for each"),
        (says(200, {"predictions": [["a", True]] * 5}), 1, r"\['bool', 'str'\] among the answers"),
        (says(200, {"predictions": [[[1]]] * 5}), 1, r"\['list'\] among the answers"),
        (says(200, {"predictions": [[10**400]] * 5}), 1, r"too large"),
    ],
)
def test_a_fault_is_told_in_one_line(server, plain, fault, tries, message):
    server.faults = [fault] * 3
    # A busy machine may take longer than a fifth of a second where that isn't what is tested.
    endpoint = plain(retries=2, timeout=0.2 if "within 0.2 s" in message else 30)
    with pytest.raises(InputError, match=message) as caught:
        endpoint(pictures(5))
    assert "\n" not in str(caught.value)
    assert server.sizes == [5] * tries
    assert (endpoint.requests_sent, endpoint.inputs_sent) == (tries, 5 * tries)


def test_fewer_rows_of_v2_are_told_too(server, open_inference):
    server.faults = [says(200, {"outputs": [tensor("p", [2, 2], [[0, 1]] * 2)]})]
    with pytest.raises(InputError, match="output 'p': 2 rows for 3 inputs"):
        open_inference()(pictures(3))


def test_nobody_there_is_told(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.01)
    with pytest.raises(InputError, match=r"can't be asked: Connection refused \(3 tries\)"):
        Endpoint(f"http://127.0.0.1:{free_port()}", protocol="json", retries=2)(pictures(2))


def test_the_number_of_classes_stays(server, plain):
    server.faults = [None, says(200, {"predictions": [[0.5, 0.5]] * 2})]
    with pytest.raises(InputError, match="answered 4 classes first, now 2"):
        plain(batch_size=2)(pictures(4))


def test_a_redirect_is_not_followed_even_to_another_path(server, open_inference):
    server.metadata = 200, {}
    server.faults = [says(307, "", Location="/v3")]
    with pytest.raises(InputError, match="answers 307 and points to /v3"):
        open_inference(input="x")(pictures(2))
    assert server.sizes == [2]


def test_other_answers_the_second_time_are_told_and_no_error(server, plain):
    rows = right(pictures(4)).tolist()
    rows[1][0] += 2e-4
    rows[2][0] += 5e-5
    server.faults = [None, None, says(200, {"predictions": rows})]
    endpoint = plain(batch_size=4)
    torch.testing.assert_close(endpoint(pictures(8)), right(pictures(8)))
    assert endpoint.changed == 0.25
    server.faults = [None, says(200, {"predictions": [[1.0, 0.0]] * 4})]
    endpoint(pictures(4))
    assert endpoint.changed == 1
    server.faults = [None, says(403, "enough")]
    torch.testing.assert_close(endpoint(pictures(4)), right(pictures(4)))
    assert endpoint.changed is None


# --- budget, rate, arguments ------------------------------------------------------------------


def test_a_budget_that_is_too_small_asks_nothing(server, open_inference):
    endpoint = open_inference(budget=9)
    with pytest.raises(InputError, match=r"--budget=9: 0 inputs.*10 more.*--budget=10 at least"):
        endpoint(pictures(10))
    assert (endpoint.inputs_sent, endpoint.requests_sent, server.gets) == (0, 0, 0)


def test_a_budget_that_is_just_enough_leaves_none_to_ask_again(server, open_inference):
    endpoint = open_inference(budget=10)
    endpoint(pictures(10))
    assert (endpoint.inputs_sent, endpoint.changed) == (10, None)
    with pytest.raises(InputError, match=r"--budget=10: 10 inputs were sent.*1 more"):
        endpoint(pictures(1))


def test_retries_count_in_the_budget(server, plain):
    server.faults = [says(500, "no")]
    with pytest.raises(InputError, match=r"--budget=10: 10 inputs were sent so far, retries"):
        plain(budget=10, batch_size=5)(pictures(10))
    assert server.sizes == [5, 5]


def test_no_more_requests_in_a_second_than_allowed(server, plain):
    start = time.monotonic()
    plain(batch_size=1, rate=20)(pictures(5))
    assert 0.25 <= time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8080"}, "--url=localhost:8080: http://HOST"),
        ({"url": "ftp://x"}, "--url=ftp://x: http://HOST"),
        ({"url": "http://"}, "--url=http://: http://HOST"),
        ({"url": "http://x:99999"}, "http://HOST"),
        ({"url": "http://[::1"}, "http://HOST"),
        ({"protocol": "v3"}, "--protocol=v3: v2, grpc or json"),
        ({"model": None}, "--model NAME is needed"),
        ({"batch_size": 0}, "--batch-size=0: a whole number from 1 on"),
        ({"budget": 0}, "--budget=0: a whole number from 1 on"),
        ({"retries": -1}, "--retries=-1: a whole number from 0 on"),
        ({"timeout": 0}, "--timeout=0: a number above 0"),
        ({"rate": math.nan}, "--rate=nan: a number above 0"),
    ],
)
def test_arguments_that_cannot_be_used_are_told(options, message):
    with pytest.raises(InputError, match=message):
        Endpoint(**{"url": "http://127.0.0.1", "model": "m", **options})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (pictures(0), "no inputs"),
        (torch.full((2, *SHAPE), math.nan), "NaN or infinity"),
    ],
)
def test_inputs_that_cannot_be_sent_are_told(server, plain, inputs, message):
    with pytest.raises(InputError, match=message):
        plain()(inputs)
    assert server.sizes == []


# --- the file ---------------------------------------------------------------------------------


def test_a_second_run_asks_only_what_is_missing(server, plain, tmp_path):
    log = tmp_path / "new" / "answers.jsonl"
    server.faults = [None] * 6 + [says(500, "gone")]
    with pytest.raises(InputError, match="answers 500"):
        plain(batch_size=100, retries=0, answer_log=log)(pictures(1000))
    assert sum(server.sizes) == 700
    server.sizes.clear()
    endpoint = plain(batch_size=64, answer_log=log, budget=464)
    torch.testing.assert_close(endpoint(pictures(1000)), right(pictures(1000)))
    assert server.sizes == [64] * 6 + [16] + [64]
    assert endpoint.changed == 0
    server.sizes.clear()
    again = plain(answer_log=log)
    torch.testing.assert_close(again(pictures(1000)), right(pictures(1000)))
    assert (server.sizes, again.inputs_sent, again.changed) == ([], 0, None)


def test_answers_that_changed_between_two_runs_are_told(server, plain, tmp_path):
    log = tmp_path / "answers.jsonl"
    server.faults = [None, says(400, "no")]
    with pytest.raises(InputError):
        plain(batch_size=4, answer_log=log)(pictures(8))
    server.faults = [None, says(200, {"predictions": [[1.0, 0.0, 0.0, 0.0]] * 4})]
    endpoint = plain(batch_size=4, answer_log=log)
    endpoint(pictures(8))
    assert endpoint.changed == 1


def test_a_line_that_was_cut_off_is_asked_again(server, plain, tmp_path):
    log = tmp_path / "answers.jsonl"
    plain(batch_size=4, answer_log=log)(pictures(12))
    whole = log.read_bytes()
    for size in range(0, len(whole) + 1, 37):
        log.write_bytes(whole[:size])
        server.sizes.clear()
        endpoint = plain(batch_size=4, answer_log=log)
        torch.testing.assert_close(endpoint(pictures(12)), right(pictures(12)))
        assert log.read_bytes() == whole
        lines = max(0, whole[:size].count(b"\n") - 1)
        assert server.sizes == ([4] * (4 - lines) if lines < 3 else [])


def test_numbers_that_are_none_are_kept_too(server, plain, tmp_path):
    log = tmp_path / "answers.jsonl"
    server.faults = [says(200, b'{"predictions": [[NaN, null, -Infinity, 0.1]]}')]
    first = plain(answer_log=log, budget=1)(pictures(1))
    second = plain(answer_log=log)(pictures(1))
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    assert server.sizes == [1]


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({}, pictures(5), "holds the answers of other inputs"),
        ({}, pictures(4).flip(0), "holds the answers of other inputs"),
        ({}, pictures(4).long(), "holds the answers of other inputs"),
        ({"answer": "soft"}, pictures(4), "the answers of answer predictions, not soft"),
        (
            {"url": "http://127.0.0.1:1"},
            pictures(4),
            "the answers of url http://127.*not http://127",
        ),
        ({"protocol": "v2", "model": "m"}, pictures(4), "the answers of url"),
    ],
)
def test_a_file_of_something_else_is_not_used(server, tmp_path, options, inputs, message):
    log = tmp_path / "answers.jsonl"
    first = {"url": server.url, "protocol": "json", "answer_log": log}
    Endpoint(**first)(pictures(4))
    before = log.read_bytes()
    server.sizes.clear()
    with pytest.raises(InputError, match=message):
        Endpoint(**{**first, **options})(inputs)
    assert server.sizes == []
    assert log.read_bytes() == before


def test_a_file_that_is_none_of_ours_is_left_alone(server, plain, tmp_path):
    log = tmp_path / "answers.jsonl"
    for text in ("a letter", "a letter\n", "[1]\n", '{"url": 3}\n', "\n\n"):
        log.write_text(text)
        with pytest.raises(InputError, match="holds no answers of an endpoint"):
            plain(answer_log=log)(pictures(4))
        assert log.read_text() == text
    with pytest.raises(InputError, match=r"--answer-log=.*: Is a directory"):
        plain(answer_log=tmp_path)(pictures(4))
    with pytest.raises(InputError, match=r"--answer-log=.*: File exists"):
        plain(answer_log=log / "below")(pictures(4))
    assert server.sizes == []


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"from": 0, "answers": [[1, 2, 3, 4]]}',  # twice the same place
        '{"from": 2, "answers": [[1, 2]]}',
        '{"from": 2, "answers": [[1, 2, 3, 4], [1]]}',
        '{"from": 2, "answers": [["a", "b", "c", "d"]]}',
        '{"from": 2, "answers": [[null, 2, 3, 4]]}',
        '{"from": 2, "answers": []}',
        '{"from": 2, "answers": 3}',
        '{"from": 2, "answers": [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]}',  # too many
    ],
)
def test_a_damaged_file_is_told(server, plain, tmp_path, line):
    log = tmp_path / "answers.jsonl"
    plain(batch_size=2, answer_log=log)(pictures(4))
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], line, ""]))
    with pytest.raises(InputError, match="line 3 is damaged"):
        plain(batch_size=2, answer_log=log)(pictures(4))


# --- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        says(401, f"bad token {SECRET}"),
        says(401, "x" * 195 + SECRET),
        says(500, f"Bearer {SECRET}"),
        says(302, "", Location=f"http://far.example/?t={SECRET}"),
        says(200, SECRET.encode()),
    ],
)
def test_what_headers_hold_is_sent_and_not_told(server, plain, tmp_path, fault):
    log = tmp_path / "answers.jsonl"
    server.faults = [None, fault]
    headers = {"Authorization": f"Bearer {SECRET}"}
    with pytest.raises(InputError) as caught:
        plain(batch_size=2, answer_log=log, headers=headers, retries=0)(pictures(4))
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert "hunt" not in str(caught.value)
    assert "hunt" not in log.read_text()


@pytest.mark.parametrize("fault", [says(401, f"bad {SECRET}"), drops, says(200, SECRET.encode())])
def test_what_follows_the_question_mark_is_sent_and_not_told(server, tmp_path, fault):
    log = tmp_path / "answers.jsonl"
    endpoint = Endpoint(
        f"{server.url}/predict?code={SECRET}&x=1", protocol="json", retries=0, answer_log=log,
        batch_size=2,
    )  # fmt: skip
    server.faults = [None, fault]
    with pytest.raises(InputError) as caught:
        endpoint(pictures(4))
    assert server.paths[0].endswith(f"?code={SECRET}&x=1")
    for shown in (str(caught.value), log.read_text(), endpoint.url):
        assert "hunt" not in shown


def test_headers_and_addresses_that_cannot_be_sent_do_not_show_their_secret():
    with pytest.raises(InputError, match="the header Authorization") as caught:
        Endpoint("http://127.0.0.1", model="m", headers={"Authorization": f"{SECRET}\n"})
    assert SECRET not in str(caught.value)
    with pytest.raises(InputError, match="a header's name") as caught:
        Endpoint("http://127.0.0.1", model="m", headers={f"Authorization: Basic {SECRET}": "="})
    assert SECRET not in str(caught.value)
    with pytest.raises(InputError, match="send them in a header") as caught:
        Endpoint(f"http://me:{SECRET}@127.0.0.1", model="m")
    assert SECRET not in str(caught.value)


def test_a_netrc_file_does_not_take_the_place_of_a_header(server, plain, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    plain(headers={"Authorization": "Bearer mine"})(pictures(1))
    assert server.headers[0]["Authorization"] == "Bearer mine"


# --- a server that others have written --------------------------------------------------------

MODEL = """
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

WEIGHT = np.linspace(-2, 2, 24).reshape(6, 4)


class Linear(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        pictures = NumpyCodec.decode_input(payload.inputs[0])
        exp = np.exp(pictures.reshape(len(pictures), -1).astype("float64") @ WEIGHT)
        p = (exp / exp.sum(1, keepdims=True)).astype("float32")
        outputs = [NumpyCodec.encode_output("p", p)]
        if payload.inputs[0].name == "both":
            outputs.append(NumpyCodec.encode_output("label", p.argmax(1)))
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def write_models(folder: Path) -> int:
    """What MLServer needs to serve three models that compute alike; the port it will listen to."""
    ports = {key: free_port() for key in ("http_port", "grpc_port", "metrics_port")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "linear.py").write_text(MODEL)
    shape, outputs = [-1, *SHAPE], [{"name": "p", "datatype": "FP32", "shape": [-1, CLASSES]}]
    for name, inputs in {
        "floats": [{"name": "pictures", "datatype": "FP32", "shape": shape}],
        "bytes": [{"name": "pixels", "datatype": "UINT8", "shape": shape}],
        "silent": [],
    }.items():
        about = {"name": name, "implementation": "linear.Linear", "inputs": inputs}
        about |= {"outputs": outputs, "parameters": {"version": "v7"}}
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(about))
    return ports["http_port"]


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    """The address of an MLServer; it takes two seconds to start."""
    pytest.importorskip("mlserver")
    folder = tmp_path_factory.mktemp("mlserver")
    url = f"http://127.0.0.1:{write_models(folder)}"
    run = [sys.executable, "-c", "from mlserver.cli import main; main()", "start", "."]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(run, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(150):
            time.sleep(0.1)
            try:
                if requests.get(f"{url}/v2/health/ready", timeout=1).ok:
                    break
            except requests.RequestException:
                assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("version", [None, "v7"])
def test_mlserver_answers_what_the_model_computes(mlserver, version, tmp_path):
    endpoint = Endpoint(
        mlserver, model="floats", version=version, answer_log=tmp_path / "answers.jsonl"
    )
    torch.testing.assert_close(endpoint(pictures(50)), right(pictures(50)))
    assert (endpoint.inputs_sent, endpoint.requests_sent, endpoint.changed) == (50 + 32, 4, 0)


def test_mlserver_gets_floats_as_they_are_and_bytes_where_it_asks_for_them(mlserver):
    floats = pictures(50).float() / 64 - 2
    torch.testing.assert_close(Endpoint(mlserver, model="floats")(floats), right(floats))
    answers = Endpoint(mlserver, model="bytes")(pictures(50))
    torch.testing.assert_close(answers, right(pictures(50).float()))


@pytest.mark.parametrize("name", [None, "both"])
def test_mlserver_that_declares_no_inputs_takes_any_name(mlserver, name):
    endpoint = Endpoint(mlserver, model="silent", input=name, output="p")
    torch.testing.assert_close(endpoint(pictures(50)), right(pictures(50)))


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({}, pictures(8).reshape(8, 3, 2, 1), r"\[-1, 1, 2, 3\], the inputs have \[8, 3, 2, 1\]"),
        ({"model": "bytes"}, pictures(8).float(), r"takes UINT8, the inputs are torch.float32"),
        ({"model": "nope"}, pictures(8), r"models/nope has no metadata of the model: is that its"),
        ({"model": "nope", "input": "x"}, pictures(8), r"answers 404: .*Model nope not found"),
        ({"version": "v8"}, pictures(8), r"floats/versions/v8 has no metadata of the model"),
        ({"input": "x"}, pictures(8), r"--input=x: .*has 'pictures' \[-1, 1, 2, 3\]"),
        ({"output": "y"}, pictures(8), r"--output=y: .*has 'p' \[-1, 4\]"),
    ],
)
def test_mlserver_and_what_does_not_fit(mlserver, options, inputs, message):
    with pytest.raises(InputError, match=message):
        Endpoint(mlserver, **{"model": "floats", **options})(inputs)
