"""Prompts from a model behind a real HTTP server: what it says, how it fails, and what a user is told."""

import json
import logging
import socket
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.asking.answers import AskedPrompt, read_answer
from penstock.consumer.prompts.asking.ask import ask, ask_endpoint
from penstock.consumer.prompts.asking.chat_endpoint import MAX_BODY_BYTES, Budget, ChatEndpoint, from_environment
from penstock.protocol.errors import ConfigError, EndpointError, PenstockError
from penstock.protocol.tickets import prompt_id
from tests.consumer.prompts.asking.chat_server import ChatServer, Reply, body, fails, prompts, says, serve

KEY = "sk-secret-0123456789"
ROBINS = [("robin", f"a robin on branch {number}") for number in range(8)]


class Asked:
    """What came of asking, and what it took."""

    def __init__(self, server: ChatServer, waits: list[float], found: list[AskedPrompt]) -> None:
        self.server, self.waits, self.found = server, waits, found

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.found]


def _ask(
    replies: Sequence[Reply], wanted: int = 4, requests: int = 20, request_s: float = 5.0, deadline_s: float = 60.0
) -> Asked:
    waits: list[float] = []
    with serve(replies) as server:
        endpoint = ChatEndpoint(server.url, KEY, "tiny", request_s)
        config = PromptsConfig(ask="birds", ask_prompts=wanted, ask_requests=requests)
        budget = Budget(requests, time.monotonic() + deadline_s, sleep=waits.append)
        return Asked(server, waits, ask_endpoint(endpoint, config, budget))


