"""What the built-in grammar can go through: "in every season", "at every time of day", "in all colours"."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from penstock.consumer.prompts.english import phrases

COLOURS = phrases(
    """red; orange; yellow; green; blue; purple; pink; brown; black; white; grey; turquoise"""
)

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
            """in January; in February; in March; in April; in May; in June; in July; in August; in September; in October;
            in November; in December"""
        ),
    ),
    "time": Axis(
        "phrase",
        phrases(
            """at dawn; early in the morning; at midday; in the afternoon; at sunset; at dusk; in the evening; at night"""
        ),
    ),
    "weather": Axis(
        "phrase",
        phrases(
            """in bright sunshine; under a cloudy sky; in light rain; in heavy rain; in thick fog; in falling snow; in a
            thunderstorm; on a windy day"""
        ),
    ),
    "light": Axis(
        "phrase",
        phrases(
            """in soft light; in harsh light; in dim light; in warm light; in cool light; against the light; lit from the
            side; lit from above; in deep shade"""
        ),
    ),
    "angle": Axis(
        "phrase",
        phrases(
            """seen from above; seen from below; seen from the front; seen from behind; seen from the left; seen from the
            right; seen from afar; seen up close"""
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
            """photo; watercolour painting; oil painting; pencil drawing; ink drawing; charcoal sketch; woodcut; mosaic;
            clay model; 3D rendering; comic panel; embroidery"""
        ),
    ),
}
"""By the word of `AXIS_WORDS`."""

AXIS_WORDS: Mapping[str, str] = {
    **{word: "season" for word in phrases("season; seasons; time of year; times of year; times of the year")},
    **{word: "month" for word in phrases("month; months; month of the year; months of the year")},
    **{word: "time" for word in phrases("time of day; times of day; times of the day; hour; hours; hour of the day")},
    **{word: "weather" for word in phrases("weather; weathers; weather conditions; weather condition; climate; climates")},
    **{word: "light" for word in phrases("light; lights; lighting; lightings; lighting conditions; lighting condition")},
    **{word: "angle" for word in phrases("angle; angles; view; views; viewpoint; viewpoints; direction; directions; side")},
    **{word: "angle" for word in phrases("sides; perspective; perspectives; viewing angle; viewing angles")},
    **{word: "place" for word in phrases("place; places; setting; settings; background; backgrounds; environment")},
    **{word: "place" for word in phrases("environments; surroundings; location; locations; habitat; habitats; scene")},
    **{word: "place" for word in phrases("scenes; context; contexts")},
    **{word: "pose" for word in phrases("pose; poses; position; positions; posture; postures; activity; activities")},
    **{word: "colour" for word in phrases("colour; colours; color; colors; hue; hues")},
    **{word: "size" for word in phrases("size; sizes")},
    **{word: "age" for word in phrases("age; ages; stage of life; stages of life")},
    **{word: "material" for word in phrases("material; materials")},
    **{word: "style" for word in phrases("style; styles; art style; art styles; medium; media; technique; techniques")},
}
"""What may follow "every", and which axis it means."""

VIEWS = ("photo", "close-up photo", "wide-angle photo", "snapshot", "detailed photo", "grainy photo", "telephoto shot")
LIGHTS = AXES["light"].values
