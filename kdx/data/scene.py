"""Scenes of the synthetic set: coloured, textured shapes in relations before a background, and their captions.

A scene has one main object; its class is colour and shape ("purple star"). Other objects are smaller, or hold
the main one. Captions come from a grammar and are partial, as text on the web is: most name the shape, many the
colour, some the texture, a neighbour or the surroundings, a few only those.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "heart", "flower")  # of main objects
OTHER_SHAPES = (*SHAPES, "moon", "leaf", "drop", "cloud", "ring", "cross")
HOLDERS = ("circle", "square", "heart", "flower", "cloud")  # roomy enough to hold a main object
TEXTURES = ("plain", "striped", "dotted", "checkered")
COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "white", "brown")
CLASSES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
TEMPLATES = ("a {}", "a picture of a {}", "a drawing of a {}", "there is a {}")

# background → how captions speak of it
BACKGROUNDS = {
    "paper": ("on paper", "on a plain background", "on a soft background"),
    "sky": ("in the sky", "in a blue sky", "among the clouds"),
    "sunset": ("at sunset", "in the evening", "before a setting sun"),
    "night": ("at night", "in the night sky", "under the stars"),
    "meadow": ("on a meadow", "above green hills", "in the countryside"),
    "sea": ("by the sea", "over the sea", "above the waves"),
    "desert": ("in the desert", "above the dunes", "over warm sand"),
    "snow": ("in the snow", "in winter", "above snowy hills"),
}

# relation of the main object to another → (main … other, other … main)
RELATIONS = {
    "left": (("left of", "to the left of", "beside", "next to"), ("right of", "to the right of", "beside")),
    "right": (("right of", "to the right of", "beside", "next to"), ("left of", "to the left of", "beside")),
    "above": (("above", "over"), ("below", "under", "underneath")),
    "below": (("below", "under", "underneath"), ("above", "over")),
    "front": (("in front of", "before"), ("behind",)),
    "inside": (("inside", "in", "within"), ("around", "surrounding")),
}

# Where the other object's centre lies, seen from the main one, in units of the sum of both radii.
OFFSETS = {
    "left": (1, 0),
    "right": (-1, 0),
    "above": (0, 1),
    "below": (0, -1),
    "front": (0.6, 0.6),
    "inside": (0, 0),
}

SHAPE_WORDS = {"circle": ("disc",), "moon": ("crescent",), "flower": ("blossom",), "drop": ("raindrop",)}
TEXTURE_WORDS = {
    "plain": ("simple",),
    "striped": ("stripy",),
    "dotted": ("spotted", "polka dot"),
    "checkered": ("chequered", "checked"),
}
TEXTURE_NOUNS = {"striped": "stripes", "dotted": "dots", "checkered": "checks"}
OPENINGS = (
    "a picture of {}",
    "a drawing of {}",
    "there is {}",
    "here is {}",
    "an illustration of {}",
    "look, {}",
)
ENDINGS = ("{}, clip art", "{}, sticker", "{} for children", "{}, wallpaper", "cute: {}", "free picture: {}")


@dataclass(frozen=True)
class Object:
    """One shape. x, y: centre; radius; all in units of the image's side. angle: radians, clockwise."""

    shape: str
    texture: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """others: (relation of the main object to it, the object)."""

    background: str
    main: Object
    others: tuple[tuple[str, Object], ...]

    @property
    def label(self) -> int:
        return CLASSES.index(f"{self.main.colour} {self.main.shape}")


def random_scene(random: Random) -> Scene:
    """A scene of a uniformly drawn class."""
    count = random.choices((0, 1, 2), weights=(55, 40, 5))[0]
    relations = random.sample(list(RELATIONS), count)
    if set(relations) in (
        {"left", "right"},
        {"above", "below"},
    ):  # too wide for a big main object between them
        relations = relations[:1]
    relations.sort(key=lambda relation: relation != "inside")  # a holder is drawn first, it is the largest
    main = _random_main(random, relations)
    others: list[tuple[str, Object]] = []
    for relation in relations:
        taken = {main.colour, *(other.colour for _, other in others)}
        others.append((relation, _random_other(random, main, relation, taken)))
    return Scene(random.choice(tuple(BACKGROUNDS)), main, tuple(others))


