"""A client of any OpenAI-compatible endpoint: one question, one answer, and every wait bounded.

Nothing but the standard library. The key goes to the host that the user named and nowhere else: a redirect is not
followed, and no message that a server sends back is shown with the key in it.
"""

import email.utils
import http.client
import json
import logging
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from penstock.config.process import printable
from penstock.protocol.errors import ConfigError, EndpointError

_log = logging.getLogger(__name__)

URL, KEY, MODELS = "OPENAI_BASE_URL", "OPENAI_API_KEY", ("PENSTOCK_ASK_MODEL", "OPENAI_MODEL")
"""Names in the environment."""
MAX_BODY_BYTES = 4 << 20
"""Bytes of one answer; a hundred prompts are some ten thousand."""
_MAX_ATTEMPTS = 5
"""Times that a request is sent before the endpoint counts as down."""
_LONGEST_WAIT_S = 60.0
"""Before a request is sent again, whatever Retry-After says."""
_CONNECT_S = 15.0
_MAX_SHOWN = 300
"""Characters of a server's text in a message."""
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class UnavailableError(EndpointError):
    """An endpoint that stays down, or for which no time or no request is left; what it has said so far holds."""


class RefusedError(EndpointError):
    """An endpoint's, or its model's, refusal: to ask again would not help."""


@dataclass(slots=True)
class Budget:
    """What all requests together may cost."""

    num_requests: int
    """Still to be sent, repeated ones included."""
    deadline: float
    """On the clock of `monotonic`."""
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def spend(self) -> None:
        """Count a request. Raises UnavailableError where none is left."""
        if self.num_requests <= 0:
            raise UnavailableError("all requests of prompts.ask_requests are spent")
        if self.left_s <= 0:
            raise UnavailableError("the time for asking is over")
        self.num_requests -= 1

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.monotonic()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says."""

    text: str
    cut: bool
    """Whether it ends where the endpoint's limit is."""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(slots=True)
class ChatEndpoint:
    """An endpoint, and a model behind it.

    Attributes:
        url: such as `http://localhost:8000/v1`, without a slash at its end.
        key: sent as a bearer token; may be empty.
        model: its name there; empty until `find_model`.
        request_s: seconds that one request may take in all.
    """

    url: str
    key: str = field(repr=False)
    model: str = ""
    request_s: float = 120.0
    _asks_for_json: bool = True

    def find_model(self, budget: Budget) -> None:
        """Take the endpoint's only model where none is named. Raises ConfigError where it has several or none."""
        if self.model:
            return
        reply = self._json(self._send("GET", "/models", None, budget))
        names = [str(entry.get("id")) for entry in _dicts(reply.get("data"))]
        if len(names) != 1:
            shown = f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "names none"
            raise ConfigError(f"{MODELS[0]} is not set: name a model of {self.url} ({self._clean(shown)})")
        self.model = names[0]

    def ask(self, system: str, user: str, budget: Budget) -> Answer:
        """The model's answer, JSON where the endpoint can be asked for it.

        Raises:
            RefusedError: the model or the endpoint refuses.
            UnavailableError: the endpoint is down, or the budget is spent.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        request: dict[str, Any] = {"model": self.model, "messages": messages}
        if self._asks_for_json:
            try:
                form = {"response_format": {"type": "json_object"}}
                return self._answer(self._send("POST", "/chat/completions", request | form, budget))
            except _FormatError:
                self._asks_for_json = False
        return self._answer(self._send("POST", "/chat/completions", request, budget))

    # --- one request, sent until it is answered -----------------------------------------------------------------------

    def _send(self, method: str, path: str, content: dict[str, Any] | None, budget: Budget) -> bytes:
        """The body of the answer; sent again, ever later, where the trouble may pass."""
        body = None if content is None else json.dumps(content).encode()
        trouble = ""
        for attempt in range(_MAX_ATTEMPTS):
            budget.spend()
            wait_s = min(2.0**attempt, _LONGEST_WAIT_S)
            try:
                reply = self._exchange(method, path, body, min(self.request_s, budget.left_s))
            except ssl.SSLCertVerificationError as error:
                raise RefusedError(f"{self.url}: its certificate is not trusted: {error.verify_message}") from error
            except (OSError, http.client.HTTPException) as error:
                trouble = _why(error)
            else:
                if reply.status == 200 and _is_json_object(reply.body):
                    return reply.body
                trouble = self._trouble(reply, content)
                wait_s = min(_retry_after(reply.headers, wait_s), _LONGEST_WAIT_S)
            if attempt + 1 == _MAX_ATTEMPTS:
                break
            if wait_s > budget.left_s:
                raise UnavailableError(f"{self.url}: {self._clean(trouble)}; the time for asking is over")
            _log.warning("%s: %s; asking again in %.0f s", self.url, self._clean(trouble), wait_s)
            budget.sleep(wait_s)
        raise UnavailableError(f"{self.url}: {self._clean(trouble)}, {_MAX_ATTEMPTS} times")

    def _trouble(self, reply: _Reply, content: dict[str, Any] | None) -> str:
        """What is wrong with a reply, where it may pass. Raises where it will not."""
        said = self._clean(_message(reply.body))
        if reply.status == 200:
            return f"answers with something that is no JSON object: {said}"
        if reply.status in _TRANSIENT:
            return f"answers {reply.status}: {said}" if said else f"answers {reply.status}"
        if 300 <= reply.status < 400:
            target = self._clean(reply.headers.get("Location", "nowhere"))
            raise RefusedError(f"{self.url} redirects to {target}; set {URL} to where the endpoint is")
        if reply.status in (400, 422) and content and "response_format" in content:
            raise _FormatError
        hint = f"; is {KEY} right?" if reply.status in (401, 403) else f"; is {URL} right?" * (reply.status == 404)
        raise RefusedError(f"{self.url} answers {reply.status}: {said or 'no reason'}{hint}")

    def _exchange(self, method: str, path: str, body: bytes | None, limit_s: float) -> _Reply:
        """Send one request and read the reply within `limit_s` seconds, however slowly it drips."""
        parts = urlsplit(self.url)
        connection, target = _connect(parts, f"{parts.path}{path}", min(limit_s, _CONNECT_S))
        headers = {"Accept": "application/json", "User-Agent": "penstock"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        held: list[socket.socket] = []
        late = threading.Event()
        # A socket's own timeout begins anew with every byte.
        timer = threading.Timer(limit_s, _cut_off, (connection, held, late))
        timer.daemon = True
        timer.start()
        try:
            connection.connect()
            connection.sock.settimeout(limit_s)
            held.append(connection.sock)
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            reply = _Reply(response.status, response.headers, response.read(MAX_BODY_BYTES + 1))
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
            connection.close()
        if late.is_set():
            raise TimeoutError
        if len(reply.body) > MAX_BODY_BYTES:
            raise RefusedError(f"{self.url} answers with more than {MAX_BODY_BYTES >> 20} MiB; is {URL} right?")
        return reply

    # --- what it says -------------------------------------------------------------------------------------------------

    def _answer(self, body: bytes) -> Answer:
        reply = self._json(body)
        choice = next(iter(_dicts(reply.get("choices"))), {})
        message = next(iter(_dicts([choice.get("message")])), {})
        if refusal := message.get("refusal"):
            raise RefusedError(f"{self.model} refuses: {self._clean(str(refusal))}")
        if choice.get("finish_reason") == "content_filter":
            raise RefusedError(f"{self.model} refuses: the endpoint's content filter stopped its answer")
        text = message.get("content")
        return Answer(text if isinstance(text, str) else "", choice.get("finish_reason") == "length")

    def _json(self, body: bytes) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(body)
        return reply

    def _clean(self, text: str) -> str:
        """A server's words on one line, cut, and without the key."""
        text = text.replace(self.key, "(the key)") if self.key else text
        text = printable(" ".join(text.split()))
        return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


