"""The workflows of the pack, as sketches: title -> what is in it. See tools.build_workflows."""

from collections.abc import Callable

from demo import cast

from .sketch import WIDTH, Sketch
from .sketch_parts import (
    BLUE,
    BROWN,
    FILES,
    GREEN,
    MINIATURE,
    MODEL_NOTE,
    NEGATIVE,
    PURPLE,
    SEED,
    SHEET,
    WITH_LORAS,
    apply_loras,
    cast_photos,
    checkpoint,
    compose,
    film,
    guides,
    note,
    picture,
    pose,
    reference,
    shot,
    train,
)

PICTURES = {"title": "Pictures", "folder": "troupe_cast"}


def train_lora() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## Train a LoRA\nPut pictures and same-name .txt captions into a folder below ComfyUI's "
        "`input` (here `troupe_cast`, shipped with the pack). Run: the node shows loss and "
        "samples, the file appears in `output/loras` and is used at once. Interrupt saves the "
        "state; Run again goes on. A finished training is not repeated.\n\nThe base model is "
        "sd_xl_base_1.0.safetensors in models/checkpoints. Copy `workflows/input/*` of the pack "
        "into ComfyUI's `input`, or choose a folder of your own.",
        420,
    )
    sketch.stage()
    sketch.section("1. Train", GREEN)
    sketch.node("dataset", "TroupeLoadDataset", **PICTURES)
    checkpoint(sketch)
    sketch.column()
    train(sketch)
    sketch.stage()
    sketch.section("2. What it has learned", PURPLE)
    picture(sketch, "samples", ("train", "samples"), "Samples", SHEET)
    sketch.column()
    picture(sketch, "loss", ("train", "loss plot"), "Loss", SHEET)
    sketch.section("3. Use it", BLUE)
    apply_loras(sketch, FILES)
    sketch.node("latent", "EmptyLatentImage", title="Size", width=1024, height=1024)
    sketch.column()
    sketch.node("prompt", "CLIPTextEncode", box=(WIDTH, 120), title="Prompt",
                text="a photo of eileen, smiling, in an orange space suit",
                inputs={"clip": ("loras", "clip")})  # fmt: skip
    sketch.node("negative", "CLIPTextEncode", box=(WIDTH, 120), title="Negative", text=NEGATIVE,
                inputs={"clip": ("loras", "clip")})  # fmt: skip
    sketch.column()
    sketch.node(
        "sampler", "KSampler", seed=SEED, control_after_generate="fixed", steps=20, cfg=6.0,
        sampler_name="euler", scheduler="normal", title="Sampler",
        inputs={
            "model": ("loras", "model"), "positive": ("prompt", "CONDITIONING"),
            "negative": ("negative", "CONDITIONING"), "latent_image": ("latent", "LATENT"),
        },
    )  # fmt: skip
    sketch.node("decode", "VAEDecode", inputs={"samples": ("sampler", "LATENT"),
                                               "vae": FILES["vae"]})  # fmt: skip
    sketch.column()
    picture(sketch, "save", ("decode", "IMAGE"), "Picture with the LoRA", save="troupe/lora")
    return sketch


def compose_scene() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## Compose a scene\nOne pose, one character, one outfit, one place. The skeleton says "
        "where each of them acts: the soft masks in the preview are used for references, prompts "
        "and ControlNet alike.\n\n" + MODEL_NOTE,
        640,
    )
    sketch.stage()
    sketch.section("1. Models", BLUE)
    checkpoint(sketch)
    sketch.column()
    guides(sketch)
    sketch.section("2. Cast", PURPLE)
    cast_photos(sketch)
    pose(sketch, "scene_pose", "troupe_pose.json", "Scene: pose")
    sketch.stage()
    sketch.section("3. Scene", GREEN)
    compose(sketch, "scene", FILES, ("scene_pose", "pose"))
    sketch.column()
    picture(sketch, "save", ("scene_frames", "IMAGE"), "Picture", save="troupe/scene")
    picture(sketch, "sheet", ("scene", "preview"), "Masks and references", SHEET)
    return sketch


def pose_sequence_to_film() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## From a pose sequence to a film\nEvery pose of the file becomes a control picture, a "
        "set of masks and a latent; the frames become a shot, the shots a film. Frames come out "
        "at 8 per second here; Timeline sets the film's rate and size.\n\n" + MODEL_NOTE,
        640,
    )
    sketch.stage()
    sketch.section("1. Models", BLUE)
    checkpoint(sketch)
    sketch.column()
    guides(sketch)
    sketch.section("2. Cast", PURPLE)
    cast_photos(sketch)
    pose(sketch, "dance_pose", "troupe_dance.json", "Dance: pose")
    sketch.stage()
    sketch.section("3. Dance", GREEN)
    compose(sketch, "dance", FILES, ("dance_pose", "pose"), "Dance")
    sketch.column()
    shot(sketch, "shot", ("dance_frames", "IMAGE"), "Shot: the dance", 2.0, transition="crossfade")
    _opening(sketch)
    sketch.stage()
    sketch.section("5. Film", BROWN)
    film(sketch, ("title", "shot"))
    return sketch


