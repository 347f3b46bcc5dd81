"""What a picture shows, in words: a small grammar with synonyms.

A caption mentions every attribute or leaves some out: what is not said is free, so the model learns
to fill it in (and references or a LoRA can). Names carry no meaning here: a fifth of the captions
name the person at random, which leaves names free for a trained character.
"""

import re
from collections.abc import Collection

from .draws import Draws
from .specs import Attire, Background, Character, Cloth, Scene

NAMES = (
    "zoe", "mia", "leo", "ada", "max", "eva", "tom", "lily", "sam", "nina", "jack", "rosa",
    "finn", "emma", "hugo", "maya", "otto", "iris", "carl", "ruby", "alex", "noah", "tess", "ivan",
)  # fmt: skip

# First entry = the plain word used where no variety is wanted.
_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "hair_colour": {
        "black": ("black", "dark"), "brown": ("brown",), "blonde": ("blonde", "blond"),
        "ginger": ("ginger", "red"), "silver": ("silver", "grey", "gray"), "blue": ("blue",),
        "pink": ("pink",), "green": ("green",),
    },
    "hair_style": {
        "short": ("short {} hair",), "long": ("long {} hair",), "curly": ("curly {} hair",),
        "bun": ("{} hair in a bun", "a {} bun"), "spiky": ("spiky {} hair",),
        "pigtails": ("{} pigtails", "{} hair in pigtails"),
    },
    "mark": {
        "glasses": ("glasses", "spectacles"), "beard": ("a beard", "a full beard"),
        "moustache": ("a moustache", "a mustache"), "blush": ("rosy cheeks", "blushing cheeks"),
        "eyepatch": ("an eye patch", "an eyepatch"),
    },
    "skin": {
        "pale": ("pale skin", "fair skin"), "tan": ("tan skin", "tanned skin"),
        "brown": ("brown skin",), "dark": ("dark skin",),
    },
    "build": {"slim": ("slim", "thin"), "broad": ("broad", "stocky")},
    "cloth": {
        "shirt": ("shirt", "top", "t-shirt"), "dress": ("dress", "gown"),
        "coat": ("coat", "jacket"), "trousers": ("trousers", "pants"), "skirt": ("skirt",),
        "shoes": ("shoes", "boots"),
    },
    "pattern": {
        "plain": ("{a} {noun}", "plain {a} {noun}"),
        "stripes": ("{a} and {b} striped {noun}", "{a} {noun} with {b} stripes"),
        "dots": ("{a} {noun} with {b} dots", "{a} and {b} dotted {noun}",
                 "{a} and {b} polka dot {noun}"),
        "checks": ("{a} and {b} checked {noun}", "{a} and {b} checkered {noun}",
                   "{a} {noun} with {b} checks"),
    },
    "place": {
        "street": ("on a {} street", "in a {} town"), "hills": ("in front of {} hills",
        "in the {} hills"), "room": ("in a {} room", "inside a {} room"),
        "sea": ("at the {} sea", "on the beach by the {} sea"),
        "night": ("at night under a {} sky", "in a {} city at night"),
        "forest": ("in a {} forest", "in the {} woods"),
        "snow": ("in the {} snow", "in the snow in front of {} mountains"),
        "desert": ("in a {} desert", "among {} dunes in the desert"),
    },
    "tone": {
        "rose": ("pink", "rose"), "sand": ("yellow", "sandy"), "violet": ("violet", "purple"),
        "golden": ("golden",), "mint": ("mint green", "green"), "misty": ("misty", "foggy"),
        "sunset": ("sunset",), "autumn": ("autumn",), "turquoise": ("turquoise",),
    },
    "action": {
        "standing": ("standing", "standing still"), "arms up": ("with arms up", "arms raised"),
        "waving": ("waving", "waving a hand"), "sitting": ("sitting", "sitting on a stool"),
        "walking": ("walking", "taking a walk"), "dancing": ("dancing",),
        "jumping": ("jumping", "doing a jump"),
    },
}  # fmt: skip
_SUBJECTS = ("a {}person", "a {}figure", "a {}character", "a {}doll")
# What a caption can mention or leave out.
MENTIONS = ("build", "skin", "hair", "mark", "upper", "lower", "shoes", "action", "place")


class _Speaker:
    """Chooses words: the first synonym always, or any one when it has draws."""

    def __init__(self, draws: Draws | None):
        self._draws = draws

    def word(self, table: str, key: str) -> str:
        options = _WORDS[table].get(key, (key,))
        return options[0] if self._draws is None else self._draws.pick(options)

    def pick(self, options):
        return options[0] if self._draws is None else self._draws.pick(options)


