"""The page's server: what it tells, whom, and how it ends."""

import contextlib
import http.client
import logging
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import psutil
import pytest

from penstock.config.address import Address
from penstock.protocol.errors import EndpointError, RunError
from penstock.telemetry.dashboard import connection as connection_module
from penstock.telemetry.dashboard.application import static_files
from penstock.telemetry.dashboard.board import MAX_LISTENERS
from penstock.telemetry.dashboard.connection import MAX_CONNECTIONS, MAX_FROM_ONE_HOST
from penstock.telemetry.dashboard.server import Dashboard
from penstock.telemetry.run_view import EventView, GroupView, RunView
from tests.outer_host import outer_host
from tests.telemetry.dashboard.listeners import WAIT_S, Listener, body, get, until
from tests.telemetry.views import FakeRun, group, run_view

Serve = Callable[..., Dashboard]
LOOPBACK = Address("127.0.0.1", 0)
CLOSED_S = 3.5
"""In which a server must have ended, whoever listens, on a busy machine."""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that looks often."""
    servers: list[Dashboard] = []

    def start(source: Callable[[], RunView] | None = None, token: str | None = None, pace_s: float = 0.02) -> Dashboard:
        servers.append(Dashboard(LOOPBACK, token, every_s=0.02, group_every_s=pace_s))
        if source:
            servers[-1].show(source)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_page_that_is_opened_is_told_all_there_is(serve: Serve) -> None:
    run = FakeRun(run_view(340))
    with Listener(serve(run).address.port) as page:
        told = dict(zip(range(5), page.events(), strict=False))
    names = [name for name, _ in told.values()]
    assert names == ["hello", "figures", "rates", "learning", "groups"]
    assert told[1][1]["step"] == 340
    assert told[2][1]["made_per_s"][-1] == pytest.approx(run.now.made_per_s, rel=1e-5)
    assert told[3][1]["knn"][0] == [0, pytest.approx(0.22)]
    assert [shown["index"] for shown in told[4][1]] == [340, 339, 338, 337]


def test_later_it_is_told_what_is_new_and_of_groups_the_newest(serve: Serve) -> None:
    run = FakeRun(run_view(340, groups=[group(2), group(1)]))
    with Listener(serve(run).address.port) as page:
        assert [shown["index"] for shown in page.until("groups")] == [2, 1]
        run.now = run_view(350, groups=[group(5), group(4), group(3), group(2)])
        seen: list[str] = []
        for name, data in page.events():
            seen.append(name)
            if name == "groups":
                assert [shown["index"] for shown in data] == [5]
                break
        assert "learning" in seen
        run.now = run_view(360, groups=[group(6), group(5), group(4)])
        assert [shown["index"] for shown in page.until("groups")] == [6]


def test_groups_come_no_faster_than_people_read(serve: Serve) -> None:
    run = FakeRun(run_view(1, groups=[group(0)]))
    with Listener(serve(run, pace_s=0.4).address.port) as page:
        page.until("groups")
        began = time.monotonic()
        run.now = run_view(2, groups=[group(1), group(0)])
        page.until("groups")
        assert time.monotonic() - began > 0.3


def test_before_the_run_has_begun_a_page_knows_only_whom_it_has_reached(serve: Serve) -> None:
    server = serve()
    assert body(get(server.address.port, "/view.json")) == "null"
    with Listener(server.address.port) as page:
        name, hello = next(page.events())
        assert name == "hello"
        assert set(hello) == {"life", "page"}
        server.show(FakeRun(run_view(7)))
        assert page.until("figures")["step"] == 7


def test_a_page_that_is_opened_late_gets_the_rates_from_the_beginning(serve: Serve) -> None:
    run = FakeRun(run_view(10, seconds=1.0))
    server = serve(run)
    until(lambda: run.looks > 3)
    run.now = run_view(20, seconds=2.0)
    looks = run.looks
    until(lambda: run.looks > looks + 3)
    with Listener(server.address.port) as page:
        seconds = page.until("rates")["seconds"]
    assert (seconds[0], seconds[-1]) == (1.0, 2.0)


def test_what_pages_see_is_written_down_once_and_only_while_somebody_looks(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    from penstock.telemetry.dashboard import messages

    original = messages.group
    monkeypatch.setattr(messages, "group", lambda shown: made.append(shown.index) or original(shown))
    told: list[str] = []
    rates = messages.rates
    monkeypatch.setattr(messages, "rates", lambda points: told.append(rates(points)) or told[-1])
    run = FakeRun(run_view(5, groups=[group(1)]))
    server = serve(run)
    until(lambda: run.looks > 5)
    assert made == []
    with Listener(server.address.port) as one, Listener(server.address.port) as other:
        one.until("groups")
        other.until("groups")
        for _ in range(20):
            one.until("rates")
            other.until("rates")
    assert made == [1]
    assert len(told) <= run.looks


def test_a_page_that_reads_nothing_costs_no_memory_and_holds_up_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)  # 200 kB as text

    def step(number: int) -> RunView:
        return run_view(number, groups=[GroupView(number, "noise", "producer-0", noise)])

    run = FakeRun(step(1))
    server = serve(run)
    port = server.address.port
    with socket.socket() as deaf, Listener(port) as page:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", port))
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        page.until("groups")
        tracemalloc.start()
        for number in range(2, 60):  # 12 MB together, far more than all buffers on the way hold
            run.now = step(number)
            assert page.until("groups")[0]["index"] == number
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 4e6
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < CLOSED_S
    # That a reader is cut off is no event.
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


# --- whom -------------------------------------------------------------------------------------------------------------


def test_every_answer_forbids_a_browser_what_the_page_does_not_need(serve: Serve) -> None:
    port = serve(FakeRun()).address.port
    for path in ("/", "/main.js", "/nothing", "/view.json"):
        headers = get(port, path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Access-Control-Allow-Origin"] is None


def test_the_page_needs_nothing_that_it_does_not_bring(serve: Serve) -> None:
    port = serve(FakeRun()).address.port
    for path, (content, media_type) in static_files().items():
        answer = get(port, "/" if path == "index.html" else f"/{path}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
        if not path.endswith("uPlot.iife.min.js"):
            text = content.decode().replace("http://www.w3.org/2000/svg", "")
            assert "http:" not in text
            assert "https:" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"])
def test_nothing_can_be_changed(serve: Serve, method: str) -> None:
    port = serve(FakeRun()).address.port
    for path in ("/", "/view.json", "/events"):
        assert get(port, path, method).status in (404, 405)


@pytest.mark.parametrize(
    "path", ["/../server.py", "/static/index.html", "/uplot/", "/uplot/LICENSE", "/%2e%2e/board.py"]
)
def test_only_the_files_of_the_page_are_served(serve: Serve, path: str) -> None:
    assert get(serve(FakeRun()).address.port, path).status == 404


def test_on_this_machine_only_its_own_names_are_answered(serve: Serve) -> None:
    port = serve(FakeRun()).address.port
    for host in ("localhost", "localhost:9999", f"127.0.0.1:{port}", "LOCALHOST", "[::1]:80"):
        assert get(port, "/view.json", Host=host).status == 200
    for host in ("rebound.example", f"rebound.example:{port}", "localhost.example", "127.0.0.1.example", ""):
        assert get(port, "/view.json", Host=host).status == 421


def test_other_sites_get_nothing_and_cannot_take_the_listeners_places(serve: Serve) -> None:
    port = serve(FakeRun()).address.port
    for site in ("cross-site", "same-site"):
        for path in ("/view.json", "/main.js", "/events"):
            assert get(port, path, Sec_Fetch_Site=site, Sec_Fetch_Mode="cors").status == 403
        framed = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
        assert get(port, "/", Sec_Fetch_Site=site, **framed).status == 403
        # A link to the page is a link.
        link = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
        assert get(port, "/", Sec_Fetch_Site=site, **link).status == 200
    assert get(port, "/view.json", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors").status == 200


def test_with_a_token_nothing_is_told_without_it(serve: Serve) -> None:
    port = serve(FakeRun(), token="a-token-of-some-length").address.port
    for path in (
        "/",
        "/events",
        "/view.json",
        "/main.js",
        "/?token=",
        "/?token=wrong",
        "/?token=a-token-of-some-lengt",
    ):
        answer = get(port, path)
        assert answer.status == 401
        assert "trainer's log" in body(answer)
    assert get(port, "/view.json", Cookie=f"penstock-{port}=wrong").status == 401
    assert get(port, "/view.json", Authorization="Bearer wrong").status == 401
    assert get(port, "/view.json", Authorization="Bearer a-token-of-some-length").status == 200


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(serve: Serve) -> None:
    server = serve(FakeRun(), token="a-token-of-some-length")
    port = server.address.port
    assert server.url == f"http://127.0.0.1:{port}/?token=a-token-of-some-length"
    answer = get(port, "/?token=a-token-of-some-length")
    assert (answer.status, answer.headers["Location"]) == (303, "./")
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=lax"} <= set(attributes)
    assert get(port, "/view.json", Cookie=cookie).status == 200
    # Whoever reaches it by another name, through a proxy say, has shown the token.
    assert get(port, "/view.json", Cookie=cookie, Host="cluster.example").status == 200


def test_the_log_tells_a_token_that_was_made_and_keeps_one_that_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    token = "a-token-of-some-length"
    with caplog.at_level(logging.INFO, "penstock"):
        with Dashboard(LOOPBACK, token) as server:
            assert caplog.messages == [f"the run's page is at {server.url}"]
            assert server.url.endswith(f"/?token={token}")
        caplog.clear()
        with Dashboard(LOOPBACK, token, is_own=True) as server:
            port = server.address.port
            assert caplog.messages == [f"the run's page is at http://127.0.0.1:{port}/?token=$PENSTOCK_DASHBOARD_TOKEN"]


def test_a_picture_of_the_page_does_not_give_its_token_away(serve: Serve) -> None:
    """The log tells it, and the page shows the log's last lines."""
    token = "a-token-of-some-length"
    line = EventView(at=0.0, is_warning=False, text=f"the run's page is at http://gpu-1:6007/?token={token}")
    port = serve(FakeRun(run_view(events=[line])), token=token).address.port
    with Listener(port, Authorization=f"Bearer {token}") as page:
        assert page.until("figures")["events"][0]["text"] == "the run's page is at http://gpu-1:6007/?token=…"
    assert token not in body(get(port, "/view.json", Authorization=f"Bearer {token}"))


