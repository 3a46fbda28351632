"""Servers that speak the Open Inference Protocol in bytes: over REST, and over gRPC."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from softmark.errors import InputError
from softmark.owner.suspects import http
from softmark.owner.suspects.endpoint import Endpoint
from softmark.owner.suspects.raw_tensors import LENGTH_HEADER, _field, _fields, _varint

WEIGHT = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)
INPUTS = torch.linspace(0, 1, 14).reshape(7, 2)


def right(inputs: np.ndarray) -> np.ndarray:
    return torch.from_numpy(inputs @ WEIGHT).softmax(1).numpy()


class BinaryHandler(BaseHTTPRequestHandler):
    """Answers in bytes where it is asked in bytes."""

    def log_message(self, format: str, *values) -> None:
        pass

    def reply(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.reply(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        end = int(self.headers[LENGTH_HEADER])
        asked = json.loads(body[:end])
        assert asked["parameters"] == {"binary_data_output": True}
        assert asked["inputs"][0]["parameters"] == {"binary_data_size": len(body) - end}
        answers = right(np.frombuffer(body[end:], "<f4").reshape(-1, 2))
        content = answers.tobytes()
        y = {"name": "y", "datatype": "FP32", "shape": list(answers.shape)}
        text = json.dumps({"outputs": [{**y, "parameters": {"binary_data_size": len(content)}}]})
        self.reply(text.encode() + content, **{LENGTH_HEADER: str(len(text))})


def test_tensors_go_and_come_as_bytes_over_rest():
    server = HTTPServer(("127.0.0.1", 0), BinaryHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        endpoint = Endpoint(url, model="m", encoding="binary", batch_size=3)
        torch.testing.assert_close(endpoint(INPUTS), torch.from_numpy(right(INPUTS.numpy())))
        assert endpoint.inputs_sent == 7 + 3  # the first batch again
    finally:
        server.shutdown()


@pytest.fixture
def grpc_server():
    """Serves a model over gRPC, after as many failures as ``failures`` has."""
    grpc = pytest.importorskip("grpc")
    failures, metadata = [], []

    def describe(request, context):
        if b"digits" not in request:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        x = _field(1, b"x") + _field(2, b"FP32") + _field(3, _varint(2**64 - 1) + _varint(2))
        return _field(1, b"digits") + _field(4, x)

    def infer(request, context):
        metadata.append(dict(context.invocation_metadata()))
        if failures:
            context.abort(failures.pop(), "secret of the day: hunter2-hunter2")
        content = dict(_fields(request, "test"))[7]
        answers = right(np.frombuffer(content, "<f4").reshape(-1, 2))
        shape = b"".join(map(_varint, answers.shape))
        y = _field(1, b"y") + _field(2, b"FP32") + _field(3, shape)
        return _field(5, y) + _field(6, answers.tobytes())

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(function)
        for name, function in (("ModelMetadata", describe), ("ModelInfer", infer))
    }
    server = grpc.server(ThreadPoolExecutor(2))
    service = grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}", failures, metadata, grpc.StatusCode
    server.stop(None)


def test_a_server_is_asked_over_grpc(grpc_server, monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.01)
    url, failures, metadata, codes = grpc_server
    failures.append(codes.UNAVAILABLE)
    headers = {"Authorization": "Bearer hunter2-hunter2"}
    endpoint = Endpoint(url, protocol="grpc", model="digits", headers=headers, batch_size=4)
    torch.testing.assert_close(endpoint(INPUTS), torch.from_numpy(right(INPUTS.numpy())))
    assert endpoint.inputs_sent == 7 + 2 * 4  # a retry, and the first batch again
    assert metadata[0]["authorization"] == "Bearer hunter2-hunter2"
    failures.append(codes.INVALID_ARGUMENT)
    with pytest.raises(InputError, match="INVALID_ARGUMENT: secret of the day") as error:
        endpoint(INPUTS)
    assert "hunter2" not in str(error.value)
    with pytest.raises(InputError, match="has no metadata of the model"):
        Endpoint(url, protocol="grpc", model="other")(INPUTS)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"url": "http://host", "protocol": "grpc", "model": "m"}, "grpc://HOST:PORT"),
        ({"url": "grpc://a:b@host", "protocol": "grpc", "model": "m"}, "grpc://HOST:PORT"),
        ({"url": "grpc://host", "protocol": "grpc"}, "--model NAME is needed"),
        ({"url": "http://host", "protocol": "json", "encoding": "binary"}, "of v2 alone"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(wrong, why):
    with pytest.raises(InputError, match=why):
        Endpoint(wrong.pop("url"), **wrong)
