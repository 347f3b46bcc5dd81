"""What the workflows of the pack are put together from: models, cast, scenes, training, film."""

from .sketch import WIDTH, Sketch

CHECKPOINT = "sd_xl_base_1.0.safetensors"
CONTROLNET = "controlnet-openpose-sdxl-1.0.safetensors"
CLIP_VISION = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
IPADAPTER = "ip-adapter-plus_sdxl_vit-h.safetensors"

HUB = "https://huggingface.co"
MODELS = {
    CHECKPOINT: {
        "url": f"{HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{CHECKPOINT}",
        "directory": "checkpoints",
    },
    CONTROLNET: {
        "url": f"{HUB}/xinsir/controlnet-openpose-sdxl-1.0/resolve/main/"
        "diffusion_pytorch_model.safetensors",
        "directory": "controlnet",
    },
    CLIP_VISION: {
        "url": f"{HUB}/h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors",
        "directory": "clip_vision",
    },
    IPADAPTER: {
        "url": f"{HUB}/h94/IP-Adapter/resolve/main/sdxl_models/{IPADAPTER}",
        "directory": "ipadapter",
    },
}

PROMPT = "a photo of an astronaut dancing beside a rocket at dusk, full body, detailed"
NEGATIVE = "blurry, deformed, extra limbs, text, watermark"
PROMPTS = {
    "prompt": PROMPT, "negative": NEGATIVE, "background_prompt": "a launch pad at dusk",
}  # fmt: skip
ROLES = ("character", "attire", "background")
SEED = 20240607
BLUE, GREEN, PURPLE, BROWN, GREY = "#3f789e", "#4f7a4f", "#6a4f8a", "#8a6a3f", "#5a5a5a"
PICTURE, SHEET = (440, 480), (440, 340)  # nodes that show what comes out

Source = tuple[str, str]  # (node, output)
FILES: dict[str, Source] = {  # where a scene finds its models: loaders of files
    "model": ("checkpoint", "MODEL"), "clip": ("checkpoint", "CLIP"), "vae": ("checkpoint", "VAE"),
    "control_net": ("control_net", "CONTROL_NET"), "ipadapter": ("ipadapter", "IPADAPTER"),
    "clip_vision": ("clip_vision", "CLIP_VISION"),
}  # fmt: skip
MINIATURE: dict[str, Source] = {  # or the miniature
    "model": ("miniature", "MODEL"), "clip": ("miniature", "CLIP"), "vae": ("miniature", "VAE"),
    "control_net": ("miniature", "CONTROL_NET"), "ipadapter": ("miniature", "IPADAPTER"),
    "clip_vision": ("miniature", "CLIP_VISION"),
}  # fmt: skip
WITH_LORAS: dict[str, Source] = {"model": ("loras", "model"), "clip": ("loras", "clip")}

MODEL_NOTE = """## Models
| file | folder |
|---|---|
| sd_xl_base_1.0.safetensors | models/checkpoints |
| controlnet-openpose-sdxl-1.0.safetensors | models/controlnet |
| ip-adapter-plus_sdxl_vit-h.safetensors | models/ipadapter |
| CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors | models/clip_vision |

Any SDXL checkpoint and any SDXL openpose ControlNet will do. Sources and licences: README.

## Inputs
Copy `workflows/input/*` of the pack into ComfyUI's `input`, or choose your own photos and poses.
The size of the pictures is the canvas of the pose file.
"""


def _model(name: str) -> list[dict[str, str]]:
    return [{"name": name, **MODELS[name]}]


def note(sketch: Sketch, text: str, height: int) -> None:
    """What the workflow does, in a stage of its own before all others."""
    sketch.stage()
    sketch.section("Read me", GREY)
    sketch.node("note", "MarkdownNote", box=(460, height), text=text)


def checkpoint(sketch: Sketch) -> None:
    sketch.node(
        "checkpoint", "CheckpointLoaderSimple", title="Checkpoint", models=_model(CHECKPOINT),
        ckpt_name=CHECKPOINT,
    )  # fmt: skip


def guides(sketch: Sketch) -> None:
    """The loaders of ControlNet, IP-Adapter and its image encoder."""
    sketch.node(
        "control_net", "ControlNetLoader", title="Openpose ControlNet", models=_model(CONTROLNET),
        control_net_name=CONTROLNET,
    )  # fmt: skip
    sketch.node(
        "ipadapter", "TroupeLoadIPAdapter", title="IP-Adapter", models=_model(IPADAPTER),
        ipadapter_name=IPADAPTER,
    )  # fmt: skip
    sketch.node(
        "clip_vision", "CLIPVisionLoader", title="Image encoder", models=_model(CLIP_VISION),
        clip_name=CLIP_VISION,
    )  # fmt: skip