def _refusal(replies: Sequence[Reply], **options: Any) -> str:
    with pytest.raises(EndpointError) as caught:
        _ask(replies, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert KEY not in message
    return message


def test_prompts_and_their_concepts_come_from_the_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked = _ask([prompts(*ROBINS[:2], ("Wren", "a wren")), prompts(*ROBINS[1:4])])
    assert asked.found == [
        AskedPrompt("robin", "a robin on branch 0"),
        AskedPrompt("robin", "a robin on branch 1"),
        AskedPrompt("Wren", "a wren"),
        AskedPrompt("robin", "a robin on branch 2"),
    ]
    first, second = (request.content for request in asked.server.requests)
    assert first["model"] == "tiny"
    assert first["response_format"] == {"type": "json_object"}
    assert "birds" in first["messages"][1]["content"]
    assert first["messages"][1] != second["messages"][1], "the second asks from another angle"
    assert asked.server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in caplog.text
    assert "4 of 4 prompts so far" in caplog.text


def test_duplicates_are_counted_once_by_their_label() -> None:
    asked = _ask([prompts(("robin", "A  Robin"), ("robin", "a robin"), ("wren", "a wren"))], wanted=2)
    assert asked.texts == ["A Robin", "a wren"]
    assert len({prompt_id(text) for text in asked.texts}) == 2


def test_a_concept_has_one_spelling_and_untagged_prompts_that_of_their_words() -> None:
    asked = _ask([prompts(("Robin", "a robin"), ("robin", "two robins"), ("", "the robin sings"), ("", "a nest"))])
    assert [prompt.concept for prompt in asked.found] == ["Robin", "Robin", "Robin", "birds"]


def test_too_many_requests_waits_as_long_as_it_is_told() -> None:
    asked = _ask([fails(429, "slow down", Retry_After="0"), prompts(*ROBINS)])
    assert len(asked.found) == 4
    assert asked.waits == [0.0]
    asked = _ask(
        [fails(429, "slow down", Retry_After="7"), fails(503, Retry_After="86400"), prompts(*ROBINS)], deadline_s=200
    )
    assert asked.waits == [7.0, 60.0], "each wait is bounded"
    asked = _ask([fails(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), prompts(*ROBINS)])
    assert asked.waits == [0.0], "the moment has passed"


def test_a_server_error_is_asked_again_ever_later() -> None:
    asked = _ask([fails(500, "oops"), fails(502), fails(500), prompts(*ROBINS)])
    assert len(asked.found) == 4
    assert asked.waits == [1.0, 2.0, 4.0]


def test_a_server_that_stays_broken_is_one_line_that_names_the_way_without() -> None:
    message = _refusal([fails(500, f"no room for {KEY}")])
    assert "answers 500: no room for (the key), 5 times" in message
    assert "without OPENAI_BASE_URL the built-in grammar makes the prompts" in message


def test_an_endpoint_that_is_down_is_one_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    waits: list[float] = []
    config = PromptsConfig(ask="birds")
    budget = Budget(20, time.monotonic() + 60, sleep=waits.append)
    with pytest.raises(EndpointError) as caught:
        ask_endpoint(ChatEndpoint(url, KEY, "tiny"), config, budget)
    assert str(caught.value).startswith(f"--ask: {url}: connection refused, 5 times")
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_wrong_key_is_refused_at_once_with_the_servers_words() -> None:
    message = _refusal([fails(401, f"Incorrect API key provided: {KEY}.")])
    assert message.endswith("answers 401: Incorrect API key provided: (the key).; is OPENAI_API_KEY right?")


@pytest.mark.parametrize(
    "reply",
    [
        says("", message={"content": None, "refusal": "I can't help\nwith that."}),
        says("I'm sorry, but I can't help with that."),
        says(json.dumps({"error": "I can't help with that."})),
        says("", finish_reason="content_filter"),
    ],
)
def test_a_refusal_is_shown_and_ends_the_asking(reply: Reply) -> None:
    message = _refusal([reply])
    assert "can't help with that." in message or "content filter" in message


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (says("I'm sorry, that is all I can think of."), "that is all I can think of."),
        (says("", finish_reason="content_filter"), "content filter"),
        (fails(403, "no credit left"), "no credit left"),
    ],
)
def test_a_refusal_after_prompts_is_shown_and_goes_on_with_them(
    reply: Reply, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(_ask([prompts(*ROBINS[:3]), reply]).found) == 3
    assert words in caplog.text
    assert "going on with 3 prompts of 4" in caplog.text


def test_a_redirect_is_not_followed_and_carries_no_key() -> None:
    with serve([prompts(*ROBINS)]) as other:
        message = _refusal([fails(307, Location=f"{other.url}/chat/completions")])
        assert f"redirects to {other.url}/chat/completions; set OPENAI_BASE_URL" in message
        assert not other.requests


def test_an_endpoint_that_knows_no_response_format_is_asked_without() -> None:
    asked = _ask([fails(400, "response_format is not supported"), prompts(*ROBINS)], wanted=8)
    assert len(asked.found) == 8
    assert ["response_format" in request.content for request in asked.server.requests] == [True, False]
    assert "answers 400: bad" in _refusal([fails(400, "bad")])


def test_a_proxy_that_cannot_be_one_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:pw@proxy:port")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ConfigError, match="http_proxy in the environment names no port") as caught:
        ask(PromptsConfig(ask="birds"), {"OPENAI_BASE_URL": "http://host.invalid/v1"})
    assert "pw" not in str(caught.value)


def test_garbage_is_asked_again_and_then_named() -> None:
    page: Reply = lambda handler: body(handler, 200, b"<html>Welcome to nginx")  # noqa: E731
    assert len(_ask([page, prompts(*ROBINS)]).found) == 4
    assert "answers with something that is no JSON object: <html>Welcome to nginx, 5 times" in _refusal([page])


def test_a_body_without_end_is_refused() -> None:
    def huge(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(2 * MAX_BODY_BYTES >> 16):
            handler.wfile.write(b" " * (1 << 16))

    assert "answers with more than 4 MiB" in _refusal([huge])


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"])
def test_a_reply_that_drips_is_cut_off_in_time(beginning: bytes) -> None:
    begun = time.monotonic()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(beginning)
        while time.monotonic() - begun < 20:
            handler.wfile.write(b"X: y\r\n")
            time.sleep(0.01)  # what a dripping server does

    message = _refusal([drip], request_s=0.2)
    assert "does not answer in time, 5 times" in message
    assert time.monotonic() - begun < 10


def test_the_time_for_all_requests_is_bounded() -> None:
    message = _refusal([fails(429, "later", Retry_After="50")], deadline_s=20.0)
    assert "answers 429: later; the time for asking is over" in message


def test_a_spent_budget_goes_on_with_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    asked = _ask([prompts(*ROBINS[:2]), prompts(*ROBINS[2:3]), fails(500)], requests=3)
    assert len(asked.found) == 3
    assert len(asked.server.requests) == 3
    assert "all requests of prompts.ask_requests are spent; going on with 3 prompts of 4" in caplog.text
    assert "are spent" in _refusal([prompts(ROBINS[0])], requests=1)


def test_a_model_that_says_nothing_new_is_left(caplog: pytest.LogCaptureFixture) -> None:
    asked = _ask([prompts(*ROBINS[:2])])
    assert len(asked.found) == 2
    assert len(asked.server.requests) == 6
    assert "tiny has said nothing new in 5 answers; going on with 2 prompts of 4" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"concept": "fox", "prompt": "a fox"}]', [("fox", "a fox")]),
        ('```json\n{"prompts": ["a fox", "a  hare\\n"]}\n```', [("", "a fox"), ("", "a hare")]),
        ('Here you are: {"captions": [{"subject": "fox", "caption": "a fox"}]} Enjoy!', [("fox", "a fox")]),
        ('{"fox": ["a fox", "two foxes"]}', [("fox", "a fox"), ("fox", "two foxes")]),
        ('{"prompts": [{"concept": "fox", "prompt": "a fox"}, {"concept": "ha', [("fox", "a fox")]),
        ('1. a fox\n2) "a hare"\n- owl: an owl at night', [("", "a fox"), ("", "a hare"), ("owl", "an owl at night")]),
        ("Sure! Here they are.\n1. **fox**: a fox", [("fox", "a fox")]),
        ('<think>["a draft"]</think>\n{"prompts": ["a fox"]}', [("", "a fox")]),
        ('drafts: ["a draft"] </think> ["a fox"]', [("", "a fox")]),
        ("<think>\n1. a draft\n2. another", []),
        ('{"prompts": []}', []),
        ("I cannot do that.", []),
        ("[" * 100_000, []),
        ('{"prompt": "' + "x" * 9000 + '"}', []),
        ('{"prompt": "a\\u0007 fox\\ta"}', [("", "a fox a")]),
        ('{"prompt": "half a \\ud800 pair"}', [("", "half a pair")]),
    ],
)
def test_answers_are_read_however_they_are_written(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(prompt.concept, prompt.text) for prompt in read_answer(text)] == expected


