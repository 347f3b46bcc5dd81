"""Writes workflows/*.json, their thumbnails and API twins: sketches, drawn by the real editor.

`python -m tools.build_workflows` after a node's inputs changed; the tests say when it is needed.
"""

import json
import tempfile
from pathlib import Path

from demo import cast

from .editor import Editor, Sketch
from .server import ComfyServer
from .sketch_parts import (
    BLUE,
    BROWN,
    CHECKPOINT,
    CLIP_VISION,
    CONTROLNET,
    GREEN,
    IPADAPTER,
    MINIATURE,
    MODEL_NOTE,
    MODELS,
    NEGATIVE,
    PURPLE,
    SEED,
    apply_loras,
    cast_photos,
    checkpoint,
    compose,
    film,
    guides,
    note,
    train,
)

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS, IMAGES = ROOT / "workflows", ROOT / "docs" / "images"


def train_lora() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## Train a LoRA\nPut pictures and same-name .txt captions into a folder below ComfyUI's "
        "`input` (here `troupe_cast`, shipped with the pack). Queue: the node shows loss and "
        "samples, the file appears in `output/loras` and is used at once below. Interrupt saves "
        "the state; queue again to go on. A finished training is not repeated.\n\nThe base model "
        "is sd_xl_base_1.0.safetensors in models/checkpoints.",
        (0, -300), (700, 230),
    )  # fmt: skip
    sketch.node(
        "dataset", "TroupeLoadDataset", (0, 0), size=(330, 520), folder="troupe_cast",
        title="Pictures",
    )  # fmt: skip
    train(sketch, (370, 0))
    sketch.node("samples", "PreviewImage", (820, 0), size=(360, 300), title="Samples",
                inputs={"images": ("train", "samples")})  # fmt: skip
    sketch.node("loss", "PreviewImage", (820, 360), size=(360, 260), title="Loss",
                inputs={"images": ("train", "loss plot")})  # fmt: skip
    checkpoint(sketch, (0, 720))
    apply_loras(sketch, (370, 720))
    sketch.node("prompt", "CLIPTextEncode", (740, 720), size=(360, 120), title="Prompt",
                text="a photo of eileen, smiling, in an orange space suit",
                inputs={"clip": ("loras", "clip")})  # fmt: skip
    sketch.node("negative", "CLIPTextEncode", (740, 890), size=(360, 120), title="Negative",
                text=NEGATIVE, inputs={"clip": ("loras", "clip")})  # fmt: skip
    sketch.node("latent", "EmptyLatentImage", (740, 1060), size=(360, 110), title="Size",
                width=1024, height=1024)  # fmt: skip
    sketch.node(
        "sampler", "KSampler", (1140, 720), size=(300, 480), seed=SEED,
        control_after_generate="fixed", steps=20, cfg=6.0, sampler_name="euler",
        scheduler="normal", title="Sampler",
        inputs={
            "model": ("loras", "model"), "positive": ("prompt", "CONDITIONING"),
            "negative": ("negative", "CONDITIONING"), "latent_image": ("latent", "LATENT"),
        },
    )  # fmt: skip
    sketch.node(
        "decode", "VAEDecode", (1140, 1250), size=(300, 60),
        inputs={"samples": ("sampler", "LATENT"), "vae": ("checkpoint", "VAE")},
    )  # fmt: skip
    sketch.node("save", "SaveImage", (1480, 720), size=(420, 480), filename_prefix="troupe/lora",
                title="Picture with the LoRA", inputs={"images": ("decode", "IMAGE")})  # fmt: skip
    sketch.group("1. Train", (-20, -50, 1230, 700), GREEN)
    sketch.group("2. Use it", (-20, 670, 1940, 680), BLUE)
    return sketch


def compose_scene() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## Compose a scene\nOne pose, one character, one outfit, one place. The skeleton says "
        "where each of them acts: the soft masks in the preview are used for references, prompts "
        "and ControlNet alike.\n\n" + MODEL_NOTE,
        (-20, -400), (1000, 310),
    )  # fmt: skip
    checkpoint(sketch, (0, 0))
    guides(sketch, 0, 160)
    cast_photos(sketch, 380, 0)
    compose(sketch, "scene", "troupe_pose.json", (1440, 0))
    sketch.node("save", "SaveImage", (2240, 0), size=(460, 520), filename_prefix="troupe/scene",
                title="Picture", inputs={"images": ("scene_frames", "IMAGE")})  # fmt: skip
    sketch.node("sheet", "PreviewImage", (2240, 580), size=(460, 320), title="Masks and references",
                inputs={"images": ("scene", "preview")})  # fmt: skip
    sketch.group("1. Models", (-20, -50, 370, 530), BLUE)
    sketch.group("2. Cast", (360, -50, 660, 1200), PURPLE)
    sketch.group("3. Scene", (1060, -50, 1180, 1000), GREEN)
    return sketch


