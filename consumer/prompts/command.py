"""Reads a command in natural language: its subjects, and what it wants them shown in every kind of."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock.consumer.prompts.axes import AXIS_WORDS, COLOURS
from penstock.consumer.prompts.english import article, is_plural, singular
from penstock.consumer.prompts.kinds import GEOGRAPHIC, KINDS, MASS, OTHER_WORDS, PLACED, PLACES, PROPER
from penstock.protocol.errors import ConfigError


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
    tail: str = ""
    """After the noun, of the command."""

    @property
    def tails(self) -> tuple[str, ...]:
        """The tail, where there is one."""
        return (self.tail,) if self.tail else ()

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
    axes: tuple[str, ...] = ()
    """Of `AXES`, each once."""
    style: str = ""
    """`watercolour` and its like; empty for photographs of all kinds."""

    @property
    def names_members(self) -> bool:
        """Whether concepts are a kind's members: where one subject is named. Of several, these are the concepts."""
        return len(self.subjects) == 1


_OPENING = re.compile(
    r"(please|(can|could|would) you|i('d| would)? (want|like|need)( to (see|have))?|(show|give|make|draw|paint|get|bring) "
    r"(me|us)?|train( it| a model| an encoder)? (on|with)|generate|create|make|draw|paint|show|find|"
    r"(a |an |the )?(large |big |small |varied |diverse |balanced )?(data ?set|collection|set|lots|plenty|bunch) of)\s+",
    re.IGNORECASE,
)
_STYLE = re.compile(
    r"(a |an |some |many )?((?:\w+[ -])?(?:photo|photograph|picture|image|painting|drawing|sketch|watercolour|watercolor|"
    r"woodcut|portrait|illustration|engraving|poster))e?s? of (every |all |different )?",
    re.IGNORECASE,
)
_PLAIN_STYLES = {"photo", "photograph", "picture", "image"}
_EVERY = r"(?:every(?: possible)?|each|all(?: the)?(?: kinds of| sorts of| possible)?|any(?: kind of)?|various|different)"
_AXIS_WORD = "|".join(sorted(map(re.escape, AXIS_WORDS), key=len, reverse=True))
_AXES = re.compile(
    rf"(?:\b(?:in|at|under|during|with|from|of|by|for|through|on)\s+)?\b{_EVERY}\s+(?P<words>(?:{_AXIS_WORD})\b"
    rf"(?:\s*(?:,|and|or|&|in|at|from|under)+\s*(?:{_EVERY}\s+)?(?:{_AXIS_WORD})\b)*)",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"\s*(?:[,;/&+\n]|\band\b|\bor\b|\bas well as\b|\bplus\b)\s*", re.IGNORECASE)
_QUANTIFIER = re.compile(
    r"((every|each|all|any|various|different|many|all kinds|all sorts|many kinds|different kinds|kinds|types|sorts|species|"
    r"breeds|varieties)(\s+(of|the|kinds|sorts|types|species|breeds|varieties)\b)*)\s+",
    re.IGNORECASE,
)
_DETERMINER = re.compile(
    r"(a|an|the|this|that|my|your|our|their|some|several|a few|few|two|three|four|five|six|seven|eight|nine|ten|"
    r"(?:a |an )?(?:pair|group|flock|herd|pack|bunch|pile|row|crowd) of)\s+",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"\s((?:of|in|on|at|with|without|from|under|over|near|by|beside|behind|between|among|against|along|around|above|below|"
    r"for|to|made|wearing|eating|playing|standing|sitting|running|flying|swimming|lying|sleeping|during|while|that|which|"
    r"who|seen|next|inside|outside|through|before|after|across)\s.*)",
    re.IGNORECASE,
)


def read_command(text: str) -> Command:
    """The subjects and axes of a command. Raises ConfigError where it names nothing to show."""
    rest = " ".join(text.split()).strip(" .!?\"'“”")
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


def _take_axes(text: str) -> tuple[str, tuple[str, ...]]:
    """The command without what it wants every kind of, and the names of these axes."""
    axes: dict[str, None] = {}
    word = re.compile(rf"\b(?:{_AXIS_WORD})\b", re.IGNORECASE)
    for match in _AXES.finditer(text):
        axes |= dict.fromkeys(AXIS_WORDS[found.lower()] for found in word.findall(match["words"]))
    rest = _AXES.sub(" ", text)
    # What joined them is left over: "birds, and" and "birds in flight ,".
    rest = re.sub(r"(\s*(,|;|&|\b(?:and|or|but|seen|shown|taken)\b))+\s*$", "", rest, flags=re.IGNORECASE)
    rest = re.sub(r"^\s*((,|;|&|\b(?:and|or)\b)\s*)+", "", rest, flags=re.IGNORECASE)
    return " ".join(rest.split()), tuple(axes)


