"""A little English: articles, and the singular and plural of nouns."""

import re

_DETERMINED = re.compile(
    r"(a|an|the|this|that|these|those|my|your|his|her|its|our|their|some|several|many|few|both|two|three|four|five|six"
    r"|seven|eight|nine|ten|\d+)\s",
    re.IGNORECASE,
)
_VOWEL_SOUND = re.compile(r"[aeiou]|hour|honest|heir|honour|honor", re.IGNORECASE)
_CONSONANT_SOUND = re.compile(r"uni(?!n|m)|use|usu|eu|ewe|one\b|once\b|ukulele|utensil|urinal|u-|u\b", re.IGNORECASE)
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "leaf": "leaves",
    "wolf": "wolves",
    "calf": "calves",
    "loaf": "loaves",
    "knife": "knives",
    "wife": "wives",
    "life": "lives",
    "shelf": "shelves",
    "scarf": "scarves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "buffalo": "buffaloes",
    "volcano": "volcanoes",
    "cactus": "cacti",
    "fungus": "fungi",
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "aircraft": "aircraft",
    "sportsman": "sportsmen",
    "fisherman": "fishermen",
    "fireman": "firemen",
    "snowman": "snowmen",
    "species": "species",
    "triceratops": "triceratops",
    "lens": "lenses",
    "bus": "buses",
    "gas": "gases",
    "axe": "axes",
    "house": "houses",
    "horse": "horses",
    "shoe": "shoes",
    "toe": "toes",
    "canoe": "canoes",
    "movie": "movies",
    "cookie": "cookies",
    "pie": "pies",
    "magpie": "magpies",
    "tie": "ties",
    "zombie": "zombies",
    "cache": "caches",
    "avalanche": "avalanches",
    "bonsai": "bonsai",
    "salmon": "salmon",
    "trout": "trout",
    "bison": "bison",
    "moose": "moose",
    "dwarf": "dwarfs",
    "piano": "pianos",
    "photo": "photos",
    "headache": "headaches",
    "moustache": "moustaches",
}
_REGULAR = {plural: singular for singular, plural in _IRREGULAR.items()}
_ALWAYS_PLURAL = {"people", "scissors", "trousers", "jeans", "glasses", "clothes", "shorts", "binoculars", "pyjamas"}
_SINGULAR_IN_S = re.compile(r"(ss|us|is|as|os|ous)$", re.IGNORECASE)


def phrases(text: str) -> tuple[str, ...]:
    """The phrases of a text with `;` between them."""
    return tuple(" ".join(phrase.split()) for phrase in text.split(";") if phrase.strip())


def is_plural(noun: str) -> bool:
    """Whether a noun phrase looks like a plural: its last word, or the last before "of"."""
    head = noun.partition(" of ")[0].split()
    last = head[-1].lower() if head else ""
    if last in _IRREGULAR:
        return False
    if last in _REGULAR or last in _ALWAYS_PLURAL:
        return True
    return len(last) > 3 and last.endswith("s") and not _SINGULAR_IN_S.search(last)


def article(noun: str) -> str:
    """`a ` or `an `, as the noun phrase sounds; nothing before a plural or another determiner."""
    if _DETERMINED.match(noun) or is_plural(noun):
        return ""
    sounds_like_vowel = _VOWEL_SOUND.match(noun) and not _CONSONANT_SOUND.match(noun)
    return "an " if sounds_like_vowel else "a "


def indefinite(noun: str) -> str:
    """The noun phrase with its article: `an owl`, `a unicorn`, `trousers`."""
    return article(noun) + noun


def singular(noun: str) -> str:
    """The noun phrase in the singular: `red bicycle`, `cup of tea`; as it is where it is no plural."""
    head, of, rest = noun.partition(" of ")
    *before, last = head.split() or [""]
    if not is_plural(last) or last.lower() in _ALWAYS_PLURAL - {"people"}:
        return noun
    return " ".join([*before, _singular_word(last)]) + of + rest


def _singular_word(word: str) -> str:
    lower = word.lower()
    if lower in _REGULAR:
        return _REGULAR[lower]
    for many, one in _REGULAR.items():
        if len(many) > 4 and lower.endswith(many):  # bookshelves, seahorses
            return word[: -len(many)] + one
    if lower.endswith("ies"):
        return word[:-3] + "y"
    if lower.endswith(("ches", "shes", "sses", "xes", "zzes")):
        return word[:-2]
    return word[:-1]
