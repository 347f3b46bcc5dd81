"""One seed, one sample: picture, caption, keypoints, region masks, attribute labels."""

from dataclasses import dataclass, replace

import numpy as np

from . import palette
from .captions import draw_words
from .draws import Draws
from .motion import Motion, draw_pose
from .render import Rendered, render
from .skeleton import NOSE, Angles, Pose, place
from .specs import STUDIO, Attire, Background, Character, Cloth, Scene, draw_scene


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about a sample but its pixels; `mentioned` is what the caption says."""

    seed: int
    scene: Scene
    pose: Pose
    caption: str
    mentioned: frozenset[str]

    @property
    def labels(self) -> dict[str, str]:
        return attribute_labels(self.scene, self.pose.action)


@dataclass(frozen=True, eq=False)
class Sample(Plan):
    """A plan with the picture and masks drawn from it."""

    rendered: Rendered


def plan_sample(
    seed: int, aspect: float = 1.0, split: str = "train", action: str | None = None
) -> Plan:
    """What sample `seed` shows and says, in a fraction of the time that drawing it takes."""
    draws = Draws.for_sample(seed, split)
    scene = draw_scene(draws, split)
    pose = draw_pose(draws, action, aspect)
    text, mentioned = draw_words(scene, pose.action, draws)
    return Plan(seed, scene, pose, text, mentioned)


def draw_sample(
    seed: int, size: int | tuple[int, int] = 128, split: str = "train", action: str | None = None
) -> Sample:
    """The sample of `seed`: the same on every machine.

    Args:
        seed: any integer; "train" and "test" streams of one seed are unrelated.
        size: pixels, (width, height) or the edge of a square.
        split: "train" holds nothing that is held out, "test" is unrestricted.
        action: one of motion.ACTIONS to fix it.
    """
    width, height = (size, size) if isinstance(size, int) else size
    plan = plan_sample(seed, width / height, split, action)
    rendered = render(plan.scene, plan.pose, (width, height))
    return Sample(**vars(plan), rendered=rendered)


def attribute_labels(scene: Scene, action: str) -> dict[str, str]:
    """Every attribute by name; "" for a garment that is not there or a colour not shown."""
    character, attire, background = scene.character, scene.attire, scene.background
    lower = attire.lower or Cloth("", "", "")
    return {
        "skin": character.skin, "hair_colour": character.hair_colour,
        "hair_style": character.hair_style, "mark": character.mark, "build": character.build,
        "upper_kind": attire.upper.kind, "upper_colour": attire.upper.colour,
        "upper_pattern": attire.upper.pattern, "upper_colour2": attire.upper.colour2,
        "lower_kind": lower.kind, "lower_colour": lower.colour, "lower_pattern": lower.pattern,
        "lower_colour2": lower.colour2, "shoes": attire.shoes, "place": background.kind,
        "tone": background.tone, "action": action,
    }  # fmt: skip


# -- reference pictures: one thing at a time ------------------------------------------------------

_GREY_ATTIRE = Attire(Cloth("shirt", "white"), Cloth("trousers", "white"), "white")


def portrait(character: Character, size: int = 128, draws: Draws | None = None) -> Rendered:
    """Head and shoulders of a character before a studio wall, in a white shirt."""
    yaw = draws.between(-25, 25) if draws else 0.0
    roll = draws.between(-7, 7) if draws else 0.0
    angles = Angles(yaw=yaw, head_roll=roll, head_yaw=-yaw * 0.4)
    unit = draws.between(1.42, 1.62) if draws else 1.52
    pose = place(angles, unit, 0.5, 0.0)
    nose = pose.points[NOSE]
    pose = pose.moved(1.0, 0.5 - float(nose[0]), 0.5 - float(nose[1]))
    return render(Scene(character, _GREY_ATTIRE, STUDIO), pose, size)


def garment(attire: Attire, size: int = 128, draws: Draws | None = None) -> Rendered:
    """The attire on a grey mannequin before a studio wall."""
    yaw = draws.between(-30, 30) if draws else 0.0
    arm = draws.between(16, 50) if draws else 28.0
    limbs = {"r_arm": (arm, 0.0), "l_arm": (arm, 0.0), "r_fore": (arm - 6, 6.0),
             "l_fore": (arm - 6, 6.0), "r_thigh": (8.0, 0.0), "l_thigh": (8.0, 0.0)}  # fmt: skip
    pose = place(Angles(yaw=yaw, **limbs), 0.92, 0.5, 0.97)
    return render(Scene(Character(mannequin=True), attire, STUDIO), pose, size)


def plate(background: Background, size: int | tuple[int, int] = 128) -> Rendered:
    """The empty background."""
    return render(Scene(background=background), None, size)


def reference_picture(
    kind: str, scene: Scene, draws: Draws | None = None, size: int = 128
) -> np.ndarray:
    """(size, size, 3) uint8: the "portrait", "garment" or "plate" of a scene."""
    if kind == "portrait":
        return portrait(scene.character, size, draws).picture
    if kind == "garment":
        return garment(scene.attire, size, draws).picture
    if kind == "plate":
        return plate(scene.background, size).picture
    raise ValueError(f"unknown kind of reference: {kind!r}")


def sequence(
    scene: Scene, motion: Motion, frames: int, fps: float = 12.0,
    size: int | tuple[int, int] = 128,
) -> list[Rendered]:  # fmt: skip
    """The scene filmed: frame i shows the motion at i / fps seconds."""
    return [render(scene, motion.pose(i / fps), size) for i in range(frames)]


def with_colour(cloth: Cloth, colour: str, colour2: str = "") -> Cloth:
    """The same garment dyed; keeps the pattern when a contrasting second colour is given."""
    if colour2 and (colour, colour2) not in palette.CLOTH_PAIRS:
        raise ValueError(f"{colour} and {colour2} cannot be told apart in one cloth")
    return replace(cloth, colour=colour, colour2=colour2)
