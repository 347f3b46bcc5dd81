"""Read any SDXL .safetensors checkpoint offline, part by part, into diffusers and transformers.

The configuration of every part is deduced from tensor names and shapes, so full SDXL, pruned
variants (SSD-1B, Vega) and miniature models of the same family go through the same code.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .errors import CheckpointError
from .keys import (
    PREFIXES,
    open_clip_from_sgm,
    taesd_from_sgm,
    unet_key_table,
    vae_from_sgm,
    with_text_model,
    without_text_model,
)
from .layout import (
    LATENT_SCALE,
    TIME_ID_CHANNELS,
    TIME_IDS,
    text_config_from_keys,
    unet_config_from_keys,
    vae_config_from_keys,
)

log = logging.getLogger(__name__)

SDXL_RESOLUTION = 1024
_HEADER_LIMIT = 100_000_000  # the limit of the safetensors format


@dataclass(frozen=True)
class Checkpoint:
    """The header of a checkpoint file; weights are read when a part is asked for."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    offsets: dict[str, tuple[int, int]] = field(repr=False)  # absolute, in bytes
    metadata: dict[str, str]
    unet_config: dict
    prediction_type: str  # "epsilon" or "v_prediction"
    zero_terminal_snr: bool

    def part_shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        return _below(self.shapes, PREFIXES[part])

    @property
    def pooled_channels(self) -> int:
        """Width of the pooled text embedding the UNet expects."""
        width = self.unet_config["projection_class_embeddings_input_dim"]
        return width - TIME_IDS * TIME_ID_CHANNELS

    @property
    def native_resolution(self) -> int:
        """Side in pixels of the square pictures it was trained on, as its metadata says."""
        numbers = self.metadata.get("modelspec.resolution", "").split("x")
        side = int(numbers[0]) if numbers[0].isdigit() else SDXL_RESOLUTION
        return side if 64 <= side <= 4096 and side % 8 == 0 else SDXL_RESOLUTION

    def fingerprint(self, *parts: str) -> str:
        """sha256 over names, shapes and both ends of every tensor of the parts (all without any).

        Reads at most 8 KiB per tensor, where hashing a 7 GB file would take half a minute; two
        trained models differ in every tensor.
        """
        prefixes = tuple(PREFIXES[p] for p in parts) or ("",)
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            for name in sorted(k for k in self.shapes if k.startswith(prefixes)):
                start, stop = self.offsets[name]
                digest.update(f"{name} {self.shapes[name]} {stop - start}\n".encode())
                for place in (start, max(start, stop - 4096)):
                    file.seek(place)
                    digest.update(file.read(min(4096, stop - place)))
        return digest.hexdigest()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the header and recognise the model.

    Raises:
        CheckpointError: missing, not safetensors, truncated, damaged, or not trainable SDXL.
    """
    path = Path(path)
    header, data_start = _read_header(path)
    metadata = header.pop("__metadata__", None) or {}
    shapes = {k: tuple(v["shape"]) for k, v in header.items()}
    offsets = {
        k: (data_start + v["data_offsets"][0], data_start + v["data_offsets"][1])
        for k, v in header.items()
    }
    end, size = max((stop for _, stop in offsets.values()), default=0), path.stat().st_size
    if end != size:
        raise CheckpointError(
            f"Checkpoint {path.name!r} has {size} bytes where its header promises {end}: "
            "the file is truncated or damaged, download it again."
        )
    try:
        _refuse_special_models(shapes)
        config = unet_config_from_keys(_below(shapes, PREFIXES["unet"]))
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {path.name!r} cannot be trained. {error}") from None
    v_prediction = "v_pred" in shapes  # the marker keys ComfyUI goes by as well
    return Checkpoint(
        path=path,
        shapes=shapes,
        offsets=offsets,
        metadata=metadata,
        unet_config=config,
        prediction_type="v_prediction" if v_prediction else "epsilon",
        zero_terminal_snr=v_prediction and "ztsnr" in shapes,
    )


def _read_header(path: Path) -> tuple[dict, int]:
    name = path.name
    if not os.path.isfile(path):  # False as well for what can be no path
        raise CheckpointError(
            f"Checkpoint {name!r} does not exist: put an SDXL .safetensors file in "
            "ComfyUI's models/checkpoints folder."
        )
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise CheckpointError(
            f"Checkpoint {name!r} is not a .safetensors file: pickled formats can run code, "
            "convert it first."
        )
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _HEADER_LIMIT or length + 8 > path.stat().st_size:
            raise CheckpointError(
                f"Checkpoint {name!r} is not a safetensors file or is damaged: download it again."
            )
        try:
            header = json.loads(file.read(length))
            if not all(_is_entry(key, entry) for key, entry in header.items()):
                raise ValueError
        except (ValueError, AttributeError, RecursionError):
            raise CheckpointError(
                f"Checkpoint {name!r} has an unreadable header: download it again."
            ) from None
    return header, length + 8


def _is_entry(key: str, entry: object) -> bool:
    """Whether a header's entry is one: a tensor's type, shape and place, or texts of metadata."""
    if not isinstance(entry, dict):
        return key == "__metadata__" and entry is None
    if key == "__metadata__":
        return all(isinstance(value, str) for value in entry.values())
    numbers = [*_numbers(entry.get("shape")), *(place := _numbers(entry.get("data_offsets")))]
    sound = all(type(n) is int and n >= 0 for n in numbers)
    return (
        sound and isinstance(entry.get("dtype"), str) and len(place) == 2 and place == sorted(place)
    )


def _numbers(value: object) -> list:
    return value if isinstance(value, list) else [None]


def _refuse_special_models(shapes: Mapping) -> None:
    if "edm_mean" in shapes or "edm_vpred.sigma_max" in shapes:
        raise CheckpointError("It is an EDM model (Playground 2.5 or similar): choose plain SDXL.")
    if any(k.endswith((".scale_weight", ".weight_scale")) or "scaled_fp8" in k for k in shapes):
        raise CheckpointError("Its weights are quantised: choose the fp16, bf16 or fp32 version.")
    if any(k.startswith("conditioner.embedders.0.model.") for k in shapes):
        raise CheckpointError("It looks like the SDXL refiner: choose an SDXL base model.")


def _below(mapping: Mapping, prefix: str) -> dict:
    return {k[len(prefix) :]: v for k, v in mapping.items() if k.startswith(prefix)}


def _read_part(checkpoint: Checkpoint, part: str, dtype, device) -> dict[str, torch.Tensor]:
    """Tensors of one part, without prefix; memory-mapped until converted."""
    from safetensors import SafetensorError, safe_open

    prefix, out = PREFIXES[part], {}
    try:
        with safe_open(checkpoint.path, framework="pt") as file:
            for name in checkpoint.shapes:
                if not name.startswith(prefix):
                    continue
                tensor = file.get_tensor(name)
                if tensor.is_floating_point():
                    tensor = tensor.to(device=device, dtype=dtype)
                out[name[len(prefix) :]] = tensor
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"Checkpoint {checkpoint.path.name!r} cannot be read ({error}): download it again."
        ) from None
    return out


def _assign(model: torch.nn.Module, state: dict, checkpoint: Checkpoint, what: str):
    """Put `state` into a model made on the meta device; everything it needs must be there."""
    try:
        missing, _ = model.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"Checkpoint {checkpoint.path.name!r}: the {what} does not fit ({detail})."
        ) from None
    if missing:
        raise CheckpointError(
            f"Checkpoint {checkpoint.path.name!r}: the {what} lacks {len(missing)} tensors, "
            f"the first is {missing[0]!r}. Download it again or choose another."
        )
    return model.eval().requires_grad_(False)


# ---------------------------------------------------------------------------------- the models


def empty_models(checkpoint: Checkpoint, texts: bool = False) -> dict[str, torch.nn.Module]:
    """ "unet" (and "text_encoder", "text_encoder_2") without numbers, on the meta device."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        models = {"unet": UNet2DConditionModel(**checkpoint.unet_config)}
    if texts:
        encoders = (_empty_text_encoder(checkpoint, part)[0] for part in ("text_l", "text_g"))
        models |= zip(("text_encoder", "text_encoder_2"), encoders, strict=True)
    return models


