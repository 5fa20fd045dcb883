"""The metrics' server against real sockets: good clients, slow ones, many, none, and a look that fails."""

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.registry import Collector

from penstock.config.address import Address
from penstock.protocol.errors import ConfigError, EndpointError
from penstock.telemetry import metrics_server
from penstock.telemetry.health import Health
from penstock.telemetry.metrics_server import MetricsServer, free_addresses
from tests.outer_host import outer_host

HERE = Address("127.0.0.1", 0)
WAIT_S = 20.0
TOKEN = "prometheus-knows-it"


class Foxes(Collector):
    """Says how many there are, or that it cannot."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def describe(self) -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily("foxes", "Foxes.")]

    def collect(self) -> list[GaugeMetricFamily]:
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return [GaugeMetricFamily("foxes", "Foxes.", 7)]


@pytest.fixture
def foxes() -> Foxes:
    return Foxes()


@pytest.fixture
def server(foxes: Foxes) -> Iterator[MetricsServer]:
    with MetricsServer(HERE) as opened:
        opened.collect(foxes)
        yield opened


def _get(server: MetricsServer, path: str = "/metrics", accept: str = "", method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and text."""
    connection = http.client.HTTPConnection(server.address.host, server.address.port, timeout=WAIT_S)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()


def _value(text: str) -> float:
    (sample,) = next(family for family in read_text(text) if family.name == "foxes").samples
    return sample.value


def test_it_serves_what_is_collected_and_the_process_itself(server: MetricsServer) -> None:
    status, content_type, text = _get(server)
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert _value(text) == 7
    assert {"process_resident_memory_bytes", "process_cpu_seconds"} <= {family.name for family in read_text(text)}
    assert "python_info" not in text, "no other process-wide registry"


