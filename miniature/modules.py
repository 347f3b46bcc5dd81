"""The parts of nano as diffusers and transformers modules: SDXL's structure, small numbers.

Builders only: they say what nano is. demo.nano gives them weights and writes the files.
"""

from dataclasses import dataclass
from typing import Any

HEAD_DIM = 64  # as in SDXL: heads = width / 64, in every part
VOCABULARY = 49408
TIME_ID_WIDTH = 256  # SDXL's sinusoidal width of each of the six size and crop numbers


@dataclass(frozen=True)
class NanoConfig:
    resolution: int = 128  # native size of a picture's edge in pixels
    channels: tuple[int, ...] = (64, 64, 128)
    depths: tuple[int, ...] = (0, 1, 1)  # transformer blocks per layer; 0 = level without attention
    layers_per_block: int = 2
    text_width: int = 64  # of each of the two text encoders
    text_layers: int = 3  # ComfyUI reads the last but one, and needs at least three
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)  # of the ControlNet's picture encoder
    vision_width: int = 128
    vision_layers: int = 4
    vision_projection: int = 64
    patch: int = 32
    image_size: int = 224
    ip_tokens: int = 16
    ip_width: int = 128
    ip_depth: int = 2
    ip_base_tokens: int = 4

    @property
    def context(self) -> int:
        """Width of the text conditioning: both encoders side by side."""
        return 2 * self.text_width

    @property
    def vector(self) -> int:
        """Width of the vector conditioning: pooled text and six embedded size numbers."""
        return self.text_width + 6 * TIME_ID_WIDTH


def _unet_settings(config: NanoConfig) -> dict[str, Any]:
    """What the UNet and its ControlNet share."""
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in config.depths]
    return {
        "in_channels": 4,
        "down_block_types": tuple(kinds),
        "block_out_channels": config.channels,
        "layers_per_block": config.layers_per_block,
        # diffusers wants a number for the levels that have no attention, too
        "transformer_layers_per_block": tuple(max(depth, 1) for depth in config.depths),
        "attention_head_dim": tuple(width // HEAD_DIM for width in config.channels),  # heads
        "cross_attention_dim": config.context,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_ID_WIDTH,
        "projection_class_embeddings_input_dim": config.vector,
    }


def build_unet(config: NanoConfig):
    from diffusers import UNet2DConditionModel

    settings = _unet_settings(config)
    up = [kind.replace("Down", "Up") for kind in reversed(settings["down_block_types"])]
    return UNet2DConditionModel(
        out_channels=4, up_block_types=tuple(up), sample_size=config.image_size // 8, **settings
    )


def build_controlnet(config: NanoConfig):
    from diffusers import ControlNetModel

    return ControlNetModel(
        conditioning_embedding_out_channels=config.hint_channels, **_unet_settings(config)
    )


def build_vae(config: NanoConfig):
    """TAESD: the tiny autoencoder, at its own size."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny()


def _text_config(config: NanoConfig, activation: str):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=config.text_width,
        intermediate_size=4 * config.text_width,
        projection_dim=config.text_width,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_width // HEAD_DIM,
        hidden_act=activation,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )


def build_text_l(config: NanoConfig):
    """In the place of CLIP ViT-L."""
    from transformers import CLIPTextModel

    return CLIPTextModel(_text_config(config, "quick_gelu"))


def build_text_g(config: NanoConfig):
    """In the place of OpenCLIP ViT-bigG."""
    from transformers import CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(_text_config(config, "gelu"))


def build_vision(config: NanoConfig):
    """In the place of CLIP ViT-H, the image encoder of IP-Adapter."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=config.vision_width,
            intermediate_size=4 * config.vision_width,
            projection_dim=config.vision_projection,
            num_hidden_layers=config.vision_layers,
            num_attention_heads=config.vision_width // HEAD_DIM,
            image_size=config.image_size,
            patch_size=config.patch,
            hidden_act="gelu",
        )
    )
