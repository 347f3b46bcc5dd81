"""Trained models: tokens, targets, reference attention, and the files they are exported to."""

import pytest
import torch
from safetensors import safe_open

from demo import nano
from demo.roles import PICTURES, REGIONS, ROLE_NAMES
from demo.train import controlnet, export
from demo.train.clip import ClipStage, encode_text, text_targets
from demo.train.config import CONFIG, attributes
from demo.train.controlnet import build_narrow
from demo.train.diffusion import (
    FAR,
    HEAD_COUNTS,
    SNR_GAMMA,
    attention_to,
    scheduler,
    weight_of_far_steps,
)
from demo.train.ip_adapter import (
    IpAdapterStage,
    ReferenceAttention,
    References,
    _in_words,
    _Told,
    _where_they_speak,
    role_layers,
    transformer_indices,
)
from demo.train.loop import arguments
from demo.train.narrow import NarrowVae, start
from demo.train.runs import Run, load_weights
from demo.train.tokens import END, LENGTH, START, tokenize, used_tokens
from demo.world import plan_sample
from miniature import miniature_files, modules, packs
from miniature.widen import expand, shrink, widen_controlnet, widen_vae


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TROUPE_TRAIN_DIR", str(tmp_path / "train"))


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return modules.build_unet(CONFIG).eval().requires_grad_(False)


def _given(count=2, size=16):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, 4, size, size, generator=generator),
        torch.tensor([500] * count),
        {
            "encoder_hidden_states": torch.randn(count, 77, CONFIG.context, generator=generator),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(count, CONFIG.text_width, generator=generator),
                "time_ids": torch.full((count, 6), 128.0),
            },
        },
    )


# -- text -----------------------------------------------------------------------------------------


def test_every_caption_is_made_of_used_tokens():
    assert packs.read_tokens() == used_tokens()
    used = set(used_tokens())
    ids = tokenize([plan_sample(seed).caption for seed in range(300)])
    assert set(ids.flatten().tolist()) <= used
    assert len(used) < 400


def test_padding_is_that_of_sdxl():
    ids = tokenize(["a person", ""])
    assert ids.shape == (2, 2, LENGTH)
    assert ids[0, 0, 0] == START and ids[0, 1, 0] == START
    assert (ids[1, 0, 1:] == END).all(), "the first encoder is padded with end tokens"
    assert ids[1, 1, 1] == END and (ids[1, 1, 2:] == 0).all(), "the second one with zeros"
    long = tokenize(["red " * 200])
    assert (long[0, :, -1] == END).all()


def test_the_small_table_is_the_full_one():
    used = used_tokens()
    small = torch.randn(len(used) + 1, 8)
    full = expand(small, used)
    assert full.shape == (modules.VOCABULARY, 8)
    assert torch.equal(shrink(full, used), small)


def test_targets_follow_what_the_caption_mentions():
    plan = plan_sample(3)
    nothing = text_targets(plan.labels, ())
    assert set(nothing) == {0}
    hair = dict(zip(attributes(), text_targets(plan.labels, ("hair",)), strict=True))
    assert attributes()["hair_colour"][hair["hair_colour"] - 1] == plan.labels["hair_colour"]
    assert hair["upper_kind"] == 0


# -- references -----------------------------------------------------------------------------------


def _with_references(unet, masks, layers):
    torch.manual_seed(2)
    adapter = References(unet).requires_grad_(False)
    told = _Told()
    told.tokens = torch.randn(len(masks), masks.shape[1], CONFIG.ip_tokens, CONFIG.context)
    told.masks, told.layers = masks, layers
    before = unet.attn_processors
    indices = transformer_indices(unet)
    unet.set_attn_processor(
        {
            name: ReferenceAttention(adapter.ip_adapter[str(i)], indices[name], told)
            if name in indices
            else processor
            for i, (name, processor) in enumerate(before.items())
        }
    )
    noisy, steps, given = _given(len(masks))
    out = unet(noisy, steps, **given).sample
    unet.set_attn_processor(before)
    return out, adapter, told


