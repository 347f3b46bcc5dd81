"""Scenes on a running ComfyUI with nano's models: real photographs, real sampling."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from conditioning.pose import write_poses
from conditioning.regions import PARTS, regions_from_poses
from tests.unit.conditioning.people import dancing, frame, standing
from tools.client import ExecutionError, PromptError

SIZE = 256
STEPS = 2
POSES = 4
NEAR = frame(standing(30, 200, 480))  # fills the left of the picture


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def poses() -> list:
    rng = np.random.default_rng(0)
    return [frame(standing(128, 128, 215)), *(
        frame(dancing(rng, 128, 128, 205)) for _ in range(POSES - 1)
    )]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def inputs(server):
    """Photographs and poses in ComfyUI's input folder."""
    photographs = {
        "scene_face": data.astronaut()[:220, 120:330],
        "scene_coat": data.coffee(),
        "scene_coat2": data.rocket(),
        "scene_place": data.chelsea(),
    }
    for name, pixels in photographs.items():
        Image.fromarray(pixels).save(server.input_dir / f"{name}.png")
    crowds = {"one": poses()[:1], "many": poses(), "near": [NEAR], "nobody": [frame()]}
    for name, frames in crowds.items():
        text = json.dumps(write_poses(frames))
        (server.input_dir / f"scene_{name}.json").write_text(text, "utf-8")


