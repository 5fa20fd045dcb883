"""Who may read the page, and what a browser may do with it.

The page shows prompts and images. On this machine alone it needs no password, but a web site that a user happens to
visit must not read it through the user's own browser: therefore the host that a request names must be this machine
(else a site could point its own name here, known as DNS rebinding), and requests of other sites are refused. Beyond
this machine, or where the user sets one, a token is asked for: once in the address, then by a cookie.
"""

import secrets
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.config.access import brings, check_token
from penstock.config.address import Address

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""
TOKEN = "PENSTOCK_DASHBOARD_TOKEN"
"""Of the environment, for who wants to choose the token."""
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}


def choose_token(address: Address, environ: Mapping[str, str]) -> str | None:
    """The token that readers must bring: the one that the environment names, else a new one beyond this machine.

    Raises ConfigError where the environment's is too short to keep anybody out, or no address can carry it.
    """
    if token := environ.get(TOKEN, ""):
        return check_token(token, TOKEN)
    return None if address.is_loopback else secrets.token_urlsafe(24)


class Guard:
    """Lets pass what may, in front of `app`.

    Args:
        app: what answers.
        token: that is asked for; None where everyone on this machine may read.
        cookie: name of the cookie that keeps it.
        url: of this server; its host may be named beside `LOOPBACK_NAMES`.
    """

    def __init__(self, app: ASGIApp, token: str | None, cookie: str, url: str) -> None:
        self._app = app
        self._token = token
        self._cookie = cookie
        self._names = {*LOOPBACK_NAMES, _host(url.removeprefix("http://"))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let `app` do so."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} connections here")
        answer = self._refuse_stranger(Headers(scope=scope)) or self._ask_for_token(scope)
        await (answer or self._app)(scope, receive, send_guarded)

    def _refuse_stranger(self, headers: Headers) -> Response | None:
        """Refuse what comes from another site."""
        if self._token is None and _host(headers.get("host", "")) not in self._names:
            return PlainTextResponse("This page is for this machine: open it as http://localhost.\n", 421)
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
        is_link = mode == "navigate" and headers.get("sec-fetch-dest", "document") == "document"  # no frame
        if site in ("cross-site", "same-site") and not is_link:
            return PlainTextResponse("Not for other sites.\n", 403)
        return None

    def _ask_for_token(self, scope: Scope) -> Response | None:
        """Refuse who has no token; who brings it in the address gets a cookie, and an address without it."""
        if self._token is None:
            return None
        headers = Headers(scope=scope)
        brought = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._is_right(brought):
            # Relative, for whoever reaches us through a proxy under a path of its own.
            answer = RedirectResponse("./", status_code=303)
            answer.set_cookie(self._cookie, brought, httponly=True, samesite="lax")
            return answer
        kept = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        if self._is_right(kept) or brings(headers.get("authorization", ""), self._token):
            return None
        return PlainTextResponse("This page wants its token: open the address in the trainer's log.\n", 401)

    def _is_right(self, token: str) -> bool:
        return bool(self._token) and secrets.compare_digest(token.encode(), (self._token or "").encode())


def _host(header: str) -> str:
    """The host that a request names, without the port."""
    name, colon, port = header.lower().rpartition(":")
    return name if colon and port.isdigit() else header.lower()
