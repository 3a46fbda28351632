"""HTTP requests that count, wait, and are tried again: what an endpoint is asked with."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3 import Retry
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError

from softmark.errors import InputError

BACKOFF = (
    0.5  # seconds: the first retry comes at once, the second after twice that, then four times
)
LONGEST = 600  # seconds that a server may ask for with Retry-After


class HttpClient:
    """Sends requests: no faster than ``rate``, no more inputs than ``budget``, again if need be.

    ``headers`` go with each; no message shows what they hold. ``rate``: requests a second.
    ``timeout``: seconds a request. ``asked``: inputs sent so far, ``tried``: requests sent so far;
    one that is tried again counts again in both, since it may be charged for.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        rate: float | None,
        budget: int | None,
        timeout: float,
        retries: int,
    ):
        for name, value in headers.items():
            if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
                raise InputError(f"the header {name!a}: printable ASCII characters are needed")
        self.headers, self.budget, self.timeout, self.retries = headers, budget, timeout, retries
        self.asked = self.tried = 0
        self._pause = 1 / rate if rate else 0.0
        self._free = 0.0  # when the next request may be sent
        self._session = requests.Session()
        # Else a password in ~/.netrc would take the place of a header.
        self._session.auth = lambda request: request

    def afford(self, inputs: int) -> None:
        """Raises ``InputError`` where the budget doesn't reach for so many more."""
        if self.budget is not None and self.asked + inputs > self.budget:
            raise InputError(
                f"--budget={self.budget}: {self.asked} inputs were sent so far, retries included, "
                f"and {inputs} more are needed: --budget={self.asked + inputs} at least"
            )

    def send(
        self, method: str, url: str, body: Any = None, inputs: int = 0, absent: tuple[int, ...] = ()
    ) -> Any:
        """The JSON that comes back; None for a status among ``absent``.

        ``inputs``: how many of them ``body`` holds. Raises ``InputError``, at once for a status
        below 500 other than 429 and for what is no JSON, else when no try is left.
        """
        data = None if body is None else json.dumps(body)
        policy = Retry(self.retries, backoff_factor=BACKOFF)
        for left in reversed(range(self.retries + 1)):
            self.afford(inputs)
            time.sleep(max(0.0, self._free - time.monotonic()))
            self._free = time.monotonic() + self._pause
            self.asked, self.tried = self.asked + inputs, self.tried + 1
            response, text, failure = self._once(method, url, data)
            if response is not None:
                status = response.status_code
                if status in absent:
                    return None
                if status != 429 and status < 500:
                    return self._read(url, response, text)
                failure = f"answers {status}: {self._excerpt(text)}"
            if left:
                policy = policy.increment(method, url)
                self._rest(policy, url, response)
        raise InputError(f"{url} {failure} ({self.retries + 1} tries)")

    def _once(
        self, method: str, url: str, data: str | None
    ) -> tuple[requests.Response | None, bytes, str]:
        """The response and its body; None and what went wrong where there is no whole one."""
        end = time.monotonic() + self.timeout
        try:
            with self._session.request(
                method,
                url,
                data=data,
                headers={"Content-Type": "application/json", **self.headers},
                timeout=self.timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                text = bytearray()
                # requests' timeout starts anew with each byte that comes.
                while part := response.raw.read1(2**16, decode_content=True):
                    text += part
                    if time.monotonic() > end:
                        raise requests.Timeout
                return response, bytes(text), ""
        except (requests.Timeout, ReadTimeoutError):
            return None, b"", f"gives no answer within {self.timeout:g} s"
        except (OSError, ValueError, HTTPError) as error:
            return None, b"", f"can't be asked: {self._excerpt(_cause(error).encode())}"

    def _read(self, url: str, response: requests.Response, text: bytes) -> Any:
        status = response.status_code
        if 300 <= status < 400:
            there = self._excerpt(response.headers.get("Location", "nowhere").encode())
            raise InputError(
                f"{url} answers {status} and points to {there}: that isn't followed, since inputs "
                "and headers would go elsewhere; --url is to name the right address"
            )
        if status >= 400:
            raise InputError(f"{url} answers {status}: {self._excerpt(text)}")
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{url} answers no JSON: {self._excerpt(text)}") from error

    def _rest(self, policy: Retry, url: str, response: requests.Response | None) -> None:
        """Waits as long as the server asks for, else longer with each try."""
        try:
            wait = None if response is None else policy.get_retry_after(response.raw)
        except InvalidHeader:
            wait = None
        if wait and wait > LONGEST:
            asks = self._excerpt(response.headers["Retry-After"].encode())
            raise InputError(
                f"{url} answers {response.status_code} with Retry-After: {asks}; more than "
                f"{LONGEST} s are not waited for"
            )
        if wait:
            time.sleep(wait)
        else:
            policy.sleep()

    def _excerpt(self, text: bytes) -> str:
        """The first 200 characters, on one line, without what the headers hold."""
        shown = text.decode(errors="replace")
        for value in self.headers.values():
            for word in (value, *value.split()):
                # A word of three letters is no secret, and may stand in any text.
                shown = shown.replace(word, "***") if len(word) > 3 else shown
        shown = "".join(c if c.isprintable() else " " for c in shown)
        return " ".join(shown.split())[:200] or "nothing"


def address(url: str) -> str:
    """``url``, if a request can be sent there."""
    secret = good = False
    with contextlib.suppress(OSError, ValueError):
        secret = urlsplit(url).username is not None
        requests.Request("GET", url).prepare()
        good = url.lower().startswith(("http://", "https://"))
    if secret:
        raise InputError("--url holds a name or password and would be shown: a header is not")
    if not good:
        raise InputError(f"--url={url}: http://HOST or https://HOST is needed")
    return url


def _cause(error: BaseException) -> str:
    """The innermost of the errors that libraries have wrapped, in words."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
