"""An OpenAI-compatible endpoint for tests: a real HTTP server that answers as a script says."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    content: Any


Reply = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class ChatServer:
    """What was asked, and where."""

    url: str
    requests: list[Request] = field(default_factory=list)


def body(handler: BaseHTTPRequestHandler, status: int, data: bytes, **headers: str) -> None:
    """Send a whole reply."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def says(text: str, **choice: Any) -> Reply:
    """A completion with this content; `choice` overrides its fields."""
    message = {"role": "assistant", "content": text}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"} | choice]}
    return lambda handler: body(handler, 200, json.dumps(reply).encode())


def prompts(*pairs: tuple[str, str]) -> Reply:
    """A completion with (concept, prompt) pairs in the form that is asked for."""
    return says(json.dumps({"prompts": [{"concept": concept, "prompt": prompt} for concept, prompt in pairs]}))


def fails(status: int, message: str = "", **headers: str) -> Reply:
    """An error in OpenAI's form."""
    return lambda handler: body(handler, status, json.dumps({"error": {"message": message}}).encode(), **headers)


@contextmanager
def serve(replies: Sequence[Reply], models: Sequence[str] = ("tiny",)) -> Iterator[ChatServer]:
    """A server that gives the replies in turn, the last one for ever."""
    script = list(replies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(Request("GET", self.path, dict(self.headers), None))
            body(self, 200, json.dumps({"data": [{"id": name} for name in models]}).encode())

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(Request("POST", self.path, dict(self.headers), content))
            reply = script.pop(0) if len(script) > 1 else script[0]
            try:
                reply(self)
            except OSError:  # the client has had enough
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server = ChatServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join(timeout=5)