def load_unet(checkpoint: Checkpoint, dtype=torch.float32, device="cpu"):
    """The frozen UNet2DConditionModel of a checkpoint."""
    model = empty_models(checkpoint)["unet"]
    state = _read_part(checkpoint, "unet", dtype, device)
    table = unet_key_table(checkpoint.unet_config)
    unknown = sorted(set(state) - set(table))
    if unknown:
        log.warning("%d UNet tensors are not used, such as %s", len(unknown), unknown[0])
    renamed = {table[k]: v for k, v in state.items() if k in table}
    return _assign(model, renamed, checkpoint, "UNet")


def load_text_encoders(checkpoint: Checkpoint, dtype=torch.float32, device="cpu"):
    """(CLIPTextModel, CLIPTextModelWithProjection), both frozen."""
    models = []
    for part in ("text_l", "text_g"):
        model, config = _empty_text_encoder(checkpoint, part)
        state = _read_part(checkpoint, part, dtype, device)
        if part == "text_g":
            state = open_clip_from_sgm(state, config["num_hidden_layers"])
        prefixed = any(k.startswith("text_model.") for k in model.state_dict())
        state = with_text_model(state) if prefixed else without_text_model(state)
        _fill_position_ids(model, device)
        models.append(_assign(model, state, checkpoint, f"text encoder {part[-1].upper()}"))
    return tuple(models)


