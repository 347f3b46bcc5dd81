"""What the LoRA file says about itself: sd-scripts' `ss_*`, `sshs_*` and the `modelspec.*` keys.

Other programs filter and show files by these names; every value is a string.
modelspec: github.com/Stability-AI/ModelSpec, version 1.0.1.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .kinds import KINDS
from .losses import LOSSES
from .optimize import label
from .plan import Plan
from .schedules import warmup_steps
from .tensorfile import serialize
from .thumbnail import thumbnail
from .variants import CaptionVariants, split_tags

if TYPE_CHECKING:
    from .job import TrainingJob

LOSS_WORDS = {  # sd-scripts' names of the same losses
    "mse": "l2",
    "mae": "l1",
    "pseudo_huber": "huber",
    "pseudo_smooth_l1": "smooth_l1",
}
PRECISION = {"bf16": "bf16", "fp32": "no"}  # in accelerate's words, which sd-scripts writes
# settings that say where somebody's files lie
PRIVATE = {
    "dataset": {"items", "folder"},
    "adapter": {"start_from"},
    "validation": {"folder"},
    **dict.fromkeys(("base", "folders", "saving"), True),
}


def file_metadata(
    plan: Plan,
    *,
    started: float,
    finished: float,
    skipped_steps: int = 0,
    step: int | None = None,
    validation_loss: float | None = None,
    sample: Path | None = None,
) -> dict[str, str]:
    """All metadata of a finished LoRA, without the hashes of its own content.

    Args:
        started, finished: seconds since 1970.
        step: the weights are those after so many steps; validation_loss: theirs, if measured.
        sample: a picture for the thumbnail.
    """
    job = plan.job
    values = {
        **_training(plan),
        **_data(plan),
        **_objective(plan),
        **_base(plan),
        **_modelspec(plan, finished),
        "ss_session_id": int(plan.digest[:8], 16),
        "ss_training_started_at": started,
        "ss_training_finished_at": finished,
        "ss_output_name": job.name,
        "ss_training_comment": job.metadata.description,
        "modelspec.thumbnail": thumbnail(sample) if sample else None,
        "troupe.words": ", ".join(plan.words.words) if plan.words else None,
        "troupe.run_digest": plan.digest,
        "troupe.dataset_digest": plan.dataset.digest,
        "troupe.skipped_steps": skipped_steps,
        "troupe.step": step,
        "troupe.validation_loss": validation_loss,
        "troupe.job": job.model_dump_json(exclude=PRIVATE),
    }
    return {k: _text(v) for k, v in values.items() if v is not None}


def _text(value) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)


def _training(plan: Plan) -> dict:
    job = plan.job
    return {
        **_network(job),
        "ss_learning_rate": job.optimizer.learning_rate,
        "ss_unet_lr": job.optimizer.learning_rate,
        "ss_text_encoder_lr": _text_rates(job),
        "ss_optimizer": label(job.optimizer),
        "ss_loraplus_lr_ratio": job.optimizer.up_factor if job.optimizer.up_factor != 1 else None,
        "ss_max_grad_norm": job.optimizer.max_grad_norm,
        "ss_lr_scheduler": job.schedule.kind,
        "ss_lr_warmup_steps": warmup_steps(job.schedule),
        "ss_steps": job.schedule.steps,
        "ss_max_train_steps": job.schedule.steps,
        "ss_batch_size_per_device": job.batch.size,
        "ss_total_batch_size": job.batch.size * job.batch.accumulation * plan.team.size,
        "ss_gradient_accumulation_steps": job.batch.accumulation,
        "ss_mixed_precision": PRECISION[plan.precision],
        "ss_full_fp16": False,
        "ss_cache_latents": True,
        "ss_seed": job.seed,
        "ss_gradient_checkpointing": bool(plan.checkpointing),
        "ss_max_token_length": job.captions.max_tokens,
        "ss_fp8_base": False,
        "ss_lowram": False,
        "ss_prior_loss_weight": job.prior.weight,
    }


def _network(job: "TrainingJob") -> dict:
    """What the file holds, in the words of sd-scripts and LyCORIS."""
    settings = job.adapter
    kind = KINDS[settings.kind]
    rank, alpha = kind.in_file(settings.rank, job.alpha)
    arguments = {"algo": kind.algorithm} if kind.algorithm else {}
    if settings.kind == "dora":
        arguments["dora_wd"] = True
    if settings.targets == "all" and not settings.layers:
        arguments |= {"conv_dim": rank, "conv_alpha": alpha}
    for name in ("rank_dropout", "module_dropout"):
        if getattr(settings, name):
            arguments[name] = getattr(settings, name)
    return {
        "ss_network_module": kind.module,
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
        "ss_network_args": {k: str(v) for k, v in arguments.items()},
        "ss_network_dropout": settings.dropout or None,
        "troupe.adapter": settings.kind,
    }


def _text_rates(job: "TrainingJob") -> float | list[float]:
    rates = job.text_encoders
    return [rates.learning_rate_1, rates.learning_rate_2] if rates.trained else 0.0


@dataclass(frozen=True)
class _Counted:
    """What the pictures of a plan add up to, by folder or category, and by bucket."""

    tags: dict[str, Counter]
    folders: dict[str, dict]
    priors: dict[str, dict]
    buckets: Counter


def _count(plan: Plan) -> _Counted:
    counted = _Counted({}, {}, {}, Counter())
    captions = CaptionVariants(plan.job.captions, plan.job.seed)
    for placement in plan.placements:
        item = placement.item
        group = item.category or item.path.parent.name or "pictures"
        if not item.prior:
            names = split_tags(captions.plain(item))
            counted.tags.setdefault(group, Counter()).update(names)
        place = (counted.priors if item.prior else counted.folders).setdefault(
            group, {"n_repeats": item.repeats, "img_count": 0}
        )
        place["img_count"] += 1
        counted.buckets[placement.bucket_size] += item.repeats
    return counted


def _data(plan: Plan) -> dict:
    job, placements, counted = plan.job, plan.placements, _count(plan)
    looks = job.augment
    colours = looks.brightness or looks.contrast or looks.saturation or looks.hue
    passes = job.schedule.steps * job.batch.accumulation
    resolution, batches_per_epoch = plan.resolution, plan.sampler.per_epoch
    facts = {
        "tag_frequency": {k: dict(v) for k, v in counted.tags.items()},
        "num_train_images": sum(p.item.repeats for p in placements if not p.item.prior),
        "num_reg_images": sum(p.item.repeats for p in placements if p.item.prior),
        "enable_bucket": True,
        "bucket_no_upscale": not job.buckets.upscale,
        "min_bucket_reso": job.buckets.min_size or resolution // 2,
        "max_bucket_reso": job.buckets.max_size or resolution * 2,
        "bucket_info": {
            "buckets": {
                str(i): {"resolution": list(size), "count": count}
                for i, (size, count) in enumerate(sorted(counted.buckets.items()))
            }
        },
    }
    varied = {
        "keep_tokens": job.captions.keep_tags,
        "shuffle_caption": job.captions.shuffle,
        "caption_dropout_rate": job.captions.dropout,
        "caption_tag_dropout_rate": job.captions.tag_dropout,
        "color_aug": bool(colours),
        "flip_aug": job.augment.flip,
        "random_crop": job.buckets.crop == "random",
    }
    return {
        **{f"ss_{key}": value for key, value in (facts | varied).items()},
        "ss_resolution": f"({resolution}, {resolution})",
        "ss_dataset_dirs": counted.folders,
        "ss_reg_dataset_dirs": counted.priors,
        "ss_num_validation_images": len(plan.held_out),
        "ss_num_batches_per_epoch": batches_per_epoch,
        "ss_num_epochs": -(-passes // batches_per_epoch),
        "ss_epoch": -(-passes // batches_per_epoch),
        "ss_datasets": [
            {
                "is_dreambooth": True,
                "batch_size_per_device": job.batch.size,
                "resolution": [resolution, resolution],
                **facts,
                "subsets": _subsets(counted, varied),
            }
        ],
    }


def _subsets(counted: _Counted, varied: dict) -> list[dict]:
    """The folders in sd-scripts' words."""
    return [
        {
            "image_dir": name,
            "img_count": place["img_count"],
            "num_repeats": place["n_repeats"],
            "is_reg": folders is counted.priors,
            **varied,
        }
        for folders in (counted.folders, counted.priors)
        for name, place in folders.items()
    ]


