"""Training of the miniature models on the drawn world, in bounded and resumable slices of time.

Stages, in order; each is `python -m demo.train.<stage> --minutes M`, run again to go on:

1. `vae`         the autoencoder (TAESD layout) on crops of pictures
2. `clip`        both text encoders and the vision encoder, on captions and pictures
3. `vision`      the vision encoder further
4. `latents`     encodes a fixed set of training pictures once, for all later stages
5. `unet`        the diffusion model, and the openpose ControlNet beside it
6. `pictures`    encodes reference pictures once
7. `projector`   the IP-Adapter's projector learns to say what it sees
8. `ip_adapter`  IP-Adapter Plus on the frozen UNet and vision encoder
9. `evaluate`    samples, reads the pictures, prints what came true
10. `export`     writes the models in the formats of the real files, and what is shipped

`loop` runs a stage, `runs` keeps its files, `packs` the shipped ones, `tokens` turns captions into
token ids. Every step depends on (seed, step) alone, so an interrupted run ends like an
uninterrupted one.
"""
