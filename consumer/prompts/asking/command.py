"""Reads a command in natural language: its subjects, and what it wants them shown in every kind of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.consumer.prompts.asking.axes import AXIS_WORDS, COLOURS, NAMED_VALUES
from penstock.consumer.prompts.asking.english import article, is_plural, singular
from penstock.consumer.prompts.asking.habitats import BROADER, GEOGRAPHIC, PLACED, PLACES, PROPER
from penstock.consumer.prompts.asking.kinds import KINDS, MASS, OTHER_WORDS
from penstock.protocol.errors import ConfigError
from penstock.protocol.limits import MAX_NAME_LENGTH


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to show."""

    concept: str
    """Its name."""
    members: tuple[str, ...]
    """What is shown of it; its own noun where it is no kind."""
    scene: str
    """Of `SCENES`."""
    adjectives: str = ""
    """Before the noun."""
    determiner: str | None = None
    """Before all, as the command has it; None is "a" or "an", as the words sound."""
    detail: str = ""
    """Directly after the noun, of the command: "with a red roof", "playing chess"."""
    place: str = ""
    """After what it does, of the command: "in the snow"."""

    def phrase(self, member: str, adjectives: str) -> str:
        """A member with its adjectives and its article."""
        noun = " ".join(part for part in (adjectives, self.adjectives, member) if part)
        if self.determiner is not None:
            return f"{self.determiner} {noun}".strip()
        return article(noun) + noun


@dataclass(frozen=True, slots=True)
class Command:
    """What is asked for."""

    text: str
    subjects: tuple[Subject, ...]
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of `AXES`, with the values that the command names; none for all."""
    style: str = ""
    """`watercolour` and its like; empty for photographs of all kinds."""

    def concept(self, subject: Subject, member: str) -> str:
        """What a prompt is of: a kind's member where one kind is named; where several subjects are, these."""
        name = member if len(self.subjects) == 1 and len(subject.members) > 1 else subject.concept
        return name[:MAX_NAME_LENGTH]


_OPENING = re.compile(
    r"(please|(can|could|would) you|i('d| would)? (want|like|need)( to (see|have))?|(show|give|make|draw|paint|get)"
    r" (me|us)?|train( it| a model| an encoder)? (on|with)|generate|create|make|draw|paint|show|find|(a |an |the )?"
    r"(large |big |small |varied |diverse |balanced )?(data ?set|collection|set|lots|plenty|bunch) of)\s+",
    re.IGNORECASE,
)
_CLOSING = re.compile(r"[\s,]+(please|thanks|thank you)$", re.IGNORECASE)
_MARKS = " .,;:!?\"'“”()"
_STYLE = re.compile(
    r"(a |an |some |many |\d[\d.,]* )?((?:\w+[ -])?(?:photo|photograph|picture|image|painting|drawing|sketch|woodcut"
    r"|watercolou?r|illustration|engraving|poster))(?:e?s)? of ",
    re.IGNORECASE,
)
_PLAIN_STYLES = {"photo", "photograph", "picture", "image"}
_EVERY = (
    r"(?:every(?: possible)?|each|all(?: the)?(?: kinds of| sorts of| possible)?|any(?: kind of)?|various|different)"
)
_AXIS_WORD = "|".join(sorted(map(re.escape, AXIS_WORDS), key=len, reverse=True))
_AXES = re.compile(
    rf"(?:\b(?:in|at|under|during|with|from|of|by|for|through|on)\s+)?\b{_EVERY}\s+(?P<words>(?:{_AXIS_WORD})\b"
    rf"(?:\s*(?:,|and|or|&|in|at|from|under)+\s*(?:{_EVERY}\s+)?(?:{_AXIS_WORD})\b)*)",
    re.IGNORECASE,
)
_NAMED = "|".join(NAMED_VALUES)
_NAMED_LIST = re.compile(
    rf"\b(?:in|at|by|both)\s+(?:{_NAMED})\b(?:(?:\s*,|\s+and|\s+or|\s+in|\s+at|\s+by)+\s+(?:{_NAMED})\b)+",
    re.IGNORECASE,
)
"""Such as "in spring and in summer"."""
_SEPARATOR = re.compile(r"\s*(?:[,;/&+]|(?<![\w-])(?:and|or|as well as|plus)(?![\w-]))\s*", re.IGNORECASE)
_QUANTIFIER = re.compile(
    r"((every|each|all|any|various|different|many|kinds|types|sorts|species|breeds|varieties|styles)"
    r"(\s+(of|the|kinds|sorts|types|species|breeds|varieties|styles)\b)*)\s+",
    re.IGNORECASE,
)
_DETERMINER = re.compile(
    r"(a|an|the|this|that|my|your|our|their|some|several|a few|few|two|three|four|five|six|seven|eight|nine|ten|"
    r"(?:a |an )?(?:pair|group|flock|herd|pack|bunch|pile|row|crowd) of)\s+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s((?:of|in|on|at|with|without|from|under|over|near|by|beside|behind|between|among|against|along|around|above|below|"
    r"for|to|made|during|while|that|which|who|seen|next|inside|outside|through|before|after|across|\w{3,}ing)\b.*)",
    re.IGNORECASE,
)
_COLLECTIVE = frozenset({"furniture", "food", "fruit", "people", "fish", "clothes", "wild animal"})
"""Kinds whose word means many without a plural."""
_DETAIL = re.compile(
    r"(of|with|without|for|to|made|while|that|which|who|seen|\w+ing|at (work|play|rest))\b", re.IGNORECASE
)
"""How a tail begins that belongs to the noun; others say where or when."""


