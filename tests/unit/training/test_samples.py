"""Sample pictures: each beside its twin without the LoRA, and nothing of them stays in memory."""

import gc

import numpy as np
import torch
from PIL import Image

from training.preview import make_samples, needed_texts


def live_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        real = type(thing) in (torch.Tensor, torch.nn.Parameter)  # not a compiler's fakes
        if real and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def test_samples_come_in_pairs_and_leave_no_memory_behind(make_loop):
    plan, adapter, data, loop = make_loop(
        {
            "samples": {
                "prompts": ["one", "another one"],
                "negative": "bad",
                "steps": 2,
                "at_end": True,
            }
        }
    )
    with torch.no_grad():
        for _, pair in adapter.pairs():
            pair.up.fill_(0.3)
    adapter.unet.train()
    for text in needed_texts(plan):
        data.text(text)  # these stay in memory on purpose
    weights = {k: v.clone() for k, v in adapter.state().items()}
    before = live_bytes()
    samples = make_samples(plan, adapter, data, 1, lambda *_: None)
    assert live_bytes() - before < 4096  # a VAE alone is millions
    assert adapter.unet.training
    assert all(torch.equal(v, weights[k]) for k, v in adapter.state().items())
    for sample in samples:
        with_lora, without = (np.asarray(Image.open(p), int) for p in (sample.path, sample.base))
        assert with_lora.shape == without.shape == (64, 64, 3)
        assert np.abs(with_lora - without).mean() > 0.1
    again = make_samples(plan, adapter, data, 2, lambda *_: None)
    assert [s.base for s in again] == [s.base for s in samples]  # the twin is made once
    same = [np.asarray(Image.open(s.path)) for s in (samples[0], again[0])]
    assert np.array_equal(*same)  # the same seed, the same weights: the same picture