def scene(pose="one", references=("character", "attire", "background"), seed=1, **options) -> dict:
    """A whole graph; `options` are inputs of the node "scene", None takes one away."""
    pictures = {"character": "scene_face", "attire": "scene_coat", "background": "scene_place"}
    nodes = {"character": "TroupeCharacter", "attire": "TroupeAttire",
             "background": "TroupeBackground"}  # fmt: skip
    graph = {
        "base": node("CheckpointLoaderSimple", ckpt_name="nano_sdxl.safetensors"),
        "net": node("ControlNetLoader", control_net_name="nano_openpose.safetensors"),
        "adapter": node(
            "TroupeLoadIPAdapter", ipadapter_name="nano_ip_adapter_plus.safetensors"
        ),
        "vision": node("CLIPVisionLoader", clip_name="nano_clip_vision.safetensors"),
        "pose": node("TroupeLoadPose", pose_file=f"scene_{pose}.json", canvas_width=0,
                     canvas_height=0),
        "scene": node(
            "TroupeComposeScene", model=["base", 0], clip=["base", 1], vae=["base", 2],
            pose=["pose", 0], prompt="a dancer", negative="blurry", width=SIZE, height=SIZE,
            control_net=["net", 0], ipadapter=["adapter", 0], clip_vision=["vision", 0],
        ),
        "sample": node(
            "KSampler", model=["scene", 0], positive=["scene", 1], negative=["scene", 2],
            latent_image=["scene", 3], seed=seed, steps=STEPS, cfg=4.0, sampler_name="euler",
            scheduler="normal", denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["base", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="scene"),
        "sheet": node("PreviewImage", images=["scene", 5]),
    }  # fmt: skip
    for role in references:
        graph[f"{role}_photo"] = node("LoadImage", image=f"{pictures[role]}.png")
        graph[role] = node(nodes[role], image=[f"{role}_photo", 0], weight=1.0)
        graph["scene"]["inputs"][role] = [role, 0]
    if "background" in references:
        graph["background"]["inputs"]["mode"] = "inspire"
    for name, value in options.items():
        graph["scene"]["inputs"][name] = value
        if value is None:
            del graph["scene"]["inputs"][name]
    return graph


def shown(server, graph: dict, name: str = "save") -> list[np.ndarray]:
    """The pictures of an output node, (H, W, 3) float 0..255 each."""
    files = server.client.run(graph, timeout=300)[name]["images"]
    return [
        np.asarray(Image.open(io.BytesIO(server.client.view(**file))).convert("RGB"), float)
        for file in files
    ]


def refused(server, graph: dict) -> str:
    with pytest.raises((ExecutionError, PromptError)) as caught:
        server.client.run(graph, timeout=300)
    return str(caught.value)


def difference(a, b, mask=None) -> float:
    per_pixel = np.abs(a - b).mean(axis=-1)
    return float(per_pixel.mean() if mask is None else (per_pixel * mask).sum() / mask.sum())


def regions(index=0) -> dict[str, np.ndarray]:
    masks = regions_from_poses(poses()).masks
    return {name: mask[index].numpy() for name, mask in masks.items()}


@pytest.fixture(scope="module")
def full(server) -> np.ndarray:
    (picture,) = shown(server, scene())
    return picture


@pytest.fixture(scope="module")
def many(server) -> list[np.ndarray]:
    return shown(server, scene("many"))


def test_a_scene_from_three_photographs_and_a_pose(server, full):
    assert full.shape == (SIZE, SIZE, 3)
    assert 10 < full.std() < 120
    outputs = server.client.run(scene(seed=2))
    assert len(outputs["sheet"]["images"]) == 1
    outputs = server.client.run(scene(prompt="a singer"))
    assert outputs["scene"]["images"] and outputs["scene"]["text"] == []


def test_every_input_matters(server, full):
    for without in ("character", "attire", "background"):
        rest = [role for role in ("character", "attire", "background") if role != without]
        assert difference(*shown(server, scene(references=rest)), full) > 0.3, without
    assert difference(*shown(server, scene(control_net=None)), full) > 0.3
    assert difference(*shown(server, scene(prompt="a blue house")), full) > 0.3


def test_four_poses_make_four_pictures(many):
    assert len(many) == POSES
    for index, picture in enumerate(many):
        assert picture.shape == (SIZE, SIZE, 3) and picture.std() > 10
        assert all(difference(picture, other) > 1 for other in many[index + 1 :])


def test_frames_do_not_depend_on_how_many_are_made_at_once(server, many, full):
    later = shown(server, scene("many", first_frame=2, frame_count=2))
    assert len(later) == 2
    for made, whole in zip([*later, full], [*many[2:], many[0]], strict=True):
        assert difference(made, whole) < 0.5
        assert np.abs(made - whole).max() <= 24


@pytest.mark.parametrize(
    ("role", "region", "pose", "times"),
    [
        ("attire", "outfit", "one", 2.0),
        ("character", "head", "one", 4.0),
        # The background's layers see this picture in 8 x 8 cells: what they change spreads wide.
        ("background", "background", "near", 1.3),
    ],
)
def test_a_reference_changes_its_region_most(server, role, region, pose, times):
    graphs = [scene(pose, references=(role,), control_net=None) for _ in range(2)]
    graphs[1][f"{role}_photo"]["inputs"]["image"] = "scene_coat2.png"
    for graph in graphs:
        if role == "character":
            graph[role]["inputs"]["region"] = "head"
    (a,), (b,) = (shown(server, graph) for graph in graphs)
    shape = NEAR if pose == "near" else poses()[0]
    mask = regions_from_poses([shape]).mask(region)[0].numpy()
    inside, outside = difference(a, b, mask), difference(a, b, 1 - mask)
    assert inside > times * outside and inside > 5


def test_a_reference_without_weight_is_no_reference(server):
    graph = scene(references=("attire",))
    graph["attire"]["inputs"]["weight"] = 0.0
    bare = scene(references=(), ipadapter=None, clip_vision=None)
    assert difference(*shown(server, graph), *shown(server, bare)) == 0.0


def test_region_prompts_change_their_region_most(server):
    bare = scene(references=(), ipadapter=None, clip_vision=None)
    worded = scene(references=(), ipadapter=None, clip_vision=None, region_strength=4.0,
                   background_prompt="a red wall of bricks")  # fmt: skip
    (a,), (b,) = shown(server, bare), shown(server, worded)
    mask = regions()["background"]
    assert difference(a, b, mask) > 1.2 * difference(a, b, 1 - mask) > 0


def test_a_plate_is_kept_and_people_are_painted_in(server):
    graph = scene("many", references=("attire", "background"))
    graph["background"]["inputs"]["mode"] = "plate"
    pictures = shown(server, graph)
    coded = {
        "base": graph["base"],
        "photo": graph["background_photo"],
        "scale": node("ImageScale", image=["photo", 0], upscale_method="bicubic", width=SIZE,
                      height=SIZE, crop="center"),
        "encode": node("VAEEncode", pixels=["scale", 0], vae=["base", 2]),
        "decode": node("VAEDecode", samples=["encode", 0], vae=["base", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="plate"),
    }  # fmt: skip
    (plate,) = shown(server, coded)
    for index, picture in enumerate(pictures):
        far = regions_from_poses(poses()).grown("person", 0.12)[index].numpy() == 0.0
        assert far.mean() > 0.3
        assert difference(picture, plate, far) < 6  # photo resized by another filter, 8x8 blocks
        assert difference(picture, plate, regions(index)["person"]) > 20


def test_without_a_control_net_a_note_says_so(server):
    outputs = server.client.run(scene(control_net=None))
    assert "No ControlNet" in outputs["scene"]["text"][0]
    assert len(outputs["sheet"]["images"]) == 1


def test_a_frame_without_people_is_all_background(server):
    outputs = server.client.run(scene("nobody"))
    assert "No person found in frame 0" in " ".join(outputs["scene"]["text"])


def test_a_size_off_the_grid_is_rounded_and_told(server):
    graph = scene(width=SIZE + 3)
    assert "became 256 x 256" in server.client.run(graph)["scene"]["text"][0]


def test_pose_regions_share_every_pixel(server):
    graph = {
        "pose": node("TroupeLoadPose", pose_file="scene_many.json", canvas_width=0,
                     canvas_height=0),
        "regions": node("TroupePoseRegions", pose=["pose", 0], width=128, height=192),
    }  # fmt: skip
    for slot, part in enumerate(PARTS, start=1):
        graph[f"{part}_image"] = node("MaskToImage", mask=["regions", slot])
        graph[part] = node("SaveImage", images=[f"{part}_image", 0], filename_prefix="mask")
    outputs = server.client.run(graph)
    assert len(outputs["regions"]["images"]) == POSES
    total = np.zeros((POSES, 192, 128))
    for part in PARTS:
        assert len(outputs[part]["images"]) == POSES
        for index, file in enumerate(outputs[part]["images"]):
            picture = Image.open(io.BytesIO(server.client.view(**file))).convert("L")
            total[index] += np.asarray(picture)
    assert abs(total - 255).max() <= len(PARTS)  # each mask was cut to 8 bit


def test_regions_can_be_given(server, full):
    graph = scene(regions=["regions", 0])
    graph["regions"] = node("TroupePoseRegions", pose=["pose", 0])
    assert difference(*shown(server, graph), full) == 0.0
    graph["regions"]["inputs"]["clothes"] = 2.0
    assert difference(*shown(server, graph), full) > 0.1


def without(graph: dict, *inputs: str) -> dict:
    for name in inputs:
        del graph["scene"]["inputs"][name]
    return graph


def test_mistakes_are_named_and_the_server_goes_on(server, full):
    swapped = scene()
    swapped["scene"]["inputs"]["character"] = ["attire", 0]
    plate = scene()
    plate["background"]["inputs"]["mode"] = "wallpaper"
    no_region = scene()
    no_region["attire"]["inputs"]["region"] = "sleeve"
    masked = scene()
    masked["attire"]["inputs"]["mask"] = ["attire_photo", 1]
    sized = scene(regions=["regions", 0], width=320)
    sized["regions"] = node("TroupePoseRegions", pose=["pose", 0])
    reversed_span = scene()
    reversed_span["attire"]["inputs"] |= {"start_percent": 0.9, "end_percent": 0.1}
    for graph, words in (
        (without(scene(), "ipadapter"), ["ipadapter", "character and attire and background"]),
        (without(scene(), "clip_vision"), ["clip_vision", "Load CLIP Vision"]),
        (without(scene(), "ipadapter", "clip_vision"), ["ipadapter and clip_vision"]),
        (swapped, ["character socket got attire"]),
        (plate, ["mode", "wallpaper"]),
        (no_region, ["region", "sleeve"]),
        (masked, ["mask of the attire", "empty"]),
        (reversed_span, ["attire", "start_percent"]),
        (sized, ["256 x 256", "320 x 256", "Pose Regions"]),
        (scene(first_frame=7), ["first_frame is 7"]),
        (scene(pose_start=0.8, pose_end=0.2), ["pose_start", "pose_end"]),
        (scene(width=32), ["width", "32"]),
        (scene(pose_style="crayon"), ["pose_style", "crayon"]),
    ):
        message = refused(server, graph)
        for word in words:
            assert word in message, (words, message)
    assert difference(*shown(server, scene()), full) == 0.0


def test_a_checkpoint_without_text_encoder_is_named(server):
    graph = scene()
    graph["unet"] = node("CheckpointLoaderSimple", ckpt_name="nano_sdxl.safetensors")
    graph["scene"]["inputs"]["clip"] = ["pose", 0]  # another type: refused before it runs
    assert "clip" in refused(server, graph)