def test_so_many_pages_may_be_open_and_a_closed_one_makes_room(serve: Serve) -> None:
    port = serve(FakeRun()).address.port
    pages = [Listener(port) for _ in range(MAX_LISTENERS)]
    for page in pages:
        page.until("figures")
    refused = Listener(port)
    assert refused.status == 503
    pages.pop().close()

    def is_let_in() -> bool:
        with Listener(port) as page:
            return page.status == 200

    until(is_let_in)
    for page in [*pages, refused]:
        page.close()


def test_asking_for_the_head_of_the_news_takes_no_place(serve: Serve) -> None:
    port = serve(FakeRun()).address.port
    for _ in range(2 * MAX_LISTENERS):
        assert get(port, "/events", "HEAD").status == 200
    with Listener(port) as page:
        assert page.status == 200


# --- how it ends ------------------------------------------------------------------------------------------------------


def test_at_the_end_every_page_is_told_and_the_server_is_gone_soon(serve: Serve) -> None:
    server = serve(FakeRun(run_view(900)))
    with Listener(server.address.port) as one, Listener(server.address.port) as other:
        one.until("figures")
        other.until("figures")
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < CLOSED_S
        assert one.until("over") == ""
        assert other.until("over") == ""
        assert list(one.events()) == []  # the stream has ended
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.address.port))
    server.close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RunError("the loss is no number"), "the loss is no number"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "it was stopped"),
        (SystemExit(0), ""),
    ],
)
def test_a_run_that_breaks_off_says_why(error: BaseException, told: str) -> None:
    server = Dashboard(LOOPBACK, every_s=0.02)
    page = Listener(server.address.port)
    with pytest.raises(type(error)), server:
        raise error
    with page:
        assert page.until("over") == told


