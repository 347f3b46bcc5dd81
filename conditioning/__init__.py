"""Conditioning engine: what stands where, and which picture speaks for it. Pure torch and numpy.

The way of the data:

1. `pose` reads POSE_KEYPOINT data into `PoseFrame`s (one a picture), fits them to the canvas and
   draws them as control pictures.
2. `regions` turns the same frames into a `RegionSet`: soft masks for head, hands, upper, lower,
   feet and background that share the picture between them (`silhouette` says what a body covers,
   `shapes` measures distances to it).
3. `references` prepares pictures of a character, its attire and the background for the image
   encoder; its `ROLES` say which region, layers and steps each one speaks to.
4. `compose` brings prompts, pose, regions and references together into one `ScenePlan`, and
   `preview` draws that plan as a contact sheet without sampling.
5. `ip_adapter` holds the projectors that turn encoded references into attention tokens.

The subpackages `pose` and `ip_adapter` are front doors of their own.
"""

from .compose import LATENT_PX, SceneOptions, ScenePlan, plan_scene
from .errors import ConditioningError, SceneError
from .preview import preview_sheet, region_overlay
from .references import FITS, JOINS, MODES, ROLES, Reference, Role, make_reference, resized
from .regions import ORDERS, PARTS, REGIONS, RegionSet, regions_from_poses
from .silhouette import Margins

__all__ = [
    "ConditioningError",
    "FITS",
    "JOINS",
    "LATENT_PX",
    "MODES",
    "ORDERS",
    "PARTS",
    "REGIONS",
    "ROLES",
    "Margins",
    "Reference",
    "RegionSet",
    "Role",
    "SceneError",
    "SceneOptions",
    "ScenePlan",
    "make_reference",
    "plan_scene",
    "preview_sheet",
    "region_overlay",
    "regions_from_poses",
    "resized",
]