def test_it_speaks_openmetrics_to_whom_asks_for_it(server: MetricsServer) -> None:
    _, content_type, text = _get(server, accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert "foxes" in {family.name for family in read_openmetrics(text)}


@pytest.mark.parametrize(("path", "method", "status"), [("/", "GET", 404), ("/metrics", "POST", 501)])
def test_there_is_nothing_else(server: MetricsServer, path: str, method: str, status: int) -> None:
    assert _get(server, path, method=method)[0] == status


@pytest.mark.parametrize(("path", "field"), [("/startupz", "started"), ("/healthz", "alive"), ("/readyz", "ready")])
def test_each_probe_is_answered_by_its_own_question(server: MetricsServer, path: str, field: str) -> None:
    assert _get(server, path)[::2] == (200 if field == "alive" else 503, "starting\n"), "nobody has said anything yet"
    for value in (True, False):
        told = {"started": not value, "alive": not value, "ready": not value} | {field: value}
        server.answer_probes(lambda told=told: Health(**told, words="as told"))  # type: ignore[misc]
        assert _get(server, path) == (200 if value else 503, "text/plain; charset=utf-8", "as told\n")


def test_probes_need_no_token() -> None:
    """Kubernetes' have none to bring, and learn nothing worth one."""
    with MetricsServer(HERE, token="a-token-of-the-test") as guarded:
        assert _get(guarded, "/metrics")[0] == 401
        assert _get(guarded, "/healthz")[0] == 200


def test_a_look_that_fails_is_a_line_and_a_500_and_the_next_one_works(
    server: MetricsServer, foxes: Foxes, caplog: pytest.LogCaptureFixture
) -> None:
    foxes.error = RuntimeError("the wood burns")
    status, _, text = _get(server)
    assert status == 500
    assert "burns" not in text, "what is wrong inside is for the log"
    lines = [record for record in caplog.records if "burns" in record.getMessage()]
    assert [(line.levelno, line.exc_info) for line in lines] == [(logging.WARNING, None)]
    foxes.error = None
    assert _value(_get(server)[2]) == 7


def test_an_address_in_use_is_one_line(server: MetricsServer) -> None:
    with pytest.raises(EndpointError) as caught:
        MetricsServer(server.address)
    expected = (
        f"metrics: cannot listen at 127.0.0.1, port {server.address.port}: Address already in use; choose another"
    )
    assert str(caught.value) == f"{expected} address"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(EndpointError, match=f"metrics: cannot listen at {host}, port 0: .+; choose another address"):
        MetricsServer(Address(host, 0))


def test_it_listens_again_at_once_where_another_has_just_ended(foxes: Foxes) -> None:
    with MetricsServer(HERE) as first:
        _get(first)
    with MetricsServer(first.address) as second:
        second.collect(foxes)
        assert _value(_get(second)[2]) == 7


def test_it_says_where_it_is_and_who_can_reach_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with MetricsServer(HERE) as inner, MetricsServer(Address("0.0.0.0", 0)) as outer:
        assert f"metrics at http://127.0.0.1:{inner.address.port}/metrics" in caplog.messages
        open_to_all = f"metrics at http://0.0.0.0:{outer.address.port}/metrics, open to all who reach this machine"
        assert open_to_all in caplog.messages


def test_ipv6_is_an_address_like_any_other() -> None:
    try:
        with MetricsServer(Address("::1", 0)) as server:
            assert _get(server)[0] == 200
    except EndpointError:
        pytest.skip("this machine has no IPv6")


def test_clients_that_are_silent_or_trickle_are_hung_up_on(
    server: MetricsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "_PATIENCE_S", 0.3)
    where = (server.address.host, server.address.port)
    with socket.create_connection(where, WAIT_S) as silent, socket.create_connection(where, WAIT_S) as trickling:
        begun = time.monotonic()
        trickling.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
        trickling.settimeout(0.05)
        while time.monotonic() - begun < WAIT_S:
            try:
                trickling.sendall(b"x")
                if trickling.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert silent.recv(1) == b""
        assert time.monotonic() - begun < 5
    assert _get(server)[0] == 200


def test_more_clients_than_it_takes_are_turned_away_and_it_serves_again(server: MetricsServer, foxes: Foxes) -> None:
    where = (server.address.host, server.address.port)
    with contextlib.ExitStack() as stack:
        for _ in range(metrics_server._MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(where, WAIT_S))
        begun = time.monotonic()
        with socket.create_connection(where, WAIT_S) as one_more:
            assert one_more.recv(1) == b""
        assert time.monotonic() - begun < metrics_server._PATIENCE_S / 2, "turned away, not tired of"
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            assert _get(server)[0] == 200
            return
        except OSError:
            assert time.monotonic() < deadline


def test_another_machine_cannot_take_all_connections() -> None:
    """This machine by its address on a network is another one to the server."""
    if (host := outer_host()) is None:
        pytest.skip("this machine has no address but loopback")
    with MetricsServer(Address("0.0.0.0", 0), token=TOKEN) as server, contextlib.ExitStack() as stack:
        for _ in range(metrics_server._MAX_FROM_ONE_HOST):
            stack.enter_context(socket.create_connection((host, server.address.port), WAIT_S))
        begun = time.monotonic()
        with socket.create_connection((host, server.address.port), WAIT_S) as one_more:
            assert one_more.recv(1) == b""
        assert time.monotonic() - begun < metrics_server._PATIENCE_S / 2, "turned away, not tired of"
        connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
            assert connection.getresponse().status == 200, "there is room for Prometheus"


@pytest.mark.parametrize(("brought", "status"), [("", 401), (f"Bearer {TOKEN}x", 401), (f"Bearer {TOKEN}", 200)])
def test_a_token_is_asked_for_and_stands_in_no_answer_and_no_log(
    brought: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with MetricsServer(HERE, token=TOKEN) as server:
        connection = http.client.HTTPConnection(server.address.host, server.address.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics", headers={"Authorization": brought} if brought else {})
            response = connection.getresponse()
            text = response.read().decode()
        assert response.status == status
        assert ("process_cpu_seconds" in text) == (status == 200)
        assert response.headers["WWW-Authenticate"] == ("Bearer" if status == 401 else None)
        assert TOKEN not in text + caplog.text
        assert any(line.endswith("/metrics, to whoever brings the token") for line in caplog.messages)


def test_it_closes_in_time_whoever_is_connected_and_whatever_it_looks_at(server: MetricsServer, foxes: Foxes) -> None:
    foxes.gate.clear()
    with socket.create_connection((server.address.host, server.address.port), WAIT_S) as asking:
        asking.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        begun = time.monotonic()
        server.close()
        assert time.monotonic() - begun < 2
        server.close()
        foxes.gate.set()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.address.host, server.address.port), WAIT_S)


def test_free_addresses_skip_those_in_use(server: MetricsServer) -> None:
    taken = server.address
    found = free_addresses(taken, 2)
    assert len(found) == 2
    assert taken not in found
    assert all(address.port > taken.port for address in found)
    assert found[0].port < found[1].port
    with MetricsServer(found[0]), MetricsServer(found[1]):
        pass


def test_the_free_port_is_always_free_and_the_last_one_is_the_end() -> None:
    assert free_addresses(HERE, 3) == [HERE] * 3
    with pytest.raises(ConfigError, match="beyond 65535"):
        free_addresses(Address("127.0.0.1", 65535), 2)