def _objective(plan: Plan) -> dict:
    """sd-scripts' words for the objective; what was not used is not named."""
    settings = plan.job.objective
    robust = LOSSES[settings.loss].robust
    levels = settings.multires_levels
    return {
        "ss_loss_type": LOSS_WORDS.get(settings.loss, settings.loss),
        "ss_huber_schedule": settings.huber_schedule if robust else None,
        "ss_huber_c": settings.huber_threshold if robust else None,
        "ss_min_snr_gamma": settings.min_snr_gamma if settings.weighting == "min_snr" else None,
        "ss_debiased_estimation": settings.weighting == "debiased" or None,
        "ss_noise_offset": settings.noise_offset or None,
        "ss_multires_noise_iterations": levels or None,
        "ss_multires_noise_discount": settings.multires_discount if levels else None,
        "ss_ip_noise_gamma": settings.input_perturbation or None,
        "ss_noise_offset_random_strength": settings.noise_random_strength or None,
        "ss_ip_noise_gamma_random_strength": settings.noise_random_strength or None,
    }


def _base(plan: Plan) -> dict:
    checkpoint = plan.checkpoint
    with open(checkpoint.path, "rb") as file:
        file.seek(0x100000)  # the "model hash" that web UIs have shown since 2022
        block = file.read(0x10000)
    v_prediction = plan.prediction == "v_prediction"
    return {
        "ss_base_model_version": "sdxl_base_v1-0" + ("-v" if v_prediction else ""),
        "ss_v2": False,
        "ss_zero_terminal_snr": plan.zero_terminal_snr,
        "ss_sd_model_name": checkpoint.path.name,
        "ss_sd_model_hash": hashlib.sha256(block).hexdigest()[:8],
    }


