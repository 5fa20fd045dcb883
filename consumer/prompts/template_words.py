"""The built-in templates and the lists that their fields are drawn from: varied and plain."""

from collections.abc import Mapping

from penstock.consumer.prompts.asking.english import phrases

ALONE = (
    "a {concept}",
    "a photo of a {concept}",
    "a close-up photo of a {concept}",
    "a photo of a {concept} {light}",
    "a photo of a {concept}, {view}",
    "a {concept} {time}",
    "a {concept} {weather}",
    "a {style} of a {concept}",
    "a {style} of a {concept} {light}",
    "a {concept}, {view}, {light}",
    "a blurry snapshot of a {concept}",
    "a detailed photo of a {concept} {time}",
)
"""c to caption."""

WITH_BACKGROUND = (
    "a {concept} {background}",
    "a photo of a {concept} {background}",
    "a photo of a {concept} {background}, {light}",
    "a {concept} {background} {time}",
    "a {concept} {background} {weather}",
    "a {concept} {background}, {view}",
    "a wide photo of a {concept} {background}",
    "a wide photo of a {concept} {background} {time}",
    "a {style} of a {concept} {background}",
    "a small {concept} far away {background}",
    "a snapshot of a {concept} {background}, {view}",
    "a {concept} {background}, {view}, {light}",
)
"""c + background to caption."""

WITH_RELATION = (
    "a {concept} {relation} a {other}",
    "a photo of a {concept} {relation} a {other}",
    "a {concept} {relation} a {other} {background}",
    "a photo of a {concept} {relation} a {other}, {light}",
    "a {concept} {relation} a {other} {time}",
    "a {concept} {relation} a {other}, {view}",
    "a {style} of a {concept} {relation} a {other}",
    "a close-up photo of a {concept} {relation} a {other}",
    "a wide photo of a {concept} {relation} a {other} {background}",
    "a snapshot of a {concept} {relation} a {other}",
    "a {concept} {relation} a {other} {weather}",
    "a photo of a {concept} {relation} a {other} {background}, {light}",
)
"""c + relation to caption."""

LISTS: Mapping[str, tuple[str, ...]] = {
    "background": phrases(
        """in a forest; on a beach; in a meadow; on a city street; in a garden; by a river; by a lake; on a mountain
        path; in a desert; in a field of wheat; in a field of flowers; on a wooden table; on a stone floor; on a white
        background; in a kitchen; in a living room; in a workshop; in a market; in a park; on a bridge; in a harbour;
        on a rooftop; in a museum; in a library; in a classroom; in an office; in a courtyard; in a village square; in
        a car park; at a railway station; on a country road; in a farmyard; in a barn; by a campfire; under a tree; in
        tall grass; on a carpet; on a sofa; on a windowsill; on a shelf; in front of a brick wall; in front of a plain
        grey wall; in front of a window; against a blue sky; on bare rock; on wet sand; in the snow; on a frozen lake;
        in shallow water; in a swamp; in a canyon; in a cave; in a greenhouse; in an old town; in an empty hall; on a
        staircase; in a shop window; on a gravel path; in a vineyard; in the suburbs"""
    ),
    "relation": phrases(
        """next to; behind; in front of; beside; near; to the left of; to the right of; above; below; facing; far from;
        close to; across from; on top of; under; leaning against; half hidden by; in the shadow of; larger than;
        smaller than; together with; between the camera and; in the distance behind; touching"""
    ),
    "style": phrases(
        """watercolour painting; pencil drawing; charcoal sketch; oil painting; ink drawing; black-and-white photo;
        vintage photo; polaroid; film photo; digital illustration; woodcut; linocut; pastel drawing; screen print; 3D
        rendering; clay model; paper cut-out; mosaic; embroidery; stained-glass window; comic panel; chalk drawing;
        poster; postcard; low-angle photo; long-exposure photo"""
    ),
    "time": phrases(
        """at dawn; at sunrise; early in the morning; in the morning; at midday; in the early afternoon; in the
        afternoon; late in the afternoon; at sunset; at dusk; in the evening; at night; at midnight; on a moonlit
        night; in spring; in early spring; in summer; in midsummer; in autumn; in late autumn; in winter; in midwinter;
        on the first warm day of the year; on a long summer evening"""
    ),
    "light": phrases(
        """in soft light; in harsh light; in dim light; in bright light; in warm light; in cool light; in diffuse
        light; in even light; in dappled light; against the light; lit from the left; lit from the right; lit from
        above; lit from below; lit by a lamp; lit by candles; lit by a flash; lit through a window; in deep shade; half
        in shadow; in neon light; in studio light; in golden light; in pale light"""
    ),
    "weather": phrases(
        """in bright sunshine; under a cloudy sky; under an overcast sky; in light rain; in heavy rain; after the rain;
        in a thunderstorm; in thick fog; in morning mist; in falling snow; in a snowstorm; on a frosty day; on a windy
        day; on a hot day; on a cold day; on a humid day; under scattered clouds; under storm clouds; in a drizzle; in
        a sandstorm; in hail; under a clear sky; in haze; on a rainy day"""
    ),
    "view": phrases(
        """seen from above; seen from below; seen from the side; seen from the front; seen from behind; seen from afar;
        seen up close; seen at eye level; seen at an angle; seen through a window; seen through a fence; seen through
        leaves; seen in a mirror; in the centre of the picture; at the left edge of the picture; at the right edge of
        the picture; filling the picture; cut off by the edge of the picture; in the lower half of the picture;
        slightly out of focus; in sharp focus; with a blurred background; with much empty space around it; in
        three-quarter view"""
    ),
}
"""Fields and what may stand in them."""