def pose_sequence_to_film() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## From a pose sequence to a film\nEvery pose of the file becomes a control picture, a "
        "set of masks and a latent; the frames become a shot, the shots a film. Frames come out "
        "at 8 per second here; Timeline sets the film's rate and size.\n\n" + MODEL_NOTE,
        (-20, -400), (1000, 310),
    )  # fmt: skip
    checkpoint(sketch, (0, 0))
    guides(sketch, 0, 160)
    cast_photos(sketch, 380, 0)
    compose(sketch, "dance", "troupe_dance.json", (1440, 0), title="Dance")
    sketch.node(
        "title", "TroupeShot", (2240, 0), size=(330, 420), duration=2.0, camera="zoom_in",
        camera_amount=0.2, title="Opening: the place",
        inputs={"image": ("background_photo", "IMAGE")},
    )  # fmt: skip
    sketch.node(
        "shot", "TroupeShot", (2240, 480), size=(330, 420), duration=2.0, transition="crossfade",
        title="Shot: the dance", inputs={"image": ("dance_frames", "IMAGE")},
    )  # fmt: skip
    film(sketch, (2610, 0), ("title", "shot"))
    sketch.group("1. Models", (-20, -50, 370, 530), BLUE)
    sketch.group("2. Cast", (360, -50, 660, 1200), PURPLE)
    sketch.group("3. Dance", (1060, -50, 1160, 1000), GREEN)
    sketch.group("4. Film", (2220, -50, 1180, 1000), BROWN)
    return sketch


def full_pipeline() -> Sketch:
    sketch = Sketch()
    note(
        sketch,
        "## Photos to film, in one graph\nTrains a LoRA of the cast, dresses and poses it in two "
        "scenes, and films them with an opening, a crossfade and a wipe. Queue once.\n\n"
        + MODEL_NOTE,
        (-20, -400), (1000, 310),
    )  # fmt: skip
    checkpoint(sketch, (0, 0))
    guides(sketch, 0, 160)
    sketch.node(
        "dataset", "TroupeLoadDataset", (0, 560), size=(330, 520), folder="troupe_cast",
        title="Pictures",
    )  # fmt: skip
    train(sketch, (370, 560))
    apply_loras(sketch, (370, 0))
    sketch.node("samples", "PreviewImage", (370, 1180), size=(400, 240), title="Samples",
                inputs={"images": ("train", "samples")})  # fmt: skip
    cast_photos(sketch, 830, 0)
    compose(sketch, "wide", "troupe_dance.json", (1890, 0), "loras", "Wide scene")
    compose(sketch, "close", "troupe_dance_close.json", (1890, 960), "loras", "Close scene")
    for row, name in enumerate(("wide", "close")):
        sketch.node(
            f"{name}_save", "SaveImage", (2350, 960 * row + 640), size=(300, 260),
            filename_prefix=f"troupe/{name}", title=f"{name.capitalize()} scene: pictures",
            inputs={"images": (f"{name}_frames", "IMAGE")},
        )  # fmt: skip
    sketch.node(
        "opening", "TroupeShot", (2710, 0), size=(330, 420), duration=2.0, camera="zoom_in",
        camera_amount=0.2, title="Opening: the place",
        inputs={"image": ("background_photo", "IMAGE")},
    )  # fmt: skip
    sketch.node(
        "wide_shot", "TroupeShot", (2710, 480), size=(330, 420), duration=2.0,
        transition="crossfade", title="Shot: wide", inputs={"image": ("wide_frames", "IMAGE")},
    )  # fmt: skip
    sketch.node(
        "close_shot", "TroupeShot", (2710, 960), size=(330, 420), duration=2.0,
        transition="wipe_right", title="Shot: close", inputs={"image": ("close_frames", "IMAGE")},
    )  # fmt: skip
    film(sketch, (3080, 0), ("opening", "wide_shot", "close_shot"))
    sketch.group("1. Models", (-20, -50, 740, 530), BLUE)
    sketch.group("2. LoRA", (-20, 500, 820, 960), GREEN)
    sketch.group("3. Cast", (810, -50, 660, 1200), PURPLE)
    sketch.group("4. Scenes", (1510, -50, 1160, 1930), GREEN)
    sketch.group("5. Film", (2690, -50, 1200, 1480), BROWN)
    return sketch