def _modelspec(plan: Plan, finished: float) -> dict:
    job, objective = plan.job, plan.job.objective
    triggers = list(dict.fromkeys(p.item.trigger for p in plan.placements if p.item.trigger))
    moment = datetime.fromtimestamp(finished, timezone.utc)
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": job.metadata.title or job.name,
        "modelspec.resolution": f"{plan.resolution}x{plan.resolution}",
        "modelspec.date": moment.isoformat(timespec="seconds"),
        "modelspec.prediction_type": "v" if plan.prediction == "v_prediction" else "epsilon",
        "modelspec.timestep_range": f"{objective.timestep_min},{objective.timestep_max}",
        "modelspec.trigger_phrase": ", ".join(triggers) or None,
        "modelspec.author": job.metadata.author or None,
        "modelspec.license": job.metadata.license or None,
        "modelspec.description": job.metadata.description or None,
        "modelspec.usage_hint": job.metadata.usage_hint or None,
        "modelspec.tags": ", ".join(job.metadata.tags) or None,
        "modelspec.encoder_layer": 2,  # the last but one, of both text encoders
        "modelspec.unet_dtype": plan.precision,
    }


def with_hashes(tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` and the hashes of the file's content, as sd-scripts computes them.

    sshs_model_hash: sha256 of everything behind the header. sshs_legacy_hash: of 64 KiB at 1 MiB
    in a file whose header holds the `ss_*` keys only.
    """
    training = {k: v for k, v in metadata.items() if k.startswith("ss_")}
    data = serialize(tensors, training)
    start = 8 + int.from_bytes(data[:8], "little")
    content = hashlib.sha256(memoryview(data)[start:]).hexdigest()
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    return {
        **metadata,
        "sshs_model_hash": content,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{content}",
    }