def _articles(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def describe_cloth(cloth: Cloth, draws: Draws | None = None, article: bool = True) -> str:
    """For example "a blue and white striped shirt"."""
    say = _Speaker(draws)
    text = say.word("pattern", cloth.pattern).format(
        a=cloth.colour, b=cloth.colour2, noun=say.word("cloth", cloth.kind)
    )
    return _articles(f"a {text}") if article and cloth.kind != "trousers" else text


def describe_character(
    character: Character, draws: Draws | None = None, mention: Collection[str] = MENTIONS
) -> list[str]:
    """Noun phrases, for example ["long blonde hair", "glasses", "tan skin"]."""
    say = _Speaker(draws)
    phrases = []
    if "hair" in mention:
        colour = say.word("hair_colour", character.hair_colour)
        phrases.append(say.word("hair_style", character.hair_style).format(colour))
    if "mark" in mention and character.mark != "none":
        phrases.append(say.word("mark", character.mark))
    if "skin" in mention:
        phrases.append(say.word("skin", character.skin))
    return phrases


def describe_attire(
    attire: Attire, draws: Draws | None = None, mention: Collection[str] = MENTIONS,
    article: bool = True,
) -> list[str]:  # fmt: skip
    say = _Speaker(draws)
    phrases = []
    if "upper" in mention:
        phrases.append(describe_cloth(attire.upper, draws, article))
    if "lower" in mention and attire.lower is not None:
        phrases.append(describe_cloth(attire.lower, draws, article))
    if "shoes" in mention:
        phrases.append(f"{attire.shoes} {say.word('cloth', 'shoes')}")
    return phrases


def describe_place(background: Background, draws: Draws | None = None) -> str:
    """For example "in front of green hills"."""
    if background.kind == "plain":
        return "on a plain background"
    say = _Speaker(draws)
    tone = say.word("tone", background.tone)
    return _articles(say.word("place", background.kind).format(tone))


def _listed(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def caption(scene: Scene, action: str, name: str = "", leave_out: Collection[str] = ()) -> str:
    """The full description in plain words, the same every time; without what is in `leave_out`."""
    mention = [item for item in MENTIONS if item not in leave_out]
    return _sentence(scene, action, None, mention, name)


def draw_caption(scene: Scene, action: str, draws: Draws) -> str:
    """A random wording that may leave attributes out; one in four is a list of tags."""
    return draw_words(scene, action, draws)[0]


def draw_words(
    scene: Scene, action: str, draws: Draws, leave_out: Collection[str] = ()
) -> tuple[str, frozenset[str]]:
    """A random caption and what it mentions, names from MENTIONS; never what is in `leave_out`."""
    keep = draws.pick((1.0, 0.9, 0.7, 0.4))
    mention = [item for item in MENTIONS if draws.chance(keep) and item not in leave_out]
    name = draws.pick(NAMES) if draws.chance(0.2) else ""
    speak = _tags if draws.chance(0.25) else _sentence
    return speak(scene, action, draws, mention, name), frozenset(mention)


def _subject(say: _Speaker, scene: Scene, mention: Collection[str], name: str) -> str:
    build = ""
    if "build" in mention and scene.character.build != "average":
        build = say.word("build", scene.character.build) + " "
    subject = _articles(say.pick(_SUBJECTS).format(build))
    return f"{name}, {subject}" if name else subject


def _sentence(scene, action, draws, mention, name) -> str:
    say = _Speaker(draws)
    looks = describe_character(scene.character, draws, mention)
    clothes = describe_attire(scene.attire, draws, mention)
    text = _subject(say, scene, mention, name)
    if looks:
        text += " with " + _listed(looks)
    rest = []
    if clothes:
        rest.append(say.pick(("wearing ", "dressed in ", "in ")) + _listed(clothes))
    if "action" in mention:
        rest.append(say.word("action", action))
    if draws is not None and draws.chance(0.4):
        rest.reverse()
    if "place" in mention:
        place = describe_place(scene.background, draws)
        if draws is not None and draws.chance(0.2):
            return ", ".join([f"{place}, {text}", *rest])
        rest.append(place)
    return ", ".join([text, *rest])


def _tags(scene, action, draws, mention, name) -> str:
    tags = describe_character(scene.character, draws, mention)
    tags += describe_attire(scene.attire, draws, mention, article=False)
    if "action" in mention:
        tags.append(_Speaker(draws).word("action", action))
    if "place" in mention:
        tags.append(describe_place(scene.background, draws))
    return ", ".join([_subject(_Speaker(draws), scene, mention, name), *draws.shuffled(tags)])


def vocabulary() -> list[str]:
    """Texts that between them hold every word a caption can use."""
    texts = list(NAMES) + [subject.format("") for subject in _SUBJECTS]
    for table in _WORDS.values():
        for key, options in table.items():
            texts += [key, *(option.format("", a="", b="", noun="") for option in options)]
    return [*texts, "with, and wearing dressed in an a on plain background"]