def test_transformers_are_counted_in_order_of_execution(unet):
    found = transformer_indices(unet)
    assert max(found.values()) == 10
    assert {found[n] for n in found if n.startswith("mid_block")} == {4}
    assert {found[n] for n in found if n.startswith("up_blocks.0")} == {5, 6, 7}
    assert set(role_layers("attire", 11).nonzero().flatten().tolist()) == {4, 5, 6, 7, 8, 9, 10}


def test_absent_references_change_nothing(unet):
    noisy, steps, given = _given()
    plain = unet(noisy, steps, **given).sample
    ones, zeros = torch.ones(2, 3, 16, 16), torch.zeros(2, 3, 11)
    silent, _, _ = _with_references(unet, ones, zeros)
    hidden, _, _ = _with_references(unet, torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 11))
    heard, _, _ = _with_references(unet, ones, torch.ones(2, 3, 11))
    assert torch.allclose(plain, silent, atol=1e-5)
    assert torch.allclose(plain, hidden, atol=1e-5)
    assert not torch.allclose(plain, heard, atol=1e-3)


def test_reference_attention_is_that_of_diffusers(unet):
    """One unmasked reference on all layers against diffusers' own IP-Adapter."""
    ours, adapter, told = _with_references(unet, torch.ones(2, 1, 16, 16), torch.ones(2, 1, 11))
    theirs = modules.build_unet(CONFIG).eval().requires_grad_(False)
    theirs.load_state_dict(unet.state_dict())
    # Any projector will do: it is replaced by the tokens themselves.
    width = 4 * CONFIG.context
    projector = {"proj.weight": torch.zeros(width, 8), "proj.bias": torch.zeros(width),
                 "norm.weight": torch.ones(CONFIG.context),
                 "norm.bias": torch.zeros(CONFIG.context)}  # fmt: skip
    state = {"image_proj": projector, "ip_adapter": adapter.ip_adapter.state_dict()}
    theirs._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    theirs.encoder_hid_proj.image_projection_layers = torch.nn.ModuleList([torch.nn.Identity()])
    noisy, steps, given = _given()
    given["added_cond_kwargs"]["image_embeds"] = [told.tokens]
    expected = theirs(noisy, steps, **given).sample
    assert torch.allclose(ours, expected, atol=1e-5)


def test_regions_speak_for_their_roles():
    pose = plan_sample(5, action="standing").pose
    masks = controlnet.region_masks(pose, (128, 128), REGIONS)
    assert masks.shape == (len(ROLE_NAMES), 16, 16)
    assert 0.5 < float(masks.sum(dim=0).mean()) <= 1.001, "they share the picture but for hands"
    rows = [float((m.sum(dim=1) * torch.arange(16)).sum() / m.sum()) for m in masks]
    assert rows[0] < rows[1], "the head is above the outfit"
    assert set(PICTURES) == set(ROLE_NAMES)


def test_a_character_without_an_outfit_speaks_for_the_whole_body():
    pose = plan_sample(5, action="standing").pose
    masks = controlnet.region_masks(pose, (128, 128), REGIONS).expand(3, -1, -1, -1)
    person = controlnet.region_masks(pose, (128, 128), ("person",))[0]
    layers = torch.ones(3, 3, 11)
    layers[1:, ROLE_NAMES.index("attire")] = 0
    found = _where_they_speak(masks, layers, torch.tensor([False, False, True]))
    assert torch.equal(found[0], masks[0])
    assert torch.allclose(found[1, 0], person, atol=1e-5)
    assert torch.equal(found[1, 1:], masks[1, 1:]) and (found[2] == 1).all()


def test_a_lesson_is_a_caption_of_exactly_what_is_shown():
    plan = next(p for p in map(plan_sample, range(100)) if p.scene.character.mark == "glasses")
    text = _in_words(plan, {"mark", "place"})
    assert "glasses" in text and "skin" not in text and "hair" not in text
    assert _in_words(plan, set()).startswith("a person")


