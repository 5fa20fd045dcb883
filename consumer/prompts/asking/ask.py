"""A command in natural language becomes prompts: `--ask "birds of the alps, in every season"`.

The model behind an OpenAI-compatible endpoint writes them, as SynCLR's captions were written (arXiv 2312.17742, section
3.1), or a built-in grammar where no endpoint is named. One model asked the same thing again and again repeats itself,
so each request asks from another angle and names what has had enough.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from penstock.config.process import printable
from penstock.consumer.making_config import PromptsConfig
from penstock.consumer.prompts.asking.answers import AskedPrompt, read_answer
from penstock.consumer.prompts.asking.chat_endpoint import (
    URL,
    Answer,
    Budget,
    ChatEndpoint,
    RefusedError,
    UnavailableError,
    from_environment,
)
from penstock.consumer.prompts.asking.grammar import expand
from penstock.protocol.errors import EndpointError
from penstock.protocol.limits import MAX_NAME_LENGTH
from penstock.protocol.tickets import normalise_prompt, prompt_id

_log = logging.getLogger(__name__)

ASKING_S = 900.0
"""Seconds that all requests of a run may take."""
_FEWEST_AT_ONCE, _MOST_AT_ONCE = 40, 100
"""Prompts that one request asks for."""
_MAX_FRUITLESS = 5
"""Answers in a row with nothing new before a model counts as having said all it knows."""
_SENTENCE = re.compile(r"[^\W\d_]+ [^\W\d_]+ [^\W\d_]+")
"""Three words in a row: somebody talks."""
_PROSE_CHARS = 2000
"""Of an answer, in which they are looked for: it takes time by the square of them."""
_LEAST_PROMPTS = 2
"""Below it nothing is contrasted with anything."""

_SYSTEM = (
    "You write short captions for a text-to-image model whose pictures will train a vision model. Each caption "
    "describes one picture that a camera could take, in plain English, in 5 to 25 words, and shows what the user asks "
    "for. Captions differ in subject, setting, light, season, viewpoint and composition. Answer with JSON only, in "
    'this form: {"prompts": [{"concept": "golden eagle", "prompt": "a golden eagle circling above a snowy ridge in '
    'winter"}]}. "concept" is the shortest common name of the main subject, in small letters, singular, spelled the '
    "same each time."
)

_ANGLES = (
    "the most typical kinds, each in its usual surroundings",
    "many different kinds, the less known ones too",
    "close views in which one subject fills the picture",
    "wide views in which the surroundings take most of the picture",
    "subjects in action or in use",
    "several subjects together, or beside something else",
    "unusual weather, seasons and times of day",
    "unusual viewpoints: from above, from below, from behind, through something",
    "surroundings made by people",
    "plain surroundings with nothing to distract",
    "details, textures and parts",
    "rare kinds that few people have seen",
    "early, late, young, old, new or worn states of the subject",
    "soft, harsh, low, coloured and artificial light",
    "pictures as an amateur would take them",
    "pictures as for an encyclopedia",
)


def ask(config: PromptsConfig, environ: Mapping[str, str], request_s: float = 120.0) -> list[AskedPrompt]:
    """Different prompts (by `prompt_id`), each with a concept, that show what `config.ask` says.

    Args:
        environ: names the endpoint, its key and its model.
        request_s: seconds that one request may take.

    Raises:
        ConfigError: the endpoint's settings, or the command, cannot be used.
        EndpointError: the endpoint is down or refuses before it has said two prompts.
    """
    endpoint = from_environment(environ)
    if endpoint is None:
        prompts = expand(config.ask, config.ask_prompts)
        _log.info(
            "%d prompts of %d concepts by the built-in grammar (%s names no endpoint)",
            len(prompts),
            len({prompt.concept for prompt in prompts}),
            URL,
        )
        return prompts
    endpoint.request_s = request_s
    return ask_endpoint(endpoint, config, Budget(config.ask_requests, time.monotonic() + ASKING_S))


def ask_endpoint(endpoint: ChatEndpoint, config: PromptsConfig, budget: Budget) -> list[AskedPrompt]:
    """As `ask`, of an endpoint."""
    collected = _Collected()
    try:
        endpoint.find_model(budget)
        _log.info("asking %s at %s for %d prompts", endpoint.model, endpoint.url, config.ask_prompts)
        _fill(collected, endpoint, config, budget)
    except (UnavailableError, RefusedError) as error:
        if len(collected.prompts) < _LEAST_PROMPTS:
            way = f"; without {URL} the built-in grammar makes the prompts" * isinstance(error, UnavailableError)
            raise EndpointError(f"--ask: {error}{way}") from error
        # What has come is paid for, also where the model says at last that it knows no more.
        _log.warning("%s; going on with %d prompts of %d", error, len(collected.prompts), config.ask_prompts)
    prompts = _with_concepts(collected.prompts, config.ask)[: config.ask_prompts]
    _log.info("%d prompts of %d concepts", len(prompts), len({prompt.concept for prompt in prompts}))
    return prompts


class _Collected:
    """Different prompts, in the order of their coming."""

    def __init__(self) -> None:
        self.prompts: list[AskedPrompt] = []
        self.by_concept: Counter[str] = Counter()
        self._ids: set[int] = set()

    def add(self, prompts: Sequence[AskedPrompt]) -> int:
        """Take what is new; returns how many were."""
        before = len(self.prompts)
        for prompt in prompts:
            if (label := prompt_id(prompt.text)) not in self._ids:
                self._ids.add(label)
                self.prompts.append(prompt)
                self.by_concept[normalise_prompt(prompt.concept)] += 1
        return len(self.prompts) - before


def _fill(collected: _Collected, endpoint: ChatEndpoint, config: PromptsConfig, budget: Budget) -> None:
    """Ask until there are enough. Raises as `ChatEndpoint.ask`, and UnavailableError where nothing new comes."""
    fruitless, number = 0, 0
    while (missing := config.ask_prompts - len(collected.prompts)) > 0:
        share = -(-missing // max(1, budget.num_requests))
        wanted = min(max(share, _FEWEST_AT_ONCE), _MOST_AT_ONCE)
        angle = _ANGLES[number % len(_ANGLES)]
        answer = endpoint.ask(_SYSTEM, _question(config.ask, wanted, angle, collected.by_concept), budget)
        number += 1
        found = read_answer(answer.text)
        if not found:
            _check_prose(answer, endpoint)
        fruitless = 0 if collected.add(found) else fruitless + 1
        num_found = min(len(collected.prompts), config.ask_prompts)
        _log.info("%d of %d prompts so far", num_found, config.ask_prompts)
        if fruitless == _MAX_FRUITLESS:
            raise UnavailableError(f"{endpoint.model} has said nothing new in {fruitless} answers")


def _check_prose(answer: Answer, endpoint: ChatEndpoint) -> None:
    """Raise RefusedError where a model talks instead of writing prompts; one that is empty or cut may be bad luck."""
    said = printable(" ".join(answer.text.split()))
    if not answer.cut and _SENTENCE.search(said[:_PROSE_CHARS]):
        raise RefusedError(f"{endpoint.model} answers no prompts but says: {said[:300]}{'...' * (len(said) > 300)}")


def _question(command: str, wanted: int, angle: str, by_concept: Counter[str]) -> str:
    lines = [f"Write {wanted} captions for: {command}", f"This time prefer: {angle}."]
    if frequent := [name for name, _ in by_concept.most_common(20) if name]:
        lines.append(f"There are many already of: {', '.join(frequent)}. Prefer others that fit what is asked for.")
    return "\n".join(lines)


def _with_concepts(prompts: Sequence[AskedPrompt], command: str) -> list[AskedPrompt]:
    """The prompts with one spelling a concept, and with a concept where the model gave none."""
    spelling: dict[str, str] = {}
    for prompt in prompts:
        if prompt.concept:
            spelling.setdefault(normalise_prompt(prompt.concept), prompt.concept)
    find = _finder(spelling)
    unnamed = " ".join(command.split())[:MAX_NAME_LENGTH]
    return [
        AskedPrompt(
            spelling[normalise_prompt(prompt.concept)] if prompt.concept else find(prompt.text) or unnamed, prompt.text
        )
        for prompt in prompts
    ]


def _finder(spelling: Mapping[str, str]) -> Callable[[str], str]:
    """What finds the longest known concept that a text names."""
    if not spelling:
        return lambda text: ""
    longest_first = sorted(spelling, key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b")

    def find(text: str) -> str:
        match = pattern.search(normalise_prompt(text))
        return spelling[match[1]] if match else ""

    return find
