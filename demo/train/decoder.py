"""Stage 7: the autoencoder's decoder, further; may run beside any later stage.

The encoder stays as it is, and with it every latent the UNet has learned on. Sharper decoding is
the cheapest way to better pictures; so the decoder gets more channels, too.
"""

import torch
from torch import nn

from .loop import Plan, arguments, run_stage
from .narrow import FINE_DECODER, NarrowVae, grow
from .runs import load_weights
from .vae import VaeStage, disturbed, picture_loss, psnr

PLAN = Plan(steps=12_000, learning_rate=5e-4, warmup=100, average=0.998, muon=True)


class DecoderStage(VaeStage):
    name = "decoder"

    def __init__(self, args, device: torch.device):
        super().__init__(args, device)
        self.vae = NarrowVae()
        self.vae.load_state_dict(load_weights("vae", "vae"))
        self.vae.to(device).requires_grad_(False)
        decoder = NarrowVae(FINE_DECODER).decoder
        grow(self.vae.decoder, decoder)
        self.vae.decoder = decoder
        self.trained = nn.ModuleDict({"decoder": decoder})

    def loss(self, batch, generator):
        pixels = batch["pixels"].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = self.vae.encode(pixels)
        decoded = self.vae.decode(disturbed(latents, generator))
        loss = picture_loss(decoded, pixels, batch["weight"])
        return loss, {"psnr": psnr(decoded, pixels)}


def main() -> None:
    run_stage(DecoderStage, PLAN, arguments("Train the decoder further.").parse_args())


if __name__ == "__main__":
    main()
