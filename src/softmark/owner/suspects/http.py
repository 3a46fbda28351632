"""An HTTP client that counts what it sends, keeps to a rate and a budget, and retries failures."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from urllib3 import Retry
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError

from softmark.errors import InputError
from softmark.owner.suspects.bodies import Encoded
from softmark.owner.suspects.raw_tensors import LENGTH_HEADER, split_json

# Seconds: the first retry comes at once, the second after twice that, the third after four times.
BACKOFF = 0.5
MAX_RETRY_AFTER = 600  # seconds that a server may ask for with Retry-After
MAX_EXCERPT = 200  # characters of a reply that a message quotes
# Of a reply; parsed it takes up to 25 times as much. 32 rows of 10,000 classes have 7 MB.
MAX_REPLY_BYTES = 2**24
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class HttpClient:
    """Send JSON requests, no faster than a rate and within a budget of inputs; retry failures.

    Args:
        headers: sent with each request; no message shows their values. Printable ASCII.
        rate: requests per second at most; None for no limit.
        budget: inputs that may be sent in all, retries included; None for no limit.
        timeout: seconds per request.
        retries: how often a request is sent again, after the first time.
        query: what follows ? in each address that requests go to; no message shows it.

    Attributes:
        inputs_sent: inputs sent so far. Those of a retry count again: they may be charged for.
        requests_sent: requests sent so far, retries included.

    Raises:
        InputError: for a header that HTTP can't carry.

    Example:
        >>> client = HttpClient({}, rate=None, budget=10, timeout=30.0, retries=4)
        >>> client.check_budget(10)
        >>> client.inputs_sent, client.requests_sent
        (0, 0)
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        rate: float | None,
        budget: int | None,
        timeout: float,
        retries: int,
        query: str = "",
    ):
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name):
                raise InputError(
                    "a header's name isn't one of HTTP's; it isn't shown, as it may hold a secret"
                )
            if not (value.isascii() and value.isprintable()):
                raise InputError(f"the header {name}: printable ASCII characters are needed")
        self.headers, self.budget, self.timeout, self.retries = headers, budget, timeout, retries
        self.query = query
        self.inputs_sent = self.requests_sent = 0
        self._interval = 1 / rate if rate else 0.0
        self._next_start = 0.0  # when the next request may be sent, of time.monotonic()
        self._session = requests.Session()
        # Else a password in ~/.netrc would take the place of a header.
        self._session.auth = lambda request: request

    def check_budget(self, inputs: int) -> None:
        """Raise ``InputError`` if ``inputs`` more would exceed the budget."""
        if self.budget is not None and self.inputs_sent + inputs > self.budget:
            raise InputError(
                f"--budget={self.budget}: {self.inputs_sent} inputs were sent so far, retries "
                f"included, and {inputs} more are needed: "
                f"--budget={self.inputs_sent + inputs} at least"
            )

    def send(
        self,
        method: str,
        url: str,
        body: Any = None,
        inputs: int = 0,
        absent_statuses: tuple[int, ...] = (),
    ) -> Any:
        """Send one request, with retries, and return the parsed JSON of the reply.

        Args:
            method: GET or POST.
            url: where to.
            body: plain containers, sent as JSON, or ``Encoded``; None for no body.
            inputs: how many inputs ``body`` holds, for the budget.
            absent_statuses: HTTP statuses for which None is returned.

        Raises:
            InputError: at once for a status below 500 other than 429 and for a reply that isn't
                JSON; for anything else after the last retry.
        """
        if body is not None and not isinstance(body, Encoded):
            body = Encoded(json.dumps(body).encode(), "application/json")
        retry_policy = Retry(self.retries, backoff_factor=BACKOFF)
        for retries_left in reversed(range(self.retries + 1)):
            self.check_budget(inputs)
            time.sleep(max(0.0, self._next_start - time.monotonic()))
            self._next_start = time.monotonic() + self._interval
            self.inputs_sent += inputs
            self.requests_sent += 1
            response, text, failure = self._try_once(method, url, body)
            if response is not None:
                status = response.status_code
                if status in absent_statuses:
                    return None
                if status != 429 and status < 500:
                    return self._parse(url, response, text)
                failure = f"answers {status}: {self._excerpt(text)}"
            if retries_left:
                retry_policy = retry_policy.increment(method, url)
                self._wait(retry_policy, url, response)
        raise InputError(f"{url} {failure} ({self.retries + 1} tries)")

    def _try_once(
        self, method: str, url: str, body: Encoded | None
    ) -> tuple[requests.Response | None, bytes, str]:
        """Return the response, its body and ""; or None, b"" and what went wrong."""
        end = time.monotonic() + self.timeout
        own = {"Content-Type": body.content_type if body else "application/json"}
        own |= body.headers if body else {}
        try:
            with self._session.request(
                method,
                f"{url}?{self.query}" if self.query else url,
                data=body.content if body else None,
                headers={**own, **self.headers},
                timeout=self.timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                text = bytearray()
                # requests' timeout starts anew with each byte that comes.
                while part := response.raw.read1(2**16, decode_content=True):
                    text += part
                    if len(text) > MAX_REPLY_BYTES:
                        raise InputError(
                            f"{url} answers more than {MAX_REPLY_BYTES:,} bytes: no reply is that "
                            "long, or a smaller --batch-size is needed"
                        )
                    if time.monotonic() > end:
                        raise requests.Timeout
                return response, bytes(text), ""
        except (requests.Timeout, ReadTimeoutError):
            return None, b"", f"gives no answer within {self.timeout:g} s"
        except InputError:
            raise
        except (OSError, ValueError, HTTPError) as error:
            return None, b"", f"can't be asked: {self._excerpt(_cause(error).encode())}"

    def _parse(self, url: str, response: requests.Response, text: bytes) -> Any:
        status = response.status_code
        if 300 <= status < 400:
            location = self._excerpt(response.headers.get("Location", "nowhere").encode())
            raise InputError(
                f"{url} answers {status} and points to {location}: redirects aren't followed, "
                "since inputs and headers would go to another server; --url must name the right "
                "address"
            )
        if status >= 400:
            raise InputError(f"{url} answers {status}: {self._excerpt(text)}")
        try:
            if length := response.headers.get(LENGTH_HEADER):
                return split_json(text, length, url)
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{url} answers no JSON: {self._excerpt(text)}") from error

    def _wait(self, retry_policy: Retry, url: str, response: requests.Response | None) -> None:
        """Wait as long as the server asks for, else longer with each retry."""
        try:
            seconds = None if response is None else retry_policy.get_retry_after(response.raw)
        except InvalidHeader:
            seconds = None
        if seconds and seconds > MAX_RETRY_AFTER:
            header = self._excerpt(response.headers["Retry-After"].encode())
            raise InputError(
                f"{url} answers {response.status_code} with Retry-After: {header}; softmark waits "
                f"for {MAX_RETRY_AFTER} s at most"
            )
        if seconds:
            time.sleep(seconds)
        else:
            retry_policy.sleep()

    def _excerpt(self, text: bytes) -> str:
        """Return the beginning of ``text``, on one line, without secrets."""
        shown = text.decode(errors="replace")
        values = [part.partition("=")[2] for part in self.query.split("&")]
        for value in (*self.headers.values(), *values, *map(unquote, values)):
            for word in (value, *value.split()):
                # A word of three letters is no secret, and may stand in any text.
                shown = shown.replace(word, "***") if len(word) > 3 else shown
        shown = "".join(c if c.isprintable() else " " for c in shown)
        return " ".join(shown.split())[:MAX_EXCERPT] or "nothing"


def checked_url(url: str) -> str:
    """Return ``url``. Raise ``InputError`` if no request can be sent there, or if it holds a name.

    A URL is shown in messages and in evidence; a name or password belongs into a header.
    """
    has_name = valid = False
    with contextlib.suppress(OSError, ValueError):
        has_name = urlsplit(url).username is not None
        requests.Request("GET", url).prepare()
        valid = url.lower().startswith(("http://", "https://"))
    if has_name:
        raise InputError(
            "--url holds a name or password, and URLs are shown: send them in a header instead"
        )
    if not valid:
        raise InputError(f"--url={url.partition('?')[0]}: http://HOST or https://HOST is needed")
    return url


def _cause(error: BaseException) -> str:
    """Return the message of the innermost of the errors that libraries have wrapped."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
