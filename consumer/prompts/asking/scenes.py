"""The built-in grammar's scenes: what each group of kinds does, and where."""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.consumer.prompts.asking.english import phrases


@dataclass(frozen=True, slots=True)
class Scene:
    """What suits a group of kinds."""

    actions: tuple[str, ...]
    """What it does, or how it is: directly after the noun."""
    places: tuple[str, ...]
    """Where it is."""
    views: bool = True
    """Whether it is photographed; what is written is not."""


def _inks_on_papers() -> tuple[str, ...]:
    """What the toy world's writing may look like, in its own words: ink, paper, both."""
    inks = [f"in {ink} ink" for ink in phrases("black; dark blue; dark red; dark green; purple; brown")]
    papers = [f"on {paper} paper" for paper in phrases("white; grey; pink; yellow; light blue; light green")]
    return (*inks, *papers, *(f"{ink} {paper}" for ink in inks for paper in papers))


SCENES: Mapping[str, Scene] = {
    "animal": Scene(
        phrases(
            """running; resting; standing still; walking towards the camera; eating; drinking; playing; asleep; looking
            into the camera; looking back; lying down; sniffing the ground; jumping; yawning; stretching; with wet
            fur"""
        ),
        phrases(
            """in a meadow; in a forest; by a river; on a hillside; in tall grass; on a country road; in a garden; on a
            beach; among rocks; in a clearing; by a fence; on a gravel path; under a tree"""
        ),
    ),
    "pet": Scene(
        phrases(
            """running; sleeping; sitting; standing; playing with a ball; eating from a bowl; looking into the camera;
            looking up; lying down; jumping; yawning; stretching; curled up; waiting at a door"""
        ),
        phrases(
            """on a sofa; in a garden; in a park; on a carpet; in a kitchen; on a beach; on a windowsill; in a meadow;
            on a doorstep; on a city pavement; in a living room; in the snow; on a wooden floor"""
        ),
    ),
    "bird": Scene(
        phrases(
            """in flight; perched on a branch; standing on a rock; singing; looking for food; spreading its wings;
            taking off; landing; sitting on its nest; preening its feathers; with food in its beak; with ruffled
            feathers; seen in silhouette; looking back; on the ground"""
        ),
        phrases(
            """in a forest; by a lake; in a garden; over a meadow; among reeds; on a cliff; in a hedge; on a fence
            post; on a beach; above a valley; in a park; at the edge of a wood"""
        ),
    ),
    "fish": Scene(
        phrases(
            """swimming; near the surface; close to the bottom; in clear water; in murky water; among weeds; turning;
            hiding between stones; leaping out of the water; in a shoal"""
        ),
        phrases("in the sea; in a river; in a lake; in a coral reef; in a pond; in an aquarium; in shallow water"),
    ),
    "insect": Scene(
        phrases(
            """resting; in flight; feeding; with open wings; covered in dew; crawling; landing; seen in silhouette;
            cleaning itself"""
        ),
        phrases(
            """on a leaf; on a flower; on a blade of grass; on bark; in a garden; in a meadow; on a stone; on a window
            pane; on a human hand; on a thistle"""
        ),
    ),
    "flower": Scene(
        phrases(
            """in full bloom; in bud; just opening; covered in dew; swaying in the wind; beginning to wilt; after the
            rain; with a bee on it; among others of its kind; growing alone"""
        ),
        phrases(
            """in a garden; in a meadow; in a vase; in a flower pot; by a path; on a rocky slope; at the edge of a
            wood; in a greenhouse; on a windowsill; in front of a wall; by a stream"""
        ),
    ),
    "tree": Scene(
        phrases(
            """standing alone; bent by the wind; with bare branches; with a thick trunk; reflected in water; seen from
            below; hung with moss; with birds in its crown; casting a long shadow; struck by lightning"""
        ),
        phrases(
            """on a hill; in a park; in a field; by a lake; in a forest; along a road; on a cliff; in a courtyard; by a
            river; in a valley; in a village square"""
        ),
    ),
    "food": Scene(
        phrases(
            """cut in half; just served; half eaten; steaming; neatly arranged; seen from above; in a large portion; in
            a small portion; with a fork beside it; garnished with herbs"""
        ),
        phrases(
            """on a white plate; in a bowl; on a wooden board; on a kitchen table; on a market stall; on a picnic
            blanket; on a tray; in a paper bag; on a tablecloth; on a counter"""
        ),
    ),
    "produce": Scene(
        phrases(
            """cut in half; with drops of water on it; just picked; half eaten; in a pile; in slices; with a leaf still
            on it; seen from above; with brown spots"""
        ),
        phrases(
            """on a white plate; in a bowl; on a wooden board; in a basket; on a market stall; on the ground; on a
            kitchen table; in a crate; in a hand; on a windowsill"""
        ),
    ),
    "drink": Scene(
        phrases(
            "just poured; half finished; with ice; steaming; seen from above; with a straw; spilled; in two servings"
        ),
        phrases(
            """on a bar; on a garden table; on a tray; on a desk; on a windowsill; on a picnic blanket; by a pool; in a
            hand; on a kitchen counter"""
        ),
    ),
    "vehicle": Scene(
        phrases(
            """parked; moving fast; covered in mud; covered in dust; seen from the side; seen from the front; seen from
            behind; with bright headlights; with mud on its wheels; with scratched paint; with shiny paint; with one
            wheel in a puddle"""
        ),
        phrases(
            """on a city street; on a country road; in front of a house; on a bridge; in a narrow lane; in a car park;
            by a field; on cobblestones; by the sea; at a crossing; under trees; beside a brick wall"""
        ),
    ),
    "boat": Scene(
        phrases(
            """at anchor; under way; seen from the shore; reflected in the water; in high waves; seen from above;
            heading for the horizon; with flaking paint; with bright new paint"""
        ),
        phrases("in a harbour; on the open sea; on a lake; on a river; off a rocky coast; beside a jetty; in a canal"),
    ),
    "aircraft": Scene(
        phrases(
            """taking off; landing; high in the sky; flying low; seen from below; parked; turning; seen from the side;
            leaving a trail"""
        ),
        phrases("above a city; above the clouds; over the sea; on a runway; in front of a hangar; over mountains"),
    ),
    "building": Scene(
        phrases(
            """seen from the street; seen from above; seen from afar; with lit windows; covered in ivy; half in ruins;
            behind scaffolding; with flaking paint; reflected in water; behind trees"""
        ),
        phrases(
            """on a hill; in a village; in a city; by a lake; by the sea; in a forest; in a valley; on a square; by a
            river; in open country"""
        ),
    ),
    "person": Scene(
        phrases(
            """at work; smiling; looking into the camera; seen from behind; laughing; deep in thought; taking a break;
            talking to somebody; walking; sitting down; wearing a hat"""
        ),
        phrases(
            """on a city street; in an office; in a workshop; in a garden; at a market; in a kitchen; by a window; in a
            park; at a railway station; in front of a wall"""
        ),
    ),
    "object": Scene(
        phrases(
            """seen from above; seen from the side; seen up close; showing signs of wear; in mint condition; half in
            shadow; lying on its side; held in a hand; among other things; covered in dust"""
        ),
        phrases(
            """on a wooden table; on the floor; on a shelf; on a white background; on a windowsill; in a workshop; in a
            living room; in a shop window; on a carpet; on a desk; against a grey wall; in the grass"""
        ),
    ),
    "furniture": Scene(
        phrases(
            """seen from above; seen from the side; seen from the front; seen up close; showing signs of wear; in mint
            condition; half in shadow; covered in dust; with a blanket over it; surrounded by boxes"""
        ),
        phrases(
            """in a living room; in a bedroom; in an office; in an empty room; by a window; against a white wall; in a
            shop; in a garden; on a terrace; in an attic; on a wooden floor; on a carpet"""
        ),
    ),
    "instrument": Scene(
        phrases(
            """seen from above; seen from the side; seen up close; being played; showing signs of wear; in mint
            condition; half in shadow; under a spotlight; with sheet music beside it"""
        ),
        phrases(
            """on a stage; in a music room; in a living room; in a shop window; in front of a curtain; in a concert
            hall; on a carpet; in a workshop; in a museum; on a street corner"""
        ),
    ),
    "landscape": Scene(
        phrases(
            """seen from above; seen from afar; with a lone figure; without a soul; stretching to the horizon; with a
            path leading into it; reflected in water; seen through trees"""
        ),
        phrases("under a wide sky; under a cloudy sky; under a clear sky; beneath dark clouds; under the stars"),
    ),
    "landmark": Scene(
        phrases(
            """seen from afar; seen from below; seen from the street; seen from above; with people in front of it;
            reflected in water; behind trees; in silhouette; half hidden by fog; between other things"""
        ),
        phrases("under a clear sky; under a cloudy sky; beneath dark clouds; under a wide sky; against the sky"),
    ),
    "writing": Scene((), _inks_on_papers(), views=False),
    "": Scene(
        phrases(
            """seen from above; seen from the side; seen from the front; seen from behind; seen from afar; seen up
            close; half in shadow; reflected in a puddle; in the middle of the picture; at the edge of the picture;
            with a blurred background; against the light"""
        ),
        phrases(
            """outdoors; indoors; on a white background; in front of a grey wall; in front of a window; in a garden; in
            a quiet street; in a large hall; under an open sky; in a room with little else in it"""
        ),
    ),
}
"""By the name that `KINDS` gives them; the empty name suits anything."""
