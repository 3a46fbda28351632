"""Requests of the shapes that servers take."""

from __future__ import annotations

import base64
import email
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from softmark.errors import InputError
from softmark.owner.suspects.bodies import Bodies
from softmark.owner.suspects.endpoint import Endpoint
from softmark.owner.suspects.forms import Classes

PICTURES = torch.arange(3 * 16, dtype=torch.uint8).reshape(3, 1, 4, 4)
NAMES = ("cat", "dog")


def score(pixels) -> float:
    return float(np.asarray(pixels, float).sum() / 1000)


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


class Handler(BaseHTTPRequestHandler):
    """Answers as the servers do whose name is the path."""

    def log_message(self, *values) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        reply = json.dumps(getattr(self, self.path[1:])(body)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def torchserve(self, body):
        """A picture alone; its scores by name."""
        assert self.headers["Content-Type"] == "image/png"
        p = score(picture(body))
        return {"dog": 1 - p, "cat": p}

    def form(self, body):
        """A picture in a form, as of FastAPI's UploadFile."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = email.message_from_bytes(head + body).get_payload()
        assert 'name="image"; filename="probe.png"' in part["Content-Disposition"]
        p = score(picture(part.get_payload(decode=True)))
        return {"result": [{"label": "cat", "score": p}, {"label": "dog", "score": 1 - p}]}

    def tf_serving(self, body):
        """Pictures in base64, each in an object."""
        scores = [score(picture(base64.b64decode(row))) for row in json.loads(body)["instances"]]
        return {"predictions": [[p, 1 - p] for p in scores]}

    def huggingface(self, body):
        """One picture a request."""
        p = score(picture(base64.b64decode(json.loads(body)["inputs"])))
        return [{"label": "dog", "score": 1 - p}, {"label": "cat", "score": p}]

    def openai(self, body):
        """A picture as a data: URL, and the probabilities of the first token."""
        (message,) = json.loads(body)["messages"]
        url = message["content"][1]["image_url"]["url"]
        p = score(picture(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        top = [{"token": "cat", "logprob": np.log(p)}, {"token": "dog", "logprob": np.log(1 - p)}]
        return {"choices": [{"logprobs": {"content": [{"token": "cat", "top_logprobs": top}]}}]}

    def whole(self, body):
        """Bytes as whole numbers, with a field of its own."""
        body = json.loads(body)
        assert body["model"] == "m"
        return {"data": [{"probs": [score(row), 1 - score(row)]} for row in body["input"]]}


@pytest.fixture(scope="module")
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


CHAT = json.dumps({
    "model": "m", "logprobs": True, "top_logprobs": 20,
    "messages": [{"role": "user", "content": [
        {"type": "text", "text": "cat or dog?"},
        {"type": "image_url", "image_url": {"url": "{data_url}"}},
    ]}],
})  # fmt: skip


@pytest.mark.parametrize(
    ("path", "options", "requests"),
    [
        ("torchserve", {"encoding": "file", "answer": ""}, 4),
        ("form", {"encoding": "multipart", "request": "image", "answer": "result"}, 4),
        ("tf_serving", {"encoding": "base64"}, 2),
        ("huggingface", {"encoding": "base64", "body": '{"inputs": "{input}"}', "answer": ""}, 4),
        ("openai", {"body": CHAT, "answer": "choices.0.logprobs.content.0.top_logprobs"}, 4),
        (
            "whole",
            {
                "encoding": "bytes",
                "body": '{"model": "m", "input": "{inputs}"}',
                "answer": "data.*.probs",
            },
            2,
        ),
    ],
)
def test_servers_are_asked_and_read_as_they_are(url, path, options, requests):
    endpoint = Endpoint(f"{url}/{path}", protocol="json", **options)
    expected = [score(row) for row in PICTURES]
    answers = endpoint.ask(PICTURES, Classes(2, NAMES))
    np.testing.assert_allclose(answers[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(answers.sum(1), 1, rtol=1e-5)
    assert endpoint.requests_sent == requests  # the first of them twice
    assert endpoint.changed == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "jpeg"}, "--encoding=jpeg: numbers, bytes, base64, multipart, file"),
        ({"template": "{"}, "--body: it is no JSON"),
        ({"template": '{"a": 1}'}, r'--body: "\{inputs\}", "\{input\}" or \{data_url\} is needed'),
    ],
)
def test_bodies_that_cannot_be_made_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Bodies(**options)
    with pytest.raises(InputError, match="are no pictures: --encoding=numbers is right"):
        Bodies(encoding="file").make(torch.rand(1, 3))