def write_caption(scene: Scene, random: Random) -> str:
    """One caption of the scene: lower case, without a full stop, 1 to about 20 words."""
    surroundings = random.choice(BACKGROUNDS[scene.background])
    chance = random.random()
    if chance < 0.03:
        return f"{random.choice(('a quiet picture', 'shapes', 'something pretty'))} {surroundings}"
    text = _main_and_others(scene, random)
    if random.random() < 0.15:
        text = f"{text} {surroundings}"
    if chance < 0.25:
        return random.choice(OPENINGS).format(text)
    if chance < 0.33:
        return random.choice(ENDINGS).format(text)
    return text


def _random_main(random: Random, relations: list[str]) -> Object:
    radius = random.uniform(0.2, 0.23) if "inside" in relations else random.uniform(0.28, 0.38)
    room = [OFFSETS[relation] for relation in relations if relation != "inside"]
    shift = 0.11 + 0.2 * (0.3 - radius)
    return Object(
        shape=random.choice(SHAPES),
        texture=random.choice(TEXTURES),
        colour=random.choice(COLOURS),
        x=0.5 - shift * sum(x for x, _ in room) + random.uniform(-0.05, 0.05),
        y=0.5 - shift * sum(y for _, y in room) + random.uniform(-0.05, 0.05),
        radius=radius,
        angle=random.uniform(-0.35, 0.35),
    )


def _random_other(random: Random, main: Object, relation: str, taken: set[str]) -> Object:
    inside = relation == "inside"
    radius = main.radius * random.uniform(1.9, 2.1) if inside else random.uniform(0.1, 0.14)
    reach = (main.radius + radius) * random.uniform(0.98, 1.05)
    along_x, along_y = OFFSETS[relation]
    wander = 0.0 if inside else 0.05
    shapes = HOLDERS if inside else tuple(shape for shape in OTHER_SHAPES if shape != main.shape)
    return Object(
        shape=random.choice(tuple(shape for shape in shapes if shape != main.shape)),
        texture="plain" if inside else random.choices(TEXTURES, weights=(4, 1, 1, 1))[0],
        colour=random.choice(tuple(colour for colour in COLOURS if colour not in taken)),
        x=_keep(main.x + along_x * reach + random.uniform(-wander, wander), radius),
        y=_keep(main.y + along_y * reach + random.uniform(-wander, wander), radius),
        radius=radius,
        angle=random.uniform(-0.3, 0.3) * (0.3 if inside else 1),
    )


def _keep(centre: float, radius: float) -> float:
    """The centre moved so that an object of this radius stays inside the image, if it can."""
    return min(max(centre, radius), 1 - radius) if radius < 0.5 else 0.5


def _main_and_others(scene: Scene, random: Random) -> str:
    main = _noun_phrase(scene.main, random, texture_share=0.35)
    if not scene.others or random.random() < 0.5:
        return main
    relation, other = random.choice(scene.others)
    neighbour = _noun_phrase(other, random, texture_share=0.2)
    forward, backward = RELATIONS[relation]
    form = random.random()
    if form < 0.6:
        return f"{main} {random.choice(forward)} {neighbour}"
    if form < 0.8:
        return f"{neighbour} {random.choice(backward)} {main}"
    return f"{main} and {neighbour}" if form < 0.9 else f"{neighbour} with {main}"


def _noun_phrase(thing: Object, random: Random, texture_share: float) -> str:
    shape = _or_synonym(thing.shape, SHAPE_WORDS, random)
    colour = thing.colour if random.random() < 0.8 else ""
    names_texture = random.random() < texture_share * (0.7 if thing.texture == "plain" else 1)
    texture = _or_synonym(thing.texture, TEXTURE_WORDS, random) if names_texture else ""
    size = random.choice(("big", "large") if thing.radius > 0.18 else ("small", "little", "tiny"))
    size = size if random.random() < 0.15 else ""
    if texture and thing.texture in TEXTURE_NOUNS and random.random() < 0.12:
        words = [size, colour, shape, "with", TEXTURE_NOUNS[thing.texture]]
    elif random.random() < 0.3:
        words = [size, texture, colour, shape]
    else:
        words = [size, colour, texture, shape]
    phrase = " ".join(word for word in words if word)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _or_synonym(word: str, synonyms: dict[str, tuple[str, ...]], random: Random) -> str:
    return random.choice(synonyms[word]) if word in synonyms and random.random() < 0.12 else word