def cast_photos(sketch: Sketch) -> None:
    """Photographs in a column, the references made of them in the next."""
    for role in ROLES:
        sketch.node(
            f"{role}_photo", "LoadImage", box=(WIDTH, 360), image=f"troupe_{role}.jpg",
            title=f"{role.capitalize()} photo",
        )  # fmt: skip
    sketch.column()
    for role in ROLES:
        reference(sketch, role, (f"{role}_photo", "IMAGE"))


def reference(sketch: Sketch, role: str, image: Source) -> None:
    sketch.node(role, f"Troupe{role.capitalize()}", inputs={"image": image})


def pose(sketch: Sketch, name: str, file: str, title: str) -> None:
    sketch.node(name, "TroupeLoadPose", pose_file=file, title=title)


def compose(
    sketch: Sketch, name: str, given: dict[str, Source], pose: Source, title: str = "Scene",
    roles: tuple[str, ...] = ROLES, cfg: float = 6.0, **widgets,
) -> None:  # fmt: skip
    """A composed scene in one column; its sampler and decoder in the next."""
    file = pose[0]
    size = {} if "width" in widgets else {"width": (file, "width"), "height": (file, "height")}
    sketch.node(
        name, "TroupeComposeScene", box=(420, 0), title=title, **(PROMPTS | widgets),
        inputs=given | {"pose": pose} | size | {role: (role, "reference") for role in roles},
    )  # fmt: skip
    sketch.column()
    sketch.node(
        f"{name}_sampler", "KSampler", seed=SEED, control_after_generate="fixed", steps=20,
        cfg=cfg, sampler_name="euler", scheduler="normal", title=f"{title}: sampler",
        inputs={
            "model": (name, "model"), "positive": (name, "positive"),
            "negative": (name, "negative"), "latent_image": (name, "latent"),
        },
    )  # fmt: skip
    sketch.node(
        f"{name}_frames", "VAEDecode", title=f"{title}: frames",
        inputs={"samples": (f"{name}_sampler", "LATENT"), "vae": given["vae"]},
    )  # fmt: skip


def shot(sketch: Sketch, name: str, images: Source, title: str, seconds: float, **widgets) -> None:
    sketch.node(
        name, "TroupeShot", duration=seconds, title=title, inputs={"image": images}, **widgets
    )


def picture(
    sketch: Sketch, name: str, images: Source, title: str, size: tuple[int, int] = PICTURE,
    save: str = "",
) -> None:  # fmt: skip
    """A node that shows pictures, and saves them where `save` is a name."""
    kind, widgets = ("SaveImage", {"filename_prefix": save}) if save else ("PreviewImage", {})
    sketch.node(
        name, kind, box=size, title=title, inputs={"images": images}, **widgets
    )


def train(
    sketch: Sketch, name: str = "eileen", checkpoint: str | Source = CHECKPOINT,
    sample: str = "a photo of eileen, smiling, in an orange space suit", steps: int = 300,
    rank: int = 16, inputs: dict[str, Source] | None = None,
) -> None:  # fmt: skip
    """Training; `checkpoint` is a file's name, or the node that gives one."""
    given, widgets = {"dataset": ("dataset", "dataset")} | (inputs or {}), {}
    models = None
    if isinstance(checkpoint, str):
        widgets, models = {"checkpoint": checkpoint}, _model(checkpoint)
    else:  # the widget below the wire says so, too, not the first file that happened to be there
        given["checkpoint"] = checkpoint
        widgets = {"checkpoint": "troupe_miniature"}
    sketch.node(
        "train", "TroupeTrainLora", box=(420, 0), models=models, preset="character", steps=steps,
        rank=rank, resolution=0, seed=7, fixed="fixed",  # the front end's name for its control
        filename_prefix=f"troupe/{name}", sample_prompts=sample, title="Train SDXL LoRA",
        inputs=given, **widgets,
    )  # fmt: skip


def apply_loras(sketch: Sketch, given: dict[str, Source], weight: float = 0.9) -> None:
    sketch.node(
        "loras", "TroupeApplyLoras", weights=str(weight),
        inputs={"model": given["model"], "clip": given["clip"], "loras.lora0": ("train", "lora")},
    )  # fmt: skip


def film(sketch: Sketch, shots: tuple[str, ...], size_px: int = 768) -> None:
    sketch.node(
        "timeline", "TroupeTimeline", fps=24.0, width=size_px, height=size_px,
        transition="crossfade", transition_duration=0.5, title="Timeline",
        inputs={f"shots.shot{i}": (shot, "shot") for i, shot in enumerate(shots)},
    )  # fmt: skip
    sketch.column()
    sketch.node(
        "film", "TroupeSaveVideo", box=(PICTURE[0], 620), filename_prefix="troupe/film",
        title="Film", inputs={"video": ("timeline", "video")},
    )  # fmt: skip


