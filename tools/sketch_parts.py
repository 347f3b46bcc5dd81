"""What the workflows of the pack are put together from: models, cast, scenes, training, film."""

from .editor import Sketch

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
BLUE, GREEN, PURPLE, BROWN = "#3f789e", "#4f7a4f", "#6a4f8a", "#8a6a3f"


# The miniature's files come with the pack: python -m demo.trained writes them.
MINIATURE = {
    CHECKPOINT: "nano_sdxl.safetensors",
    CONTROLNET: "nano_openpose.safetensors",
    CLIP_VISION: "nano_clip_vision.safetensors",
    IPADAPTER: "nano_ip_adapter_plus.safetensors",
}

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
    return [{"name": name, **MODELS[name]}] if name in MODELS else []


def note(sketch: Sketch, text: str, pos: tuple[int, int], size: tuple[int, int]) -> None:
    sketch.node(f"note{len(sketch.nodes)}", "MarkdownNote", pos, size=size, text=text)


def checkpoint(sketch: Sketch, pos: tuple[int, int], name: str = CHECKPOINT) -> None:
    sketch.node(
        "checkpoint", "CheckpointLoaderSimple", pos, size=(330, 100), title="Checkpoint",
        models=_model(name), ckpt_name=name,
    )  # fmt: skip


def guides(
    sketch: Sketch, x: int, y: int, names: tuple[str, ...] = (CONTROLNET, IPADAPTER, CLIP_VISION)
) -> None:
    """The loaders of ControlNet, IP-Adapter and its image encoder."""
    control_net, ipadapter, clip_vision = names
    sketch.node(
        "control_net", "ControlNetLoader", (x, y), size=(330, 60), title="Openpose ControlNet",
        models=_model(control_net), control_net_name=control_net,
    )  # fmt: skip
    sketch.node(
        "ipadapter", "TroupeLoadIPAdapter", (x, y + 110), size=(330, 60), title="IP-Adapter",
        models=_model(ipadapter), ipadapter_name=ipadapter,
    )  # fmt: skip
    sketch.node(
        "clip_vision", "CLIPVisionLoader", (x, y + 220), size=(330, 60), title="Image encoder",
        models=_model(clip_vision), clip_name=clip_vision,
    )  # fmt: skip


def cast_photos(
    sketch: Sketch, x: int, y: int, roles: tuple[str, ...] = ROLES, files: str = "troupe_{}.jpg"
) -> None:
    """Photographs and the references made of them."""
    for row, role in enumerate(roles):
        top = y + 400 * row
        sketch.node(
            f"{role}_photo", "LoadImage", (x, top), size=(280, 330), image=files.format(role),
            title=f"{role.capitalize()} photo",
        )  # fmt: skip
        sketch.node(
            role, f"Troupe{role.capitalize()}", (x + 310, top), size=(310, 330),
            inputs={"image": (f"{role}_photo", "IMAGE")},
        )  # fmt: skip


def compose(
    sketch: Sketch, name: str, pose: str, pos: tuple[int, int], model: str = "checkpoint",
    title: str = "Scene", roles: tuple[str, ...] = ROLES, cfg: float = 6.0, **widgets,
) -> None:  # fmt: skip
    """A composed scene from a pose file, sampled and decoded."""
    x, y = pos
    lower = "model" if model != "checkpoint" else "MODEL"
    clip = "clip" if model != "checkpoint" else "CLIP"
    sketch.node(
        f"{name}_pose", "TroupeLoadPose", (x - 360, y), size=(330, 220), pose_file=pose,
        title=f"{title}: pose",
    )  # fmt: skip
    sketch.node(
        name, "TroupeComposeScene", (x, y), size=(420, 900), title=title, **(PROMPTS | widgets),
        inputs={
            "model": (model, lower), "clip": (model, clip), "vae": ("checkpoint", "VAE"),
            "pose": (f"{name}_pose", "pose"),
            "width": (f"{name}_pose", "width"), "height": (f"{name}_pose", "height"),
            **{role: (role, "reference") for role in roles},
            "control_net": ("control_net", "CONTROL_NET"),
            "ipadapter": ("ipadapter", "IPADAPTER"), "clip_vision": ("clip_vision", "CLIP_VISION"),
        },
    )  # fmt: skip
    sketch.node(
        f"{name}_sampler", "KSampler", (x + 460, y), size=(300, 480), seed=SEED,
        control_after_generate="fixed", steps=20, cfg=cfg, sampler_name="euler",
        scheduler="normal", title=f"{title}: sampler",
        inputs={
            "model": (name, "model"), "positive": (name, "positive"),
            "negative": (name, "negative"), "latent_image": (name, "latent"),
        },
    )  # fmt: skip
    sketch.node(
        f"{name}_frames", "VAEDecode", (x + 460, y + 540), size=(300, 60),
        title=f"{title}: frames",
        inputs={"samples": (f"{name}_sampler", "LATENT"), "vae": ("checkpoint", "VAE")},
    )  # fmt: skip


def train(
    sketch: Sketch, pos: tuple[int, int], checkpoint: str = CHECKPOINT, name: str = "eileen",
    sample: str = "a photo of eileen, smiling, in an orange space suit", steps: int = 300,
    rank: int = 16, options: bool = False,
) -> None:  # fmt: skip
    sketch.node(
        "train", "TroupeTrainLora", pos, size=(400, 560), checkpoint=checkpoint,
        models=_model(checkpoint), preset="character", steps=steps, rank=rank, resolution=0, seed=7,
        control_after_generate="fixed", filename_prefix=f"troupe/{name}", sample_prompts=sample,
        title="Train LoRA",
        inputs={"dataset": ("dataset", "dataset")}
        | ({"options": ("options", "options")} if options else {}),
    )  # fmt: skip


def apply_loras(sketch: Sketch, pos: tuple[int, int], weight: float = 0.9) -> None:
    sketch.node(
        "loras", "TroupeApplyLoras", pos, size=(330, 260), weights=str(weight),
        inputs={
            "model": ("checkpoint", "MODEL"), "clip": ("checkpoint", "CLIP"),
            "loras.lora0": ("train", "lora"),
        },
    )  # fmt: skip


def film(sketch: Sketch, pos: tuple[int, int], shots: tuple[str, ...], size_px: int = 768) -> None:
    x, y = pos
    sketch.node(
        "timeline", "TroupeTimeline", (x, y), size=(330, 420), fps=24.0, width=size_px,
        height=size_px,
        transition="crossfade", transition_duration=0.5, title="Timeline",
        inputs={f"shots.shot{i}": (shot, "shot") for i, shot in enumerate(shots)},
    )  # fmt: skip
    sketch.node(
        "film", "TroupeSaveVideo", (x + 370, y), size=(420, 560), filename_prefix="troupe/film",
        title="Film", inputs={"video": ("timeline", "video")},
    )  # fmt: skip