class _FormatError(Exception):
    """The endpoint may know no response_format."""


def from_environment(environ: Mapping[str, str]) -> ChatEndpoint | None:
    """The endpoint that the environment names, or None. Raises ConfigError where it cannot be one."""
    url = environ.get(URL, "").strip().rstrip("/")
    if not url:
        return None
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    # Before a message that shows the address: what stands before an @, or behind a question mark, may be secret.
    if "@" in url:
        raise ConfigError(f"{URL} must hold no user and no password; put the key into {KEY}")
    if not usable or not url.isascii() or not url.isprintable() or " " in url or parts.query or parts.fragment:
        shown = url.partition("?")[0]
        raise ConfigError(f"{URL} must be such as http://localhost:8000/v1, with nothing behind it, got {shown!r}")
    key = environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{KEY} holds a character that no key has; copy it again")
    model = next((environ[name].strip() for name in MODELS if environ.get(name, "").strip()), "")
    return ChatEndpoint(url, key, model)


def _connect(parts: SplitResult, path: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection, through a proxy where the environment names one, and what to ask it for. Raises ConfigError."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    if not proxy or urllib.request.proxy_bypass(host):
        return _open(host, parts.port, secure, timeout_s), path
    via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    try:
        place = (via.hostname or "", via.port)
    except ValueError as error:
        raise ConfigError(
            f"{parts.scheme}_proxy in the environment names no port ({error}); mend or unset it"
        ) from error
    if not secure:
        return _open(*place, False, timeout_s), f"http://{parts.netloc}{path}"
    connection = _open(*place, True, timeout_s)
    connection.set_tunnel(host, parts.port or 443)
    return connection, path


def _open(host: str, port: int | None, secure: bool, timeout_s: float) -> http.client.HTTPConnection:
    if secure:
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout_s)


def _cut_off(connection: http.client.HTTPConnection, held: Sequence[socket.socket], late: threading.Event) -> None:
    """End whatever waits for the connection, which forgets its socket once a reply has begun."""
    late.set()
    for sock in {connection.sock, *held} - {None}:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended by itself
            continue


def _why(error: OSError | http.client.HTTPException) -> str:
    """What went wrong on the way, in a user's words."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.IncompleteRead):
        return "breaks off in the middle of an answer"
    return str(error) or type(error).__name__


def _retry_after(headers: http.client.HTTPMessage, otherwise_s: float) -> float:
    """Seconds that a reply asks to wait, by a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return otherwise_s
    return max(0.0, at.timestamp() - time.time())


def _message(body: bytes) -> str:
    """The reason in an error's body: `{"error": {"message": ...}}`, its like, or the text itself."""
    text = body[:4096].decode(errors="replace")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "detail", "message"):
        inner = value.get(name) if isinstance(value, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            return str(inner["message"])
        if isinstance(inner, str):
            return inner
    return text


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _dicts(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
