"""Programs that read a page's server, as a browser does: whole answers, and the stream of news."""

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any, Self

WAIT_S = 20.0
"""Longer than anything takes on a busy machine."""


def get(port: int, path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """A whole answer; its body can still be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    answer.body = answer.read().decode()  # type: ignore[attr-defined]
    connection.close()
    return answer


def body(answer: http.client.HTTPResponse) -> str:
    """What `get` has read."""
    return str(answer.body)  # type: ignore[attr-defined]


class Listener:
    """An open page."""

    def __init__(self, port: int, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        self._connection.request("GET", "/events", headers=headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def events(self) -> Iterator[tuple[str, Any]]:
        """Name and data of each event, to the stream's end."""
        name = ""
        while line := self._answer.readline().decode().rstrip("\n"):
            name = line.removeprefix("event: ")
            data = self._answer.readline().decode().removeprefix("data: ")
            assert self._answer.readline() == b"\n"
            yield name, json.loads(data)

    def until(self, name: str) -> Any:
        """The data of the next event of that name."""
        return next(data for seen, data in self.events() if seen == name)

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(condition: Any) -> None:
    """Wait for what happens in another thread."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
