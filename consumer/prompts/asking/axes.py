"""What the built-in grammar can go through: "in every season", "at every time of day", "in all colours"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from penstock.consumer.prompts.asking.english import phrases

COLOURS = phrases("""red; orange; yellow; green; blue; purple; pink; brown; black; white; grey; turquoise""")

Position = Literal["adjective", "phrase", "style"]


@dataclass(frozen=True, slots=True)
class Axis:
    """What "every ..." goes through."""

    position: Position
    """Before the noun, after it, or before the whole ("a watercolour painting of")."""
    values: tuple[str, ...]
    """Empty for what the kind of the subject decides."""


AXES: Mapping[str, Axis] = {
    "season": Axis("phrase", phrases("in spring; in summer; in autumn; in winter")),
    "month": Axis(
        "phrase",
        phrases(
            """in January; in February; in March; in April; in May; in June; in July; in August; in September; in
            October; in November; in December"""
        ),
    ),
    "time": Axis(
        "phrase",
        phrases(
            """at dawn; early in the morning; at midday; in the afternoon; at sunset; at dusk; in the evening; at
            night"""
        ),
    ),
    "weather": Axis(
        "phrase",
        phrases(
            """in bright sunshine; under a cloudy sky; in light rain; in heavy rain; in thick fog; in falling snow; in
            a thunderstorm; on a windy day"""
        ),
    ),
    "light": Axis(
        "phrase",
        phrases(
            """in soft light; in harsh light; in dim light; in warm light; in cool light; against the light; lit from
            the side; lit from above; in deep shade"""
        ),
    ),
    "angle": Axis(
        "phrase",
        phrases(
            """seen from above; seen from below; seen from the front; seen from behind; seen from the left; seen from
            the right; seen from afar; seen up close"""
        ),
    ),
    "place": Axis("phrase", ()),
    "pose": Axis("phrase", ()),
    "colour": Axis("adjective", COLOURS),
    "size": Axis("adjective", phrases("tiny; small; medium-sized; large; huge")),
    "age": Axis("adjective", phrases("young; half-grown; adult; old")),
    "material": Axis("adjective", phrases("wooden; metal; glass; plastic; stone; ceramic; paper; leather; cloth")),
    "style": Axis(
        "style",
        phrases(
            """photo; watercolour painting; oil painting; pencil drawing; ink drawing; charcoal sketch; woodcut;
            mosaic; clay model; 3D rendering; comic panel; embroidery"""
        ),
    ),
}
"""By the word of `AXIS_WORDS`."""

AXIS_WORDS: Mapping[str, str] = {
    **dict.fromkeys(phrases("season; seasons; time of year; times of year; times of the year"), "season"),
    **dict.fromkeys(phrases("month; months; month of the year; months of the year"), "month"),
    **dict.fromkeys(phrases("time of day; times of day; times of the day; hour; hours; hour of the day"), "time"),
    **dict.fromkeys(phrases("weather; weathers; weather conditions; weather condition; climate; climates"), "weather"),
    **dict.fromkeys(phrases("light; lights; lighting; lightings; lighting conditions; lighting condition"), "light"),
    **dict.fromkeys(phrases("angle; angles; view; views; viewpoint; viewpoints; direction; directions; side"), "angle"),
    **dict.fromkeys(phrases("sides; perspective; perspectives; viewing angle; viewing angles"), "angle"),
    **dict.fromkeys(phrases("place; places; setting; settings; background; backgrounds; environment"), "place"),
    **dict.fromkeys(phrases("environments; surroundings; location; locations; habitat; habitats; scene"), "place"),
    **dict.fromkeys(phrases("scenes; context; contexts"), "place"),
    **dict.fromkeys(phrases("pose; poses; position; positions; posture; postures; activity; activities"), "pose"),
    **dict.fromkeys(phrases("colour; colours; color; colors; hue; hues"), "colour"),
    **dict.fromkeys(phrases("size; sizes"), "size"),
    **dict.fromkeys(phrases("age; ages; stage of life; stages of life"), "age"),
    **dict.fromkeys(phrases("material; materials"), "material"),
    **dict.fromkeys(phrases("style; styles; art style; art styles; medium; media; technique; techniques"), "style"),
}
"""What may follow "every", and which axis it means."""

NAMED_VALUES: Mapping[str, tuple[str, str]] = {
    **{season: ("season", f"in {season}") for season in phrases("spring; summer; autumn; fall; winter")},
    **{time: ("time", f"at {time}") for time in phrases("dawn; sunrise; noon; midday; sunset; dusk; night; midnight")},
    "day": ("time", "by day"),
    "morning": ("time", "in the morning"),
    "evening": ("time", "in the evening"),
    **{month[3:].lower(): ("month", month) for month in AXES["month"].values},
}
"""Words that a command may list instead of "every": "in spring and in autumn"; their axis, and what is said."""

VIEWS = ("photo", "close-up photo", "wide-angle photo", "snapshot", "detailed photo", "grainy photo", "telephoto shot")
LIGHTS = AXES["light"].values
