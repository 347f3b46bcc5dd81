"""The cast of the miniature film, drawn by the world: training pictures, references, dances.

`python -m demo.cast` writes the files that the workflow miniature_film reads into workflows/input.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from .dance import write_frames
from .roles import PICTURES, SAYS
from .world import (
    DANCES,
    Attire,
    Background,
    Character,
    Cloth,
    Draws,
    Motion,
    Plan,
    Pose,
    Scene,
    caption,
    character_held_out,
    plan_sample,
    reference_picture,
    render,
)

SIZE_PX = 128  # what the miniature was trained at
TRIGGER = "zorvex"  # a word that no caption of the training had
CALLED = f"embedding:{TRIGGER}"  # in prompts, once its meaning is learnt
EXAMPLES = 12  # pictures of the character, to train on
MASK_MARGIN_PX = 4  # around the head
FRAMES, FPS = 12, 8.0  # of each dance
SHOT_S = FRAMES / FPS
FOLDER = "troupe_miniature"

# How the miniature learns a character in two minutes: the trigger becomes four vectors (pivotal
# tuning), so that all other words mean what they did, and the LoRA paints them, in the convolutions
# as well, since these paint heads. Without the trigger the model is held to what it was.
STEPS, RANK = 500, 16
TRAINING = f"""batch: {{size: 4}}
adapter: {{targets: all}}
optimizer: {{learning_rate: 0.0007}}
embedding: {{words: {TRIGGER}, name: {TRIGGER}, bundle: true, vectors: 4, init: person,
  learning_rate: 0.03, until: 0.7, keep_norm: 0}}
prior: {{target: model, weight: 2}}
objective: {{timestep_min: 100}}
"""


def words(plan: Plan, leave_out: Collection[str] = (), name: str = "") -> str:
    """The full caption of a plan, without what is in `leave_out`."""
    return caption(plan.scene, plan.pose.action, name, leave_out)


def held_out_character(seed: int = 63) -> Character:
    """A character whose hair colour and style training has never seen together."""
    for number in range(seed, seed + 1000):
        character = plan_sample(number, split="test").scene.character
        if character_held_out(character) and character.mark != "none":
            return character
    raise AssertionError("one character in seven is held out")


def pose_frame(pose: Pose, size: int = SIZE_PX) -> dict:
    """A world pose as a POSE_KEYPOINT frame on a square canvas."""
    flat = [round(float(v), 3) for v in pose.keypoints((size, size)).reshape(-1)]
    return {"people": [{"pose_keypoints_2d": flat}], "canvas_width": size, "canvas_height": size}


def save(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as a picture file."""
    from PIL import Image

    Image.fromarray(picture).save(path)


def write_dataset(folder: Path, character: Character, count: int = EXAMPLES) -> None:
    """Pictures of one character in other clothes, places and poses, with captions and masks.

    A caption says everything but who it is; that is the trigger's part. Masks are white where one
    sees who it is. In folder/regularisation every picture has a twin without the trigger: somebody
    else, the same words. So the trigger is all that tells who it is.
    """
    for i in range(count):
        plan = plan_sample(30_000 + i, split="train")
        ours = replace(plan, scene=replace(plan.scene, character=character))
        hidden = SAYS["character"]
        _write_example(folder / f"{i:02d}.png", ours, words(ours, hidden, TRIGGER))
        _write_example(folder / "regularisation" / f"{i:02d}.png", plan, words(plan, hidden))


def _write_example(path: Path, plan: Plan, text: str) -> None:
    from PIL import Image, ImageFilter

    path.parent.mkdir(parents=True, exist_ok=True)
    rendered = render(plan.scene, plan.pose, SIZE_PX)
    save(path, rendered.picture)
    path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    head = Image.fromarray(np.uint8(255) * rendered.mask("head"))
    head = head.filter(ImageFilter.MaxFilter(2 * MASK_MARGIN_PX + 1))
    head.save(path.with_name(f"{path.stem}-mask.png"))


def film_scene() -> Scene:
    """What the miniature film should show."""
    stripes, trousers = Cloth("shirt", "red", "stripes", "white"), Cloth("trousers", "blue")
    place = Background("desert", "golden", layout=7)
    return Scene(held_out_character(), Attire(stripes, trousers, "yellow"), place)


def sample_prompt() -> str:
    """What training shows of what is learnt so far."""
    return film_prompt().replace(CALLED, TRIGGER)


def film_prompt() -> str:
    """What is said of every shot: only who it is and what they do."""
    return f"{CALLED}, a person, dancing"


def dance_plans(name: str, frames: int = FRAMES) -> list[Plan]:
    """One turn of a dance of the world, in the scene of the film."""
    motion, scene = Motion(name, seconds=frames / FPS), film_scene()
    return [Plan(i, scene, motion.pose(i / FPS), "", frozenset()) for i in range(frames)]


def write_cast(folder: Path, frames: int = FRAMES) -> None:
    """Everything miniature_film reads: pictures, an attire, a background, four dances."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = film_scene()
    write_dataset(folder / FOLDER, scene.character)
    for role in ("attire", "background"):
        picture = reference_picture(PICTURES[role], scene, Draws(42, 0))
        save(folder / f"{FOLDER}_{role}.png", picture)
    write_dances(folder, frames)


def write_dances(folder: Path, frames: int = FRAMES) -> None:
    """The poses of each dance, as the film's workflow reads them."""
    for number, name in enumerate(DANCES, 1):
        poses = [pose_frame(plan.pose) for plan in dance_plans(name, frames)]
        write_frames(folder / f"{FOLDER}_dance_{number}.json", poses)


if __name__ == "__main__":
    from .inputs import SHIPPED

    write_cast(SHIPPED)