def test_connections_that_say_nothing_do_not_delay_the_end(serve: Serve) -> None:
    server = serve(FakeRun())
    silent = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(5)]
    silent[0].sendall(b"GET / HTTP/1.1\r\nHost: local")
    get(server.address.port, "/view.json")
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < CLOSED_S
    for connection in silent:
        connection.close()


def test_so_many_connections_are_open_and_what_is_beyond_them_costs_no_file(serve: Serve) -> None:
    """Else whoever reaches the port takes the trainer's file descriptors, and its next checkpoint."""
    port = serve(FakeRun()).address.port
    process = psutil.Process()
    with ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S))
        # Both ends are files of this process.
        until(lambda: len([c for c in process.net_connections("tcp") if c.laddr.port == port]) <= MAX_CONNECTIONS + 1)
    until(lambda: _is_answered(port))


def test_another_machine_cannot_take_all_connections() -> None:
    """This machine by its address on a network is another one to the server."""
    if (host := outer_host()) is None:
        pytest.skip("this machine has no address but loopback")
    server = Dashboard(Address("0.0.0.0", 0), "a-token-for-the-test")
    port = server.address.port
    with contextlib.closing(server), ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection((host, port), timeout=WAIT_S))
        process = psutil.Process()
        until(lambda: len([c for c in process.net_connections("tcp") if c.laddr.port == port]) <= MAX_FROM_ONE_HOST + 1)
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as reader:
            reader.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a-token-for-the-test\r\n\r\n")
            assert reader.recv(12) == b"HTTP/1.1 200", "there is room for others"