def read_command(text: str) -> Command:
    """The subjects and axes of a command. Raises ConfigError where it names nothing to show."""
    rest = " ".join(text.split()).strip(_MARKS)
    rest = re.sub(r"\bblack and white\b", "black-and-white", rest, flags=re.IGNORECASE)
    while closing := _CLOSING.search(rest):
        rest = rest[: closing.start()].strip(_MARKS)
    rest, axes = _take_axes(rest)
    while opening := _OPENING.match(rest):
        rest = rest[opening.end() :]
    style = ""
    if match := _STYLE.match(rest):
        style = match[2].lower() if match[2].lower() not in _PLAIN_STYLES else ""
        rest = rest[match.end() :]
    subjects = _subjects(rest)
    if not subjects:
        raise ConfigError(f"--ask must name what to show, such as 'birds of the alps, in every season', got {text!r}")
    return Command(text, subjects, axes, style)


def _take_axes(text: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The command without what it wants every kind of, and these axes."""
    axes: dict[str, tuple[str, ...]] = {}
    for match in _AXES.finditer(text):
        words = re.findall(rf"\b(?:{_AXIS_WORD})\b", match["words"], re.IGNORECASE)
        axes |= {AXIS_WORDS[word.lower()]: () for word in words}
    rest = _AXES.sub(" ", text)
    for match in _NAMED_LIST.finditer(rest):
        named = [NAMED_VALUES[word.lower()] for word in re.findall(rf"\b(?:{_NAMED})\b", match[0], re.IGNORECASE)]
        for axis in {axis for axis, _ in named}:
            axes[axis] = tuple(dict.fromkeys(words for name, words in named if name == axis))
    rest = _NAMED_LIST.sub(" ", rest)
    # What joined them is left over: "birds, and", "of paintings".
    rest = re.sub(r"(\s*(,|;|&|\b(?:and|or|but|seen|shown|taken)\b))+\s*$", "", rest, flags=re.IGNORECASE)
    rest = re.sub(r"^\s*((,|;|&|\b(?:and|or|of)\b)\s*)+", "", rest, flags=re.IGNORECASE)
    return " ".join(rest.split()), axes


def _subjects(text: str) -> tuple[Subject, ...]:
    """The subjects that a list names, each once."""
    if _kind_of(text):
        return (_subject(text),)
    items = [item for item in _SEPARATOR.split(text) if re.search(r"\w", item)]
    subjects: list[Subject] = []
    for item in _with_nouns(items):
        subject = _subject(item)
        if _is_only_tail(item) and subjects:
            # "dogs, in the snow": what follows the comma is of all before it.
            subjects = [replace(before, place=f"{before.place} {_in_one_place(item)}".strip()) for before in subjects]
        elif subject.concept and subject not in subjects:
            subjects.append(subject)
    if subjects and subjects[-1].place and not any(subject.place for subject in subjects[:-1]):
        # "cats and dogs in the snow": both of them.
        subjects = [replace(subject, place=subjects[-1].place) for subject in subjects]
    return tuple({subject.concept: subject for subject in subjects}.values())


def _is_only_tail(item: str) -> bool:
    return _TAIL.fullmatch(f" {item}") is not None


def _with_nouns(items: Sequence[str]) -> list[str]:
    """The items, colours that stand alone with the noun of the item after them: "red and green apples"."""
    done: list[str] = []
    for place, item in enumerate(items):
        following = items[place + 1].split() if place + 1 < len(items) else []
        words = item.lower().split()
        is_colour = bool(words) and all(word in (*COLOURS, "dark", "light", "pale", "bright") for word in words)
        if is_colour and len(following) > 1:
            noun = next((k for k, word in enumerate(following) if word.lower() not in COLOURS), 0)
            done.append(" ".join([item, *following[noun:]]))
        else:
            done.append(item)
    return done


def _subject(item: str) -> Subject:
    """A subject of its words; its concept is empty where there are none."""
    item = item.strip(" .:!?\"'()")
    while quantifier := _QUANTIFIER.match(item):
        item = item[quantifier.end() :]
    determiner: str | None = None
    if match := _DETERMINER.match(item):
        determiner = match[1].lower()
        item = item[match.end() :]
    head, tail = _split_tail(item)
    words = head.split()
    # The longest end of the head that is a kind: "alpine birds", "birds of prey".
    for start in range(len(words)):
        name = _kind_of(" ".join(words[start:]))
        if name and _stands_for_members(name, head, words[:start], determiner):
            place = next((PLACES[word] for word in re.findall(r"\w+", tail.lower()) if word in PLACES), "")
            members = PLACED.get((BROADER.get(name, name), place)) or KINDS[name].members
            adjectives = " ".join(words[:start])
            return Subject(name, members, KINDS[name].scene, adjectives, None, *_detail_and_place(tail))
    return _thing(head, tail, determiner)


def _stands_for_members(name: str, head: str, adjectives: Sequence[str], determiner: str | None) -> bool:
    """Whether a kind is shown by its members: "dogs" and "big dogs" are, "a dog" and "black cats" are not."""
    if determiner not in (None, "some", "the") or (adjectives and not (is_plural(head) or name in _COLLECTIVE)):
        return False
    said = {word.lower() for adjective in adjectives for word in adjective.split("-")}
    taken = {word.lower() for member in KINDS[name].members for word in member.split()}
    return not said & (taken | set(COLOURS))


def _thing(head: str, tail: str, determiner: str | None) -> Subject:
    """A subject that is no kind, or one of it: it shows itself."""
    counted = determiner not in (None, "a", "an", "some")
    noun = head if counted else singular(head)
    concept = singular(head)
    if determiner in ("a", "an"):
        determiner = None
    elif determiner == "some" or (determiner is None and _takes_no_article(noun)):
        determiner = ""
    detail, place = _detail_and_place(tail)
    scene = "landmark" if determiner == "the" and concept != concept.lower() else _scene_of(concept)
    if detail.lower().startswith("of "):  # "the sound of silence" is one noun
        noun, concept, detail = f"{noun} {detail}", f"{concept} {detail}", ""
        scene = _scene_of_member(concept) or scene
    return Subject(concept, (noun,) if noun else (), scene, "", determiner, detail, place)


def _takes_no_article(noun: str) -> bool:
    last = noun.split()[-1] if noun.split() else ""
    if re.match(r"(some|any|every|no)(thing|body|one)\b", noun, re.IGNORECASE):
        return True
    return last.lower() in MASS or not noun.isascii() or last.lower() in PROPER or last.endswith("ing")


def _scene_of(noun: str) -> str:
    """The scene of the kind that the noun is, or is one of; longer names first: "bicycle" of "red bicycle"."""
    words = noun.split()
    for start in range(len(words)):
        end = " ".join(words[start:]).lower()
        if name := _kind_of(end):
            return KINDS[name].scene
        if scene := _scene_of_member(end):
            return scene
    return ""


def _scene_of_member(noun: str) -> str:
    lower = noun.lower()
    return next((kind.scene for kind in KINDS.values() if lower in map(str.lower, kind.members)), "")


def _kind_of(phrase: str) -> str:
    """The name of the kind that a phrase says in the singular or the plural; empty where it says none."""
    lower = phrase.lower().strip()
    for form in (lower, singular(lower)):
        if form in KINDS:
            return form
        if form in OTHER_WORDS:
            return OTHER_WORDS[form]
    return ""


def _split_tail(item: str) -> tuple[str, str]:
    """The noun with what stands before it, and what stands after it."""
    words = item.split()
    for length in range(len(words), 0, -1):
        head, tail = " ".join(words[:length]), " ".join(words[length:])
        # "birds of prey of the alps" is cut behind the kind; "my dog Rex" is not.
        if _kind_of(head) and (not tail or _is_only_tail(tail)):
            return head, tail
    match = _TAIL.search(f" {item}", 1)
    return (f" {item}"[: match.start()].strip(), match[1]) if match else (item, "")


def _detail_and_place(tail: str) -> tuple[str, str]:
    """What of a tail belongs to the noun, and what says where or when."""
    tail = _in_one_place(tail)
    if not _DETAIL.match(tail):
        return "", tail
    # "made of wood in a kitchen" says both, but "of the art of painting" does not.
    if match := re.search(r"\s(?=(in|on|at|under|near|by)\s)", tail):
        return tail[: match.start()], tail[match.end() :]
    return tail, ""


def _in_one_place(tail: str) -> str:
    """A tail as one thing says it: names with capitals, and "of the alps" as "in the Alps"."""
    words = [PROPER.get(word.lower(), word) for word in tail.split()]
    is_place = bool(words) and (words[-1] in PROPER.values() or words[-1].lower() in GEOGRAPHIC)
    if is_place and words[0].lower() in ("of", "from"):
        words[0] = "in"
    return " ".join(words)
