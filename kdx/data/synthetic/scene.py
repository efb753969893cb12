"""Scenes of the synthetic set, a large object with or without a second one before a background, and their captions.

A scene's class is colour and shape of its main object ("purple star"). Captions come from a grammar and are partial,
as text on the web is: most name the shape, many the colour, some the texture, the other object or the surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .shapes import SHAPES, TEXTURES

MAIN_SHAPES = ("circle", "square", "triangle", "star", "heart", "flower")
COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "white", "brown")
CLASSES = tuple(f"{colour} {shape}" for shape in MAIN_SHAPES for colour in COLOURS)
TEMPLATES = ("a {}", "a picture of a {}", "a drawing of a {}", "there is a {}")

# background → how captions speak of it
BACKGROUNDS = {
    "paper": ("on paper", "on a plain background", "on a soft background"),
    "sky": ("in the sky", "in a blue sky", "among the clouds"),
    "sunset": ("at sunset", "in the evening", "before a setting sun"),
    "night": ("at night", "in the night sky", "under the stars"),
    "meadow": ("on a meadow", "above green hills", "in the countryside"),
    "sea": ("by the sea", "over the sea", "above the waves"),
    "snow": ("in the snow", "in winter", "above snowy hills"),
}
# relation: how the main object stands to the other → x and y of that one's centre from it, in units of the sum of
# both radii; how the main one stands to the other, in words; how the other stands to the main one
RELATIONS = {
    "left": (1, 0, ("left of", "to the left of", "next to"), ("right of", "beside")),
    "right": (-1, 0, ("right of", "to the right of", "next to"), ("left of", "beside")),
    "above": (0, 1, ("above", "over"), ("below", "under", "underneath")),
    "below": (0, -1, ("below", "under", "underneath"), ("above", "over")),
    "front": (0.6, 0.6, ("in front of", "before"), ("behind",)),
}
SYNONYMS = {"circle": "disc", "flower": "blossom", "striped": "stripy", "dotted": "spotted"}
FRAMES = ("a picture of {}", "a drawing of {}", "there is {}", "look, {}", "{}, sticker", "cute: {}")


@dataclass(frozen=True)
class Object:
    """One shape. x, y: centre; radius; all in units of the picture's side. angle: radians, clockwise."""

    shape: str
    texture: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """other: with the main object's relation to it; None where that one stands alone."""

    background: str
    main: Object
    other: tuple[str, Object] | None

    @property
    def label(self) -> int:
        return CLASSES.index(f"{self.main.colour} {self.main.shape}")


def random_scene(random: Random) -> Scene:
    """A scene of a uniformly drawn class."""
    relation = random.choice(tuple(RELATIONS)) if random.random() < 0.45 else None
    along, down = RELATIONS[relation][:2] if relation else (0, 0)
    main = Object(
        shape=random.choice(MAIN_SHAPES),
        texture=random.choice(("plain", *TEXTURES)),
        colour=random.choice(COLOURS),
        x=0.5 - 0.1 * along + random.uniform(-0.05, 0.05),  # it moves aside for the other
        y=0.5 - 0.1 * down + random.uniform(-0.05, 0.05),
        radius=random.uniform(0.28, 0.38),
        angle=random.uniform(-0.35, 0.35),
    )
    radius = random.uniform(0.1, 0.14)
    reach = (main.radius + radius) * random.uniform(0.98, 1.05)
    other = Object(
        shape=random.choice([shape for shape in SHAPES if shape != main.shape]),
        texture=random.choice(("plain", "plain", "plain", *TEXTURES)),
        colour=random.choice([colour for colour in COLOURS if colour != main.colour]),
        x=min(max(main.x + along * reach, radius), 1 - radius),  # inside the picture
        y=min(max(main.y + down * reach, radius), 1 - radius),
        radius=radius,
        angle=random.uniform(-0.3, 0.3),
    )
    return Scene(random.choice(tuple(BACKGROUNDS)), main, (relation, other) if relation else None)


def write_caption(scene: Scene, random: Random) -> str:
    """One caption of the scene: lower case, without a full stop, 1 to about 20 words."""
    surroundings = random.choice(BACKGROUNDS[scene.background])
    if random.random() < 0.03:
        return f"{random.choice(('a quiet picture', 'shapes', 'something pretty'))} {surroundings}"
    text = _objects(scene, random)
    if random.random() < 0.15:
        text = f"{text} {surroundings}"
    return random.choice(FRAMES).format(text) if random.random() < 0.3 else text


def _objects(scene: Scene, random: Random) -> str:
    main = _phrase(scene.main, random)
    if scene.other is None or random.random() < 0.5:
        return main
    relation, thing = scene.other
    other, (_, _, forward, backward) = _phrase(thing, random), RELATIONS[relation]
    if random.random() < 0.7:
        return f"{main} {random.choice((*forward, 'and'))} {other}"
    return f"{other} {random.choice((*backward, 'with'))} {main}"


def _phrase(thing: Object, random: Random) -> str:
    size = random.choice(("big", "large") if thing.radius > 0.18 else ("small", "little", "tiny"))
    chances = {size: 0.15, thing.colour: 0.8, thing.texture: 0.3, thing.shape: 1.0}
    words = [
        SYNONYMS.get(word, word) if random.random() < 0.12 else word
        for word, chance in chances.items()
        if random.random() < chance
    ]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"