def test_far_steps_count_as_errors_of_the_picture():
    weights = weight_of_far_steps(scheduler(), torch.tensor([0, 300, 600, 999]))
    ratios = scheduler().alphas_cumprod / (1 - scheduler().alphas_cumprod)
    assert float(weights[0]) == pytest.approx(SNR_GAMMA / float(ratios[0]), rel=1e-3)
    assert float(weights[3]) == FAR
    assert float(weights[2]) == pytest.approx(1 / float(ratios[600]), rel=1e-3)


class _Pictures:
    """Encoded references and latents of six random samples, in the place of gigabytes."""

    def __init__(self):
        torch.manual_seed(8)
        self.states = {0: torch.randn(6, 3, 65, CONFIG.vision_width)}
        self.masks = {0: torch.rand(6, 3, 16, 16)}

    def draw(self, draws, size):
        return 0, [draws.below(6) for _ in range(size)]

    def latents(self, number, rows):
        return torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(9))[rows]


def test_the_adapter_is_taught_by_words(monkeypatch):
    _random_stages()
    stage = IpAdapterStage(arguments("").parse_args(["--batch", "4"]), torch.device("cpu"))
    stage.pictures = stage.data = _Pictures()
    batch = stage.batch(3)
    assert all(torch.equal(v, stage.batch(3)[k]) for k, v in batch.items() if torch.is_tensor(v))
    loss, numbers = stage.loss(batch, torch.Generator().manual_seed(1))
    loss.backward()
    for part in (stage.trained["adapter"].image_proj, stage.trained["adapter"].ip_adapter):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in stage.unet.parameters() if not p.requires_grad)
    assert float(numbers["lesson"]) > 0

    # no reference, and all words said: what is predicted is what is taught
    batch["layers"] = torch.zeros_like(batch["layers"])
    batch["ids"] = batch["full_ids"]
    _, numbers = stage.loss(batch, torch.Generator().manual_seed(1))
    assert float(numbers["lesson"]) < 1e-6


# -- narrow forms ---------------------------------------------------------------------------------


def test_heads_count_more_and_a_picture_as_much_as_before():
    head, outfit = torch.zeros(2, 16, 16), torch.zeros(2, 16, 16)
    head[0, 2:5, 6:9], outfit[0, 5:12, 5:10] = 1, 1
    counts = attention_to(head, outfit)
    assert torch.allclose(counts.mean(dim=(1, 2)), torch.ones(2))
    assert (counts[1] == 1).all()
    ground, face, cloth = counts[0, 15, 15], counts[0, 3, 7], counts[0, 8, 8]
    assert face > cloth > ground > 0
    assert face / ground == pytest.approx(1 + HEAD_COUNTS)


def test_a_narrow_autoencoder_is_a_taesd_with_zeros():
    torch.manual_seed(5)
    narrow = NarrowVae()
    start(narrow)
    for parameter in narrow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    full = modules.build_vae(CONFIG)
    full.load_state_dict(widen_vae(narrow.state_dict(), full.state_dict()))
    pixels = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        latents = narrow.encode(pixels)
        assert torch.allclose(latents, full.encode(pixels).latents, atol=1e-5)
        assert torch.allclose(narrow.decode(latents), full.decode(latents).sample, atol=1e-5)


