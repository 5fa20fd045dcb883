"""What the page's server answers: the page and its parts, the stream of news, and the figures for programs."""

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from penstock.telemetry.dashboard.board import MAX_LISTENERS, Board

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Of the files of the page; others are not served."""
Answer = Callable[[Request], Awaitable[Response]]


def make_application(board: Board) -> Starlette:
    """Answers GET and nothing else: nothing here changes anything."""

    async def events(request: Request) -> Response:
        if board.num_listeners >= MAX_LISTENERS:
            return PlainTextResponse(f"{MAX_LISTENERS} pages are open already; close one.\n", 503)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return StreamingResponse(board.listen(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def now(request: Request) -> Response:
        return Response(board.now() or "null", media_type="application/json")

    routes = [Route("/events", events, methods=["GET"]), Route("/view.json", now, methods=["GET"])]
    for path, (content, media_type) in static_files().items():
        routes.append(Route("/" if path == "index.html" else f"/{path}", _file(content, media_type), methods=["GET"]))
    return Starlette(routes=routes)


def static_files() -> Mapping[str, tuple[bytes, str]]:
    """The files of the page by path, each with its media type. They are read once: a path is never looked up."""
    found: dict[str, tuple[bytes, str]] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            elif media_type := _TYPES.get(f".{entry.name.rpartition('.')[2]}"):
                found[prefix + entry.name] = entry.read_bytes(), media_type

    collect(files("penstock.telemetry.dashboard") / "static", "")
    return found


def _file(content: bytes, media_type: str) -> Answer:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer
