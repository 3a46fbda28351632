"""The Open Inference Protocol over gRPC, counted and retried as over HTTP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from softmark.errors import InputError
from softmark.owner.suspects.bodies import Encoded
from softmark.owner.suspects.http import MAX_REPLY_BYTES, HttpClient
from softmark.owner.suspects.raw_tensors import read_inferred, read_metadata

SERVICE = "/inference.GRPCInferenceService/"
AGAIN = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED")  # is asked again
ABSENT = ("NOT_FOUND", "UNIMPLEMENTED")


class GrpcClient(HttpClient):
    """Send messages of Protocol Buffers; needs ``pip install 'softmark[grpc]'``.

    Args:
        address: ``grpc://HOST:PORT``, or ``grpcs://`` for TLS.
        limits: headers, rate, budget, timeout and retries, as for ``HttpClient``.

    Raises:
        InputError: where grpcio isn't installed, and for an address of another form.
    """

    def __init__(self, address: str, *limits: Any):
        super().__init__(*limits)
        parts = urlsplit(address)
        if parts.scheme not in ("grpc", "grpcs") or "@" in address or not parts.netloc:
            raise InputError("--url: --protocol=grpc needs grpc://HOST:PORT or grpcs://HOST:PORT")
        try:
            import grpc
        except ImportError as error:
            raise InputError(
                "--protocol=grpc needs grpcio: pip install 'softmark[grpc]'"
            ) from error
        self._error = grpc.RpcError
        options = [("grpc.max_receive_message_length", MAX_REPLY_BYTES), ("grpc.enable_retries", 0)]
        if parts.scheme == "grpcs":
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(parts.netloc, credentials, options)
        else:
            self._channel = grpc.insecure_channel(parts.netloc, options)

    def _try_once(self, method: str, url: str, body: Encoded | None) -> tuple[Any, bytes, str]:
        """Call ``ModelMetadata`` (GET) or ``ModelInfer`` (POST)."""
        call = "ModelMetadata" if method == "GET" else "ModelInfer"
        metadata = [(name.lower(), value) for name, value in self.headers.items()]
        try:
            ask = self._channel.unary_unary(SERVICE + call)
            message = ask(body.content, timeout=self.timeout, metadata=metadata)
        except self._error as error:
            status = error.code().name
            said = f"{status}: {self._excerpt(str(error.details()).encode())}"
            if status in AGAIN:
                return None, b"", f"answers {said}"
            if status in ABSENT and method == "GET":
                return SimpleNamespace(status_code=404), b"", ""
            raise InputError(f"{url} answers {said}") from None
        read = read_metadata if method == "GET" else read_inferred
        return SimpleNamespace(status_code=200, read=read), message, ""

    def _parse(self, url: str, response: Any, text: bytes) -> Any:
        if response.status_code != 200:
            raise InputError(f"{url} has no such model, or doesn't speak the protocol")
        return response.read(text, url)
