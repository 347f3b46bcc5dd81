"""An adapter becomes as large as it was said to be, for every kind, preset and pattern."""

import pytest
import torch

from training import JobError, parse_job
from training.activations import units
from training.adapter import add_adapter
from training.adapter_size import measure_adapter
from training.checkpoint import empty_models, open_checkpoint
from training.kinds import FROZEN, KINDS
from training.memory import adapter_bytes
from training.targets import TARGETS
from training.update import Updater

ODD_RANKS = {"layers": ["attn2", "conv2", "conv_in"], "block_ranks": {"to_q": 7, "mid_block": 0}}
TEXTS = {"learning_rate_1": 1e-4, "learning_rate_2": 1e-5}


def job_of(adapter: dict, **sections):
    values = {"base": {"checkpoint": "-"}, "dataset": {"folder": "-"}, "adapter": adapter}
    return parse_job(values | sections)


def built(config: dict, job, texts=()):
    """The adapter for real, on the meta device: names, tensors, nothing measured by us."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return add_adapter(unet, job, texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [*TARGETS, "patterns"])
def test_the_prediction_is_the_number_of_parameters_that_are_built(kind, layers, tiny_unet_config):
    where = ODD_RANKS if layers == "patterns" else {"targets": layers}
    if layers in ("content", "style"):  # blocks of full SDXL; the same rule on a block there is
        where = {"layers": ["up_blocks.0.attentions.1" if layers == "style" else "mid_block"]}
    job = job_of({"kind": kind, "rank": 12, **where})
    adapter = built(tiny_unet_config, job)
    with torch.device("meta"):
        from diffusers import UNet2DConditionModel

        plain = {"unet": UNet2DConditionModel(**tiny_unet_config)}
    size = measure_adapter(plain, job, torch.float32)
    assert size.trained == sum(p.numel() for p in adapter.parameters()) > 0
    assert size.largest == max(p.numel() for p in adapter.parameters())
    beside = (t for n, t in adapter.state().items() if n.rpartition(".")[2] in FROZEN)
    assert size.frozen == sum(t.numel() for t in beside)
    assert sorted(size.loads["unet"]) == sorted(adapter.names)


@pytest.mark.parametrize("target", ["transformer", "style"])
def test_it_is_the_same_on_full_sdxl(target, sdxl_unet, sdxl_config):
    job = job_of({"targets": target, "rank": 8})
    adapter = built(sdxl_config, job)
    size = measure_adapter({"unet": sdxl_unet}, job, torch.bfloat16)
    assert size.trained == sum(p.numel() for p in adapter.parameters())


def test_text_encoders_that_learn_are_counted(tiny_checkpoint):
    job = job_of({"rank": 3}, text_encoders=TEXTS)
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    models = empty_models(checkpoint, texts=True)
    size = measure_adapter(models, job, torch.float32)
    again = empty_models(checkpoint, texts=True)
    adapter = add_adapter(again["unet"], job, (again["text_encoder"], again["text_encoder_2"]))
    assert size.trained == sum(p.numel() for p in adapter.parameters())
    assert len(size.loads["text_encoder"]) == len(size.loads["text_encoder_2"]) == 18


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_encoded(job_values):
    from training.plan import make_plan

    with pytest.raises(JobError, match="adapter.layers.*matches no trained layer"):
        make_plan(parse_job(job_values | {"adapter": {"layers": ["attn7"]}}))


@pytest.mark.parametrize(
    "optimizer",
    [{"kind": k} for k in ("adamw", "lion", "prodigy", "schedule_free")] + [{"ema_decay": 0.9}],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_what_stays_in_memory_after_a_step_is_predicted(optimizer, tiny_models):
    import copy

    job = job_of({"rank": 4}, optimizer=optimizer)
    unet = copy.deepcopy(tiny_models["unet"])
    size = measure_adapter({"unet": unet}, job, torch.float32)
    adapter = add_adapter(unet, job)
    updater = Updater(adapter.groups(), job)
    for p in updater.parameters:
        p.grad = torch.ones_like(p)
    updater.step(0)
    kept = [*updater.parameters, *(t for _, _, t in updater.slots())]
    real = sum(t.nbytes for t in kept if t.numel() > 1)  # without counters
    assert adapter_bytes(job, size) == real


EVERYTHING = "down_blocks mid_block up_blocks conv_in conv_out time_embedding add_embedding".split()
SMALLER = {  # as SSD-1B: no attention in the middle, blocks of unequal depth
    "mid_block_type": "UNetMidBlock2D",
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64, 64],
    "layers_per_block": 2,
    "transformer_layers_per_block": [0, [2, 1], [3, 1]],
    "reverse_transformer_layers_per_block": [[3, 1, 1], [2, 1, 1], 0],
    "attention_head_dim": [1, 1, 1],
}


class Asked(dict):
    """Remembers what was looked up."""

    def __init__(self, values):
        super().__init__(values)
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)


@pytest.mark.parametrize("which", ["tiny", "sdxl", "smaller"])
def test_every_adapted_layer_is_met_on_the_walk(which, tiny_unet_config, sdxl_unet, sdxl_config):
    from diffusers import UNet2DConditionModel

    config = {
        "tiny": tiny_unet_config,
        "sdxl": sdxl_config,
        "smaller": {**tiny_unet_config, **SMALLER},
    }[which]
    with torch.device("meta"):
        unet = sdxl_unet if which == "sdxl" else UNet2DConditionModel(**config)
    size = measure_adapter({"unet": unet}, job_of({"layers": EVERYTHING}), torch.float32)
    loads = Asked(size.loads["unet"])
    assert units(config, 256, 192, 1, loads)
    assert loads.names >= set(loads)