def _empty_text_encoder(checkpoint: Checkpoint, part: str) -> tuple[torch.nn.Module, dict]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModel if part == "text_l" else CLIPTextModelWithProjection
    try:
        config = text_config_from_keys(checkpoint.part_shapes(part), part)
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {checkpoint.path.name!r}: {error}") from None
    with torch.device("meta"):
        return kind(CLIPTextConfig(**config)), config


def _fill_position_ids(model: torch.nn.Module, device) -> None:
    # a buffer that no file carries, so the meta device would leave it without numbers
    for module in model.modules():
        ids = getattr(module, "position_ids", None)
        if isinstance(ids, torch.Tensor) and ids.is_meta:
            module.position_ids = torch.arange(ids.shape[-1], device=device).expand(ids.shape)


@dataclass
class Autoencoder:
    """A VAE that speaks the UNet's latents: scaled as SDXL was trained, whatever the kind.

    For TAESD, ComfyUI's `vae_scale` and `vae_shift` in the file are respected: raw latents are
    `encoder(x) / vae_scale + vae_shift`, as `comfy.taesd` does.
    """

    module: torch.nn.Module
    kind: str  # "kl" or "taesd"
    scale: float = 1.0
    shift: float = 0.0

    @property
    def factor(self) -> int:
        """Pixels per latent, along one side."""
        return 8 if self.kind == "taesd" else 2 ** (len(self.module.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> scaled latents (B, 4, H/8, W/8)."""
        if self.kind == "kl":
            return self.module.encode(pixels).latent_dist.mode() * LATENT_SCALE
        return (self.module.encode(pixels).latents / self.scale + self.shift) * LATENT_SCALE

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """scaled latents (B, 4, h, w) -> pixels (B, 3, 8h, 8w) in [-1, 1]."""
        raw = latents / LATENT_SCALE
        if self.kind == "taesd":
            raw = (raw - self.shift) * self.scale
        return self.module.decode(raw).sample.clamp(-1, 1)


def load_vae(checkpoint: Checkpoint, dtype=torch.float32, device="cpu") -> Autoencoder:
    """The checkpoint's VAE: AutoencoderKL, or TAESD where `taesd_encoder` is inside."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    shapes = checkpoint.part_shapes("vae")
    state = _read_part(checkpoint, "vae", dtype, device)
    if "taesd_encoder.0.weight" in shapes:
        with torch.device("meta"):
            tiny = AutoencoderTiny()
        _assign(tiny, taesd_from_sgm(state), checkpoint, "VAE (TAESD)")
        scale = float(state["vae_scale"]) if "vae_scale" in state else 1.0
        shift = float(state["vae_shift"]) if "vae_shift" in state else 0.0
        return Autoencoder(tiny, "taesd", scale, shift)
    try:
        config = vae_config_from_keys(shapes)
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {checkpoint.path.name!r}: {error}") from None
    with torch.device("meta"):
        model = AutoencoderKL(**config)
    return Autoencoder(_assign(model, vae_from_sgm(state, config), checkpoint, "VAE"), "kl")
