"""The built-in grammar: prompts from a command without any language model.

    birds of the alps, in every season
    ^^^^^ ^^^^^^^^^^^  ^^^^^^^^^^^^^^^
    kind  place        axis

A command names *subjects* ("cats, dogs and horses") and *axes* to go through ("in every season"). A kind that the
lexicon knows is shown by its members, other nouns by themselves. Each subject goes evenly through all combinations of
its axes; what it does, where it is and how it is seen is drawn. Nothing else is random: equal commands give equal
prompts.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from penstock.consumer.prompts.asking.answers import AskedPrompt
from penstock.consumer.prompts.asking.axes import AXES, LIGHTS, VIEWS
from penstock.consumer.prompts.asking.command import Command, Subject, read_command
from penstock.consumer.prompts.asking.english import indefinite
from penstock.consumer.prompts.asking.scenes import SCENES, Scene
from penstock.protocol.tickets import prompt_id

_MAX_DRAWS = 50
"""For one prompt until it is a new one."""
_MAX_MISSES = 200
"""Prompts in a row that give nothing new before a command counts as exhausted."""
_ADJECTIVES = ("size", "age", "colour", "material")
"""Axes whose words stand before the noun, in this order."""
_SAID_ELSEWHERE = ("angle", "pose", "light")
"""Axes whose phrases do not stand after the place."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What an axis says of one prompt."""

    axis: str
    position: str
    words: str


def expand(text: str, num_prompts: int) -> list[AskedPrompt]:
    """Up to `num_prompts` different prompts (by `prompt_id`) for a command, fewer where it holds no more.

    Raises ConfigError for a command that names nothing.
    """
    command = read_command(text)
    choices = [_choices(command.axes, subject) for subject in command.subjects]
    found: dict[int, AskedPrompt] = {}
    misses = 0
    for index in count():
        turn, place = divmod(index, len(command.subjects))
        subject = command.subjects[place]
        cycle, number = divmod(turn, len(subject.members))
        member = subject.members[number]
        chosen = _combination(choices[place], cycle + number)
        for attempt in range(_MAX_DRAWS):
            sentence = _sentence(_Draws(text, index, attempt), command, subject, member, chosen)
            if (label := prompt_id(sentence)) not in found:
                found[label] = AskedPrompt(command.concept(subject, member), sentence)
                misses = 0
                break
        else:
            misses += 1
        if len(found) == num_prompts or misses == _MAX_MISSES:
            break
    return list(found.values())


def _choices(axes: Mapping[str, tuple[str, ...]], subject: Subject) -> list[list[_Choice]]:
    """What each axis may say of a subject."""
    choices = []
    for name, named in axes.items():
        values = named or AXES[name].values or _of_scene(name, SCENES[subject.scene])
        choices.append([_Choice(name, AXES[name].position, words) for words in values])
    return choices


def _combination(choices: Sequence[Sequence[_Choice]], number: int) -> list[_Choice]:
    """One value of each axis: the `number`-th of all combinations, after a step that comes to all of them.

    They are counted, not listed: thirteen axes have more than fit into memory.
    """
    total = math.prod(map(len, choices))
    place = number * _stride(total) % total
    chosen = []
    for values in reversed(choices):
        place, value = divmod(place, len(values))
        chosen.append(values[value])
    return chosen[::-1]


def _of_scene(name: str, scene: Scene) -> tuple[str, ...]:
    """The values of an axis that the kind of the subject decides."""
    return (scene.places if name == "place" else scene.actions) or ("",)


def _stride(total: int) -> int:
    """A step near the golden section of `total`, without a common divisor."""
    stride = max(1, total * 618 // 1000)
    while math.gcd(stride, total) != 1:
        stride += 1
    return stride


class _Draws:
    """Draws that belong to one prompt; each by its name, so that none changes another."""

    def __init__(self, text: str, index: int, attempt: int) -> None:
        self._key = f"{text}\0{index}\0{attempt}"

    def among(self, what: str, choices: Sequence[str], share: float = 1.0) -> str:
        """One of the choices in a `share` of the prompts, else nothing."""
        word = hashlib.blake2b(f"{self._key}\0{what}".encode(), digest_size=16).digest()
        if not choices or int.from_bytes(word[:8]) >= share * 2**64:
            return ""
        return choices[int.from_bytes(word[8:]) % len(choices)]


def _sentence(draws: _Draws, command: Command, subject: Subject, member: str, chosen: Sequence[_Choice]) -> str:
    """One prompt: style, adjectives, noun, action, place, and when and in what light."""
    scene = SCENES[subject.scene]
    asked = {choice.axis for choice in chosen}
    adjectives = " ".join(choice.words for name in _ADJECTIVES for choice in chosen if choice.axis == name)
    noun = subject.phrase(member, adjectives)
    style = next((choice.words for choice in chosen if choice.position == "style"), command.style)
    if not style and scene.views:
        views = [view for view in VIEWS if not ("angle" in asked and "close-up" in view)]
        style = draws.among("view", views, share=0.7)
    says_action = subject.detail or asked & {"pose", "angle"}
    action = "" if says_action else draws.among("action", scene.actions, share=0.6)
    if action.startswith("seen") and style.startswith(("close-up", "telephoto")):
        action = ""
    place = subject.place
    if not place and "place" not in asked:
        place = draws.among("place", scene.places, share=0.6 if scene.views else 0.95)
    how = [choice.words for choice in chosen if choice.axis in ("angle", "pose")]
    when = [choice.words for choice in chosen if choice.position == "phrase" and choice.axis not in _SAID_ELSEWHERE]
    lit = [choice.words for choice in chosen if choice.axis == "light"]
    if not lit and scene.views and not asked & {"time", "weather"}:
        lit = [draws.among("light", LIGHTS, share=0.3)]
    head = f"{indefinite(style)} of {noun}" if style else noun
    body = " ".join(part for part in (head, subject.detail, *how, action, place, *when) if part)
    return ", ".join(part for part in (body, *lit) if part)
