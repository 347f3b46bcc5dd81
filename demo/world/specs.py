"""What is in a picture, as data: characters, attire, backgrounds, and what is held out."""

from dataclasses import dataclass, field

from . import palette
from .draws import Draws

HAIR_STYLES = ("short", "long", "curly", "bun", "spiky", "pigtails")
MARKS = ("none", "glasses", "beard", "moustache", "blush", "eyepatch")
BUILDS = ("slim", "average", "broad")
UPPER_KINDS = ("shirt", "dress", "coat")
LOWER_KINDS = ("trousers", "skirt")
PATTERNS = ("plain", "stripes", "dots", "checks")
BACKGROUND_TONES: dict[str, tuple[str, ...]] = {
    "street": ("rose", "blue", "sand"),
    "hills": ("green", "violet", "golden"),
    "room": ("pink", "mint", "blue"),
    "sea": ("blue", "turquoise", "sunset"),
    "night": ("blue", "violet", "green"),
    "forest": ("green", "misty", "autumn"),
    "snow": ("blue", "violet", "golden"),
    "desert": ("golden", "rose", "violet"),
}


@dataclass(frozen=True)
class Character:
    """Who. `mannequin` is the grey doll without face and hair that shows a garment alone."""

    skin: str = "tan"
    hair_colour: str = "brown"
    hair_style: str = "short"
    mark: str = "none"
    build: str = "average"
    mannequin: bool = False


@dataclass(frozen=True)
class Cloth:
    """One garment; `colour2` is empty when the pattern is plain."""

    kind: str
    colour: str
    pattern: str = "plain"
    colour2: str = ""


@dataclass(frozen=True)
class Attire:
    """What the person wears; a dress has no `lower`."""

    upper: Cloth = Cloth("shirt", "white")
    lower: Cloth | None = Cloth("trousers", "blue")
    shoes: str = "black"


@dataclass(frozen=True)
class Background:
    """Where. `layout` seeds the places of houses, hills and clouds; kind "plain" is a studio."""

    kind: str = "plain"
    tone: str = "grey"
    layout: int = 0


STUDIO = Background("plain", "grey")


@dataclass(frozen=True)
class Scene:
    """A whole picture but for the pose."""

    character: Character = field(default_factory=Character)
    attire: Attire = field(default_factory=Attire)
    background: Background = field(default_factory=Background)


# What training never sees. The rules are arithmetic on positions in the lists above, so that they
# can be checked by hand and every single colour, style, kind and pattern is still trained.


def character_held_out(character: Character) -> bool:
    """About one in seven pairs of hair colour and hair style."""
    colour = list(palette.HAIR).index(character.hair_colour)
    style = HAIR_STYLES.index(character.hair_style)
    return (colour + 2 * style) % 7 == 3


def cloth_held_out(cloth: Cloth) -> bool:
    """About one in nine triples of garment kind, colour and pattern."""
    kind = (UPPER_KINDS + LOWER_KINDS).index(cloth.kind)
    colour = list(palette.CLOTH).index(cloth.colour)
    return (colour + 2 * kind + 4 * PATTERNS.index(cloth.pattern)) % 9 == 5


def combination_held_out(scene: Scene) -> bool:
    """About one in eight triples of background kind, garment kind and garment colour."""
    if scene.background.kind == "plain":
        return False
    place = list(BACKGROUND_TONES).index(scene.background.kind)
    kind = UPPER_KINDS.index(scene.attire.upper.kind)
    colour = list(palette.CLOTH).index(scene.attire.upper.colour)
    return (place + 3 * kind + colour) % 8 == 6


def held_out(scene: Scene) -> bool:
    """Whether any part of the scene, or its combination, is kept from training."""
    cloths = [scene.attire.upper] + ([scene.attire.lower] if scene.attire.lower else [])
    return (
        character_held_out(scene.character)
        or any(cloth_held_out(cloth) for cloth in cloths)
        or combination_held_out(scene)
    )


def draw_character(draws: Draws) -> Character:
    return Character(
        skin=draws.pick(list(palette.SKIN)),
        hair_colour=draws.pick(list(palette.HAIR)),
        hair_style=draws.pick(HAIR_STYLES),
        mark=draws.pick_weighted([(m, 3.0 if m == "none" else 1.0) for m in MARKS]),
        build=draws.pick_weighted([("slim", 1.0), ("average", 2.0), ("broad", 1.0)]),
    )


def draw_cloth(draws: Draws, kinds: tuple[str, ...]) -> Cloth:
    kind = draws.pick(kinds)
    pattern = draws.pick_weighted(
        [("plain", 1.5), ("stripes", 1.0), ("dots", 1.0), ("checks", 1.0)]
    )
    if pattern == "plain":
        return Cloth(kind, draws.pick(list(palette.CLOTH)))
    # Drawn colour first, so that colours are equally frequent although not all pairs exist.
    colour = draws.pick(list(palette.CLOTH))
    seconds = [second for first, second in palette.CLOTH_PAIRS if first == colour]
    return Cloth(kind, colour, pattern, draws.pick(seconds))


def draw_attire(draws: Draws) -> Attire:
    upper = draw_cloth(draws, UPPER_KINDS)
    lower = None if upper.kind == "dress" else draw_cloth(draws, LOWER_KINDS)
    while lower is not None and (lower.colour, lower.pattern) == (upper.colour, upper.pattern):
        lower = draw_cloth(draws, LOWER_KINDS)  # a suit in one cloth looks like a dress
    return Attire(upper, lower, draws.pick(list(palette.SHOES)))


def draw_background(draws: Draws) -> Background:
    kind = draws.pick(list(BACKGROUND_TONES))
    return Background(kind, draws.pick(BACKGROUND_TONES[kind]), draws.seed())


def draw_scene(draws: Draws, split: str = "train") -> Scene:
    """A random scene; "train" redraws until nothing is held out, "test" takes what comes."""
    while True:
        scene = Scene(draw_character(draws), draw_attire(draws), draw_background(draws))
        if split == "test" or not held_out(scene):
            return scene