def _subjects(text: str) -> tuple[Subject, ...]:
    """The subjects that a list names, each once."""
    shared = _of_kind_with_tail(text)
    if shared:
        return (shared,)
    items = [item for item in _SEPARATOR.split(text) if re.search(r"\w", item)]
    subjects: list[Subject] = []
    for item in _with_nouns(items):
        subject = _subject(item)
        if _is_only_tail(item) and subjects:
            # "dogs, in the snow": what follows the comma is of all before it.
            subjects = [replace(before, tail=f"{before.tail} {_place(item)}".strip()) for before in subjects]
        elif subject.concept and subject not in subjects:
            subjects.append(subject)
    if subjects and subjects[-1].tail and not any(subject.tail for subject in subjects[:-1]):
        # "cats and dogs in the snow": both of them.
        subjects = [replace(subject, tail=subjects[-1].tail) for subject in subjects]
    return tuple({subject.concept: subject for subject in subjects}.values())


def _of_kind_with_tail(text: str) -> Subject | None:
    """The subject of a phrase that a separator would tear apart although it is one: none yet but a known kind."""
    name = _kind_of(text)
    return _subject(text) if name else None


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
        if name and determiner in (None, "some", "many", "the") and (start == 0 or is_plural(head) or name == "people"):
            place = next((PLACES[word] for word in re.findall(r"\w+", tail.lower()) if word in PLACES), "")
            members = PLACED.get((name, place)) or KINDS[name].members
            adjectives = " ".join(words[:start])
            return Subject(name, members, KINDS[name].scene, adjectives, None, _place(tail))
    return _thing(head, tail, determiner)


def _thing(head: str, tail: str, determiner: str | None) -> Subject:
    """A subject that is no kind, or one of it: it shows itself."""
    counted = determiner not in (None, "a", "an", "the", "this", "that", "my", "your", "our", "their", "some")
    noun = head if counted else singular(head)
    concept = singular(head)
    if determiner in ("a", "an"):
        determiner = None
    elif determiner == "some" or (determiner is None and _takes_no_article(noun)):
        determiner = ""
    return Subject(concept, (noun,) if noun else (), _scene_of(concept), "", determiner, _place(tail))


def _takes_no_article(noun: str) -> bool:
    last = noun.split()[-1] if noun.split() else ""
    return last.lower() in MASS or not noun.isascii() or last.lower() in PROPER or last.endswith("ing")


def _scene_of(noun: str) -> str:
    """The scene of the kind that the noun is, or is one of; longer names first: "bicycle" of "red bicycle"."""
    words = noun.split()
    for start in range(len(words)):
        end = " ".join(words[start:]).lower()
        if name := _kind_of(end):
            return KINDS[name].scene
        for kind in KINDS.values():
            if end in (member.lower() for member in kind.members):
                return kind.scene
    return ""


def _kind_of(phrase: str) -> str:
    """The name of the kind that a phrase says in the singular or the plural; empty where it says none."""
    lower = phrase.lower().strip()
    # "birds of prey" has its plural inside.
    first, _, rest = lower.partition(" of ")
    forms = [lower, singular(lower), f"{singular(first)} of {rest}" if rest else lower]
    for form in forms:
        if form in KINDS:
            return form
        if form in OTHER_WORDS:
            return OTHER_WORDS[form]
    return ""


def _split_tail(item: str) -> tuple[str, str]:
    """The noun with what stands before it, and what stands after it."""
    for length in range(len(item.split()), 0, -1):
        words = item.split()
        if _kind_of(" ".join(words[:length])):
            return " ".join(words[:length]), " ".join(words[length:])
    match = _TAIL.search(f" {item}", 1)
    return (f" {item}"[: match.start()].strip(), match[1]) if match else (item, "")


def _place(tail: str) -> str:
    """A tail as one thing says it: names with capitals, and "of the alps" as "in the Alps"."""
    words = [PROPER.get(word.lower(), word) for word in tail.split()]
    is_place = bool(words) and (words[-1] in PROPER.values() or words[-1].lower() in GEOGRAPHIC)
    if is_place and words[0].lower() in ("of", "from"):
        words[0] = "in"
    return " ".join(words)