def test_a_narrow_controlnet_is_a_controlnet_with_zeros():
    torch.manual_seed(6)
    narrow = build_narrow(CONFIG).eval()
    for parameter in narrow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)  # its last layers start at zero
    full = modules.build_controlnet(CONFIG).eval()
    full.load_state_dict(widen_controlnet(narrow.state_dict(), full.state_dict()))
    noisy, steps, given = _given()
    hint = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        ours, theirs = (net(noisy, steps, controlnet_cond=hint, **given) for net in (narrow, full))
    pairs = zip(ours.down_block_res_samples, theirs.down_block_res_samples, strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


# -- stages and files -----------------------------------------------------------------------------


def test_clip_batches_repeat_and_are_learned_from():
    args = arguments("").parse_args(["--batch", "6"])
    stage = ClipStage(args, torch.device("cpu"))
    first, again = stage.batch(4), stage.batch(4)
    for name, value in first.items():
        assert torch.equal(value, again[name])
    loss, numbers = stage.loss(first, torch.Generator())
    loss.backward()
    for part in ("text_l", "text_g", "vision"):
        gradients = [p.grad for p in stage.trained[part].parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in gradients) > 0
    assert 0 <= float(numbers["text_right"]) <= 1
    context, pooled = encode_text(stage.trained["text_l"], stage.trained["text_g"], first["ids"])
    assert context.shape == (6, 77, CONFIG.context) and pooled.shape == (6, CONFIG.text_width)


def _random_stages():
    """Weights of all stages as training leaves them, but random."""
    torch.manual_seed(3)
    args = arguments("").parse_args(["--batch", "2"])
    clip = ClipStage(args, torch.device("cpu")).trained
    net = modules.build_unet(CONFIG)
    stages = {
        "vae": {"vae": NarrowVae()},
        "clip": dict(clip.items()),
        "vision": {"vision": clip["vision"]},
        "unet": {"unet": net, "controlnet": build_narrow(CONFIG)},
        "ip_adapter": {"adapter": References(net)},
    }
    for stage, parts in stages.items():
        Run(stage).save_weights(torch.nn.ModuleDict(parts).state_dict(), {})


def test_exported_files_have_the_layout_of_nano(tmp_path):
    _random_stages()
    export.write_models(export.finished(), tmp_path / "ours")
    nano.build_nano(tmp_path / "theirs", config=CONFIG)
    ours, theirs = miniature_files(tmp_path / "ours"), nano.nano_files(tmp_path / "theirs")
    for name in ("checkpoint", "controlnet", "clip_vision", "ip_adapter_plus"):
        assert _shapes(getattr(ours, name)) == _shapes(getattr(theirs, name)), name


def _shapes(path):
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def test_shipped_files_are_small_and_whole(tmp_path, monkeypatch):
    _random_stages()
    written = export.ship(tmp_path / "weights")
    assert [path.name for path in written] == [pack.file for pack in packs.PACKS]
    assert sum(path.stat().st_size for path in written) <= 36e6
    trained = export.finished()
    monkeypatch.setenv("TROUPE_TRAIN_DIR", str(tmp_path / "elsewhere"))
    for pack in packs.PACKS:
        for stage, module in pack.parts:
            shipped = packs.read_module(stage, module, tmp_path / "weights")
            assert set(shipped) == set(trained[module])
            for name, value in shipped.items():
                assert torch.equal(value, trained[module][name].half().float()), name
    export.write_models(trained, tmp_path / "models")
    path = miniature_files(tmp_path / "models").checkpoint
    with safe_open(path, "pt") as file:
        key = "conditioner.embedders.1.model.token_embedding.weight"
        table = file.get_tensor(key).float()
    used = used_tokens()
    other = next(i for i in range(1000, 2000) if i not in used)
    small = trained["text_g"]["text_model.embeddings.token_embedding.weight"].half().float()
    assert torch.equal(table[other], small[0]) and torch.equal(table[used[5]], small[6])


def test_shipped_files_are_checked(tmp_path):
    _random_stages()
    export.ship(tmp_path, only=("autoencoder",))
    autoencoder, text = packs.PACKS[:2]
    packs.check(autoencoder, tmp_path)
    with pytest.raises(packs.PackError, match="missing"):
        packs.check(text, tmp_path)
    assert packs.read_module("clip", "text_l", tmp_path) is None
    file = tmp_path / autoencoder.file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(packs.PackError, match="damaged"):
        packs.read_module("vae", "vae", tmp_path)


def test_a_stage_without_working_files_starts_from_what_is_shipped():
    for pack in packs.PACKS:
        packs.check(pack)
        for stage, module in pack.parts:
            assert load_weights(stage, module)
