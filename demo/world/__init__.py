"""A small drawn world with exact truth: people, clothes and places for the miniature model.

The way of a sample: a seed feeds `draws`; `specs` draws a Scene (Character, Attire, Background),
`motion` a Pose (joint angles) that `skeleton` turns into OpenPose joints; `captions` says it in
words; `render` lets `backgrounds` and `figure` (with `head`) draw labels on a `canvas`, lays
`patterns` on the cloth and colours everything from `palette`. `labels` says what each label means,
which gives the region masks. `readers` go the other way: they read attributes off any picture.

`python -m demo.world SHEET.png` draws a contact sheet.
"""

from .captions import MENTIONS, NAMES, caption, draw_caption, draw_words
from .draws import Draws
from .labels import REGIONS
from .motion import ACTIONS, DANCES, Motion, draw_pose
from .render import Rendered, render
from .sample import (
    Plan,
    Sample,
    attribute_labels,
    draw_sample,
    garment,
    plan_sample,
    plate,
    portrait,
    reference_picture,
    sequence,
)
from .skeleton import JOINTS, Angles, Pose, fit, place
from .specs import (
    STUDIO,
    Attire,
    Background,
    Character,
    Cloth,
    Scene,
    character_held_out,
    cloth_held_out,
    combination_held_out,
    draw_scene,
    held_out,
)

__all__ = [
    "ACTIONS", "DANCES", "JOINTS", "MENTIONS", "NAMES", "REGIONS", "STUDIO", "Angles", "Attire",
    "Background", "Character", "Cloth", "Draws", "Motion", "Plan", "Pose", "Rendered", "Sample",
    "Scene", "attribute_labels", "caption", "character_held_out", "cloth_held_out",
    "combination_held_out", "draw_caption", "draw_pose", "draw_sample", "draw_scene", "draw_words",
    "fit", "garment", "held_out", "place", "plan_sample", "plate", "portrait", "reference_picture",
    "render", "sequence",
]  # fmt: skip