def _opening(sketch: Sketch) -> None:
    sketch.section("4. Opening", GREEN)
    shot(sketch, "title", ("background_photo", "IMAGE"), "Opening: the place", 2.0,
         camera="zoom_in", camera_amount=0.2)  # fmt: skip


def full_pipeline() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## Photos to film, in one graph\nTrains a LoRA of the cast, dresses and poses it in two "
        "scenes, and films them with an opening, a crossfade and a wipe. Run once.\n\n"
        + MODEL_NOTE,
        640,
    )
    sketch.stage()
    sketch.section("1. Models", BLUE)
    checkpoint(sketch)
    sketch.column()
    guides(sketch)
    sketch.section("2. LoRA", GREEN)
    sketch.node("dataset", "TroupeLoadDataset", **PICTURES)
    sketch.column()
    train(sketch)
    sketch.column()
    apply_loras(sketch, FILES)
    picture(sketch, "samples", ("train", "samples"), "Samples", (340, 320))
    sketch.section("3. Cast", PURPLE)
    cast_photos(sketch)
    pose(sketch, "wide_pose", "troupe_dance.json", "Wide scene: pose")
    pose(sketch, "close_pose", "troupe_dance_close.json", "Close scene: pose")
    sketch.stage()
    for name, number, transition in (("wide", 4, "crossfade"), ("close", 5, "wipe_right")):
        title = f"{name.capitalize()} scene"
        sketch.section(f"{number}. {title}", GREEN)
        compose(sketch, name, FILES | WITH_LORAS, (f"{name}_pose", "pose"), title)
        picture(sketch, f"{name}_save", (f"{name}_frames", "IMAGE"), f"{title}: pictures",
                (340, 300), save=f"troupe/{name}")  # fmt: skip
        sketch.column()
        shot(sketch, f"{name}_shot", (f"{name}_frames", "IMAGE"), f"Shot: {name}", 2.0,
             transition=transition)  # fmt: skip
    sketch.section("6. Opening", GREEN)
    shot(sketch, "opening", ("background_photo", "IMAGE"), "Opening: the place", 2.0,
         camera="zoom_in", camera_amount=0.2)  # fmt: skip
    sketch.stage()
    sketch.section("7. Film", BROWN)
    film(sketch, ("opening", "wide_shot", "close_shot"))
    return sketch


MINIATURE_NOTE = """## A film on any machine, with nothing to download
Press Run. In a few minutes on a laptop's CPU twelve pictures of somebody the model has never seen
become a word (`embedding:zorvex`) and a LoRA, in one file; then this character dances, in the
outfit of one picture and the place of another, in four shots.

The models are a miniature of SDXL's family, trained on a drawn world of 128 pixels; they and all
pictures come with the pack. *How to train* holds the settings: the trigger learns vectors, the
twins in the dataset are held to what the model was, masks show where one sees who it is.

With SDXL and photographs of your own: the workflow *Full pipeline*.
"""
DANCES = 4


def miniature_film() -> Sketch:
    sketch = Sketch()
    note(sketch, MINIATURE_NOTE, 460)
    sketch.stage()
    sketch.section("1. Models and cast", BLUE)
    sketch.node("cast", "TroupeMiniatureCast", title="Cast")
    sketch.column()
    roles = ("attire", "background")
    for role in roles:
        reference(sketch, role, ("cast", role))
    sketch.column()
    sketch.node("miniature", "TroupeLoadMiniature", title="Miniature")
    sketch.section("2. LoRA", GREEN)
    sketch.node("options", "TroupeTrainingOptions", yaml=cast.TRAINING, title="How to train")
    sketch.column()
    train(
        sketch, cast.TRIGGER, ("miniature", "checkpoint"), cast.sample_prompt(), cast.STEPS,
        cast.RANK, {"dataset": ("cast", "dataset"), "options": ("options", "options")},
    )  # fmt: skip
    sketch.column()
    apply_loras(sketch, MINIATURE, 1.0)
    picture(sketch, "loss", ("train", "loss plot"), "Loss", (340, 320))
    sketch.stage()
    for number in range(1, DANCES + 1):
        title = f"Dance {number}"
        sketch.section(f"{number + 2}. {title}", GREEN)
        compose(
            sketch, f"dance{number}", MINIATURE | WITH_LORAS, ("cast", f"dance {number}"), title,
            roles, 4.0, prompt=cast.film_prompt(), negative="", background_prompt="",
            shared_noise=True, width=cast.SIZE_PX, height=cast.SIZE_PX,
        )  # fmt: skip
        sketch.column()
        transition = ("cut", "crossfade", "wipe_right", "crossfade")[number - 1]
        shot(sketch, f"shot{number}", (f"dance{number}_frames", "IMAGE"), f"Shot {number}",
             cast.SHOT_S, transition=transition, transition_duration=0.25)  # fmt: skip
    sketch.stage()
    sketch.section("7. Film", BROWN)
    film(sketch, tuple(f"shot{n}" for n in range(1, DANCES + 1)), 512)
    picture(sketch, "sheet", ("dance1", "preview"), "How it is composed", SHEET)
    return sketch


SKETCHES: dict[str, Callable[[], Sketch]] = {
    "train_lora": train_lora,
    "compose_scene": compose_scene,
    "pose_sequence_to_film": pose_sequence_to_film,
    "full_pipeline": full_pipeline,
    "miniature_film": miniature_film,
}
