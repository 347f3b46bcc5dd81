"""The three references of a scene: what their pictures show, where they act, what they replace."""

from conditioning import ROLES

ROLE_NAMES = ("character", "attire", "background")
REGIONS = tuple(ROLES[name].region for name in ROLE_NAMES)
PICTURES = {"character": "portrait", "attire": "garment", "background": "plate"}
SAYS = {  # parts of a caption that a reference stands for
    "character": ("skin", "hair", "mark"),
    "attire": ("upper", "lower", "shoes"),
    "background": ("place",),
}
