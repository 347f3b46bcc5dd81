"""Seeded random weights for nano, arranged so that untrained pictures are pictures.

Plain random weights would answer noise with noise, and every sample would end saturated. Three
things are therefore set by hand, all else is random: the autoencoder carries colours through its
first three channels, the UNet hands its noisy input on as its noise estimate and adds a random
texture, and the ControlNet leaves the channels of that path alone.
"""

import zlib
from collections.abc import Mapping

import numpy as np
import torch

State = dict[str, torch.Tensor]
TEXTURE = 0.35  # strength of the random part of the noise estimate, which has strength 1
LATENT_GAIN = 3.0  # latents of a picture in [0, 1] span -1.5 to 1.5
LATENTS = 4


def random_state(shapes: Mapping[str, tuple[int, ...]], part: str, seed: int) -> State:
    """float32 tensors of these shapes; each depends only on its name, the part and the seed.

    Matrices and kernels keep the variance of what they are fed (std 1/sqrt(fan in), LeCun 1998),
    norms are the identity, biases zero, embeddings of tokens and positions standard normal.
    """
    state = {}
    for name, shape in shapes.items():
        if len(shape) < 2 and not name.endswith("embedding"):
            filling = 0.0 if name.endswith("bias") else 1.0
            state[name] = torch.full(shape, filling)
            continue
        generator = np.random.default_rng([seed, zlib.crc32(f"{part}/{name}".encode())])
        values = generator.standard_normal(shape, dtype=np.float32)
        looked_up = "token_embedding" in name or "position_embedding" in name or len(shape) < 2
        fan_in = 1 if looked_up or "latents" in name else int(np.prod(shape[1:]))
        state[name] = torch.from_numpy(values / np.float32(fan_in) ** np.float32(0.5))
    return state


def calm_unet(state: State, last_resnet: str) -> None:
    """Make the noise estimate the normalised input plus a texture of the random network.

    Latent c goes through channel c of conv_in, its skip connection, and the channel pair
    (2c, 2c+1) = (+x, -x) of the last block. A pair is one group of the output norm where width is
    twice the number of groups; silu(a) - silu(-a) = a carries it through the activation.

    Args:
        state: diffusers names; changed in place.
        last_resnet: name of the last resnet of the last up block, which has a shortcut.
    """
    state["conv_in.weight"][:LATENTS] = _centre(LATENTS, LATENTS)
    shortcut = state[f"{last_resnet}.conv_shortcut.weight"]
    before = shortcut.shape[1] - state["conv_in.weight"].shape[0]  # the skip is concatenated last
    shortcut[: 2 * LATENTS] = 0
    state[f"{last_resnet}.conv2.weight"][: 2 * LATENTS] = 0
    out = state["conv_out.weight"].mul_(TEXTURE)
    out[:, : 2 * LATENTS] = 0
    for latent in range(LATENTS):
        for sign, row in ((1.0, 2 * latent), (-1.0, 2 * latent + 1)):
            shortcut[row, before + latent] = sign
            out[latent, row, 1, 1] = sign


def calm_controlnet(state: State) -> None:
    """Keep the hint out of the path that `calm_unet` laid; everywhere else it acts."""
    for kind in ("weight", "bias"):
        state[f"controlnet_down_blocks.0.{kind}"][:LATENTS] = 0


def carry_colours(state: State) -> None:
    """Make TAESD average 8x8 pixels on encoding and repeat them on decoding.

    Args:
        state: diffusers names; changed in place.
    """
    for name, weight in state.items():
        if name.endswith(".conv.4.weight"):
            weight[:3] = 0  # the residual branches leave the colours alone
        elif weight.ndim == 4 and ".conv." not in name:
            weight[:3] = 0
    encoder = [n for n in state if n.startswith("encoder.layers.") and ".conv." not in n]
    decoder = [n for n in state if n.startswith("decoder.layers.") and ".conv." not in n]
    _carry_in(state, encoder[0].rpartition(".")[0], gain=1.0, shift=0.0)
    for name in encoder:
        weight = state[name]
        if weight.ndim == 4 and weight.shape[0] == weight.shape[1]:  # halves the resolution
            for colour in range(3):
                weight[colour, colour, 1:, 1:] = 0.25
    last = encoder[-1].rpartition(".")[0]
    _carry_in(state, last, gain=LATENT_GAIN, shift=-LATENT_GAIN / 2)
    _carry_in(state, decoder[0].rpartition(".")[0], gain=1 / LATENT_GAIN, shift=0.5)
    for name in decoder[2:]:
        if state[name].ndim == 4:
            state[name][:3] = _centre(3, state[name].shape[1])


def _carry_in(state: State, layer: str, gain: float, shift: float) -> None:
    weight = state[f"{layer}.weight"]
    weight[:3] = gain * _centre(3, weight.shape[1])
    state[f"{layer}.bias"][:3] = shift


def _centre(rows: int, columns: int) -> torch.Tensor:
    """3x3 kernels (rows, columns, 3, 3) that hand channel i on as channel i."""
    kernels = torch.zeros(rows, columns, 3, 3)
    for i in range(rows):
        kernels[i, i, 1, 1] = 1
    return kernels