MINIATURE_NOTE = """## A film on a laptop, with nothing to download
Twelve pictures of a character the model has never seen become a word (`embedding:zorvex`) and a
LoRA, in one file; then the character dances, in the outfit of one picture and the place of another,
in four shots. How to train holds the settings: the trigger learns vectors, the twins in
`regularisation` are held to what the model was, masks show where one sees who it is.

The models are miniatures of SDXL's family, trained on a drawn world of 128 pixels. They come with
the pack's repository: `python -m demo.trained ComfyUI/models` writes them, the node folder
`demo/companion` (linked into `custom_nodes`) makes ComfyUI know them, and `workflows/input/*`
belongs into ComfyUI's `input`. Or run `python3 run.py demo`, which does all of it, and queues this.
"""
DANCES = 4


def miniature_film() -> Sketch:
    sketch = Sketch()
    note(sketch, MINIATURE_NOTE, (-20, -450), (1000, 360))
    checkpoint(sketch, (0, 0), MINIATURE[CHECKPOINT])
    guides(sketch, 0, 160, tuple(MINIATURE[n] for n in (CONTROLNET, IPADAPTER, CLIP_VISION)))
    sketch.node(
        "dataset", "TroupeLoadDataset", (0, 560), size=(330, 520), folder=cast.FOLDER,
        title="Pictures",
    )  # fmt: skip
    sketch.node(
        "options", "TroupeTrainingOptions", (0, 1120), size=(330, 420), yaml=cast.TRAINING,
        title="How to train",
    )  # fmt: skip
    train(
        sketch, (370, 560), MINIATURE[CHECKPOINT], cast.TRIGGER, cast.sample_prompt(),
        cast.STEPS, cast.RANK, options=True,
    )  # fmt: skip
    sketch.node("loss", "PreviewImage", (370, 1180), size=(400, 300), title="Loss",
                inputs={"images": ("train", "loss plot")})  # fmt: skip
    apply_loras(sketch, (370, 0), 1.0)
    roles = ("attire", "background")
    cast_photos(sketch, 830, 0, roles, f"{cast.FOLDER}_{{}}.png")
    for number in range(1, DANCES + 1):  # two by two
        x, y = 1890 + 1640 * ((number - 1) % 2), 1000 * ((number - 1) // 2)
        compose(
            sketch, f"dance{number}", f"{cast.FOLDER}_dance_{number}.json", (x, y), "loras",
            f"Dance {number}", roles, 4.0, prompt=cast.film_prompt(), negative="",
            background_prompt="", shared_noise=True,
        )  # fmt: skip
        sketch.node(
            f"shot{number}", "TroupeShot", (x + 800, y), size=(330, 420), duration=cast.SHOT_S,
            transition=("cut", "crossfade", "wipe_right", "crossfade")[number - 1],
            transition_duration=0.25, title=f"Shot {number}",
            inputs={"image": (f"dance{number}_frames", "IMAGE")},
        )  # fmt: skip
    sketch.node(
        "sheet", "PreviewImage", (2690, 480), size=(330, 320), title="How it is composed",
        inputs={"images": ("dance1", "preview")},
    )  # fmt: skip
    film(sketch, (4720, 0), tuple(f"shot{n}" for n in range(1, DANCES + 1)), 512)
    sketch.group("1. Models", (-20, -50, 740, 530), BLUE)
    sketch.group("2. LoRA", (-20, 500, 820, 1060), GREEN)
    sketch.group("3. Cast", (810, -50, 660, 820), PURPLE)
    sketch.group("4. Dances", (1510, -50, 3170, 2000), GREEN)
    sketch.group("5. Film", (4700, -50, 830, 700), BROWN)
    return sketch


SKETCHES = {
    "train_lora": train_lora,
    "compose_scene": compose_scene,
    "pose_sequence_to_film": pose_sequence_to_film,
    "full_pipeline": full_pipeline,
    "miniature_film": miniature_film,
}


def main() -> None:
    from demo.inputs import SHIPPED_CANVAS, place_inputs

    (WORKFLOWS / "api").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        place_inputs(server.input_dir, SHIPPED_CANVAS)
        for name, model in MODELS.items():  # empty files, so that the editor finds the names
            folder = server.models_dir / model["directory"]
            folder.mkdir(parents=True, exist_ok=True)
            for file in (name, MINIATURE[name]):
                (folder / file).touch()
        with Editor(server.url, width=2400, height=1350) as editor:
            for name, sketch in SKETCHES.items():
                workflow = editor.build(sketch())
                editor.load(workflow)
                _write(WORKFLOWS / f"{name}.json", workflow)
                _write(WORKFLOWS / "api" / f"{name}.json", editor.prompt())
                editor.picture(WORKFLOWS / f"{name}.jpg", 960)
                if name == "full_pipeline":
                    editor.picture(IMAGES / f"{name}.jpg", 1800)
            if editor.errors:
                raise RuntimeError("the editor reported: " + "; ".join(editor.errors))


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