def test_a_request_that_does_not_become_whole_is_hung_up_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE_S", 0.3)
    port = serve(FakeRun(), pace_s=0.05).address.port
    head = b"GET /view.json HTTP/1.1\r\nHost: localhost\r\n"
    with Listener(port) as page, socket.socket() as silent, socket.socket() as again:
        for caller, said in ((silent, b"GET /view.json HT"), (again, head + b"\r\n" + head)):
            caller.settimeout(WAIT_S)
            caller.connect(("127.0.0.1", port))
            caller.sendall(said)
        for caller in (silent, again):
            with contextlib.suppress(ConnectionResetError):
                while caller.recv(4096):
                    pass
        for _ in range(20):
            page.until("figures")  # that an answer takes long is another matter


def test_what_strangers_send_fills_no_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    port = serve(FakeRun()).address.port
    upgrade = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    huge = b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 100_000
    caplog.clear()
    for said in (b"\x16\x03\x01\x02\x00\x01", b"nonsense\r\n\r\n", upgrade, huge):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as caller:
            with contextlib.suppress(OSError):
                caller.sendall(said)
                caller.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while caller.recv(4096):
                    pass
    assert _is_answered(port)
    assert caplog.records == []


def _is_answered(port: int) -> bool:
    try:
        return get(port, "/view.json").status == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_taken_port_is_one_line_before_anything_is_started() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EndpointError, match=r"^dashboard: cannot listen at 127\.0\.0\.1, port \d+: .*in use"),
    ):
        Dashboard(Address("127.0.0.1", taken.getsockname()[1]))


def test_a_defect_of_what_is_shown_ends_the_page_and_not_the_run(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> RunView:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        server = serve(broken)
        until(lambda: "the run goes on" in caplog.text)
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < CLOSED_S