@pytest.mark.parametrize("end", ["." * 100_000, " " * 100_000, ": " * 50_000, "a" * 100_000])
def test_an_answer_that_loops_to_its_end_takes_no_time(end: str) -> None:
    begun = time.process_time()
    assert read_answer(f"1. fox: a fox\n- {end}")[0] == AskedPrompt("fox", "a fox")
    assert len(_ask([says(f"x{end}"), prompts(*ROBINS)]).found) == 4
    assert time.process_time() - begun < 5


def test_the_model_is_named_by_the_environment_or_is_the_only_one() -> None:
    config = PromptsConfig(ask="birds", ask_prompts=2)
    with serve([prompts(*ROBINS)], models=["only"]) as server:
        assert len(ask(config, {"OPENAI_BASE_URL": f"{server.url}/"})) == 2
        assert [request.path for request in server.requests] == ["/v1/models", "/v1/chat/completions"]
        assert server.requests[1].content["model"] == "only"
        assert "Authorization" not in server.requests[1].headers
    with serve([prompts(*ROBINS)], models=["one", "two"]) as server:
        with pytest.raises(ConfigError, match=r"PENSTOCK_ASK_MODEL is not set: name a model of .* \(one, two\)"):
            ask(config, {"OPENAI_BASE_URL": server.url})
        environ = {"OPENAI_BASE_URL": server.url, "OPENAI_MODEL": "one", "PENSTOCK_ASK_MODEL": "two"}
        ask(config, environ)
        assert server.requests[-1].content["model"] == "two"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OPENAI_BASE_URL": "localhost:8000"}, "OPENAI_BASE_URL must be such as http://localhost:8000/v1"),
        ({"OPENAI_BASE_URL": "http://a..b/v1"}, "must be such as"),
        ({"OPENAI_BASE_URL": "http://h:99999/v1"}, "must be such as"),
        ({"OPENAI_BASE_URL": "https://me:pw@host/v1"}, "no password; put the key into OPENAI_API_KEY"),
        ({"OPENAI_BASE_URL": "https://me:pw@host:0/v1?x=1"}, "no password; put the key into OPENAI_API_KEY"),
        ({"OPENAI_BASE_URL": "https://host/v1?api-key=pw"}, "with nothing behind it, got 'https://host/v1'"),
        ({"OPENAI_BASE_URL": "https://host/v1", "OPENAI_API_KEY": "sk-\nx"}, "OPENAI_API_KEY holds a character"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_line(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(PenstockError) as caught:
        from_environment(environ)
    assert expected in str(caught.value)
    assert "pw" not in str(caught.value).replace("password", "")
    assert "\n" not in str(caught.value)


def test_the_key_is_not_shown_with_the_endpoint() -> None:
    assert KEY not in repr(ChatEndpoint("http://localhost/v1", KEY))


def test_without_an_endpoint_the_grammar_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = ask(PromptsConfig(ask="birds", ask_prompts=50), {"OPENAI_API_KEY": KEY})
    assert len(found) == 50
    assert "50 prompts of 30 concepts by the built-in grammar (OPENAI_BASE_URL names no endpoint)" in caplog.text


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve([prompts(*ROBINS)]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        environ = {"OPENAI_BASE_URL": "http://model.invalid/v1", "OPENAI_MODEL": "tiny"}
        assert len(ask(PromptsConfig(ask="birds", ask_prompts=2), environ)) == 2
        assert [request.path for request in proxy.requests] == ["http://model.invalid/v1/chat/completions"]
