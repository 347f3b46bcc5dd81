"""What a forward pass keeps for the backward pass, block by block: bytes and work, without a model.

Counted by hand from what PyTorch's kernels save when only the adapter is trained: a frozen linear
layer keeps nothing but its weight, a convolution its input even so. Added are the inputs of norms,
activations and attention, and what each adapted layer keeps (adapter_size.py). Nothing is kept
before the first adapted layer. Checked against the tensors that autograd really saves
(tests/unit/training/test_memory.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TEXT_TOKENS = 77


@dataclass(frozen=True)
class Unit:
    """A group of blocks that diffusers can compute twice instead of keeping.

    Attributes:
        name: the module whose `gradient_checkpointing` flag covers it, diffusers' name.
        kind: "resnets" or "transformer".
        level: 0 for the largest resolution.
        kept: elements that are kept when it is computed once.
        inputs: elements that are kept when it is computed twice.
        peak: elements of its largest block alone, which exist again while it is computed anew.
        outside: elements that are kept in any case.
        work: multiplications and additions of one forward pass.
        learns: numbers of its adapters that learn, whose gradients its backward pass leaves.
    """

    name: str
    kind: str
    level: int
    kept: int
    inputs: int
    peak: int
    outside: int
    work: int
    learns: int = 0

    @property
    def saving(self) -> int:
        """Elements that are not kept if it is computed twice."""
        return max(0, self.kept - self.inputs)


@dataclass(frozen=True)
class Load:
    """What the adapter of one layer adds to what is kept.

    Attributes:
        inputs: whether it needs the layer's input, which layers beside it may share.
        per_row: elements for each row (place, token or picture) that the layer computes.
        fixed: elements that are kept however much is computed: copies of weights.
        learns: numbers in it that learn.
    """

    inputs: bool
    per_row: int
    fixed: int
    learns: int = 0


def units(
    config: Mapping[str, Any],
    width: int,
    height: int,
    batch: int,
    loads: Mapping[str, Load],
    learns: bool = False,
) -> list[Unit]:
    """Every unit of a UNet in the order of the forward pass.

    Args:
        config: UNet2DConditionModel arguments, as `unet_config_from_keys` gives.
        width, height: of the pictures, in pixels.
        loads: adapted layers by diffusers' names.
        learns: whether what the UNet is given learns, too: then gradients flow everywhere.
    """
    walk = _Walk(config, width, height, batch, loads)
    walk.reached = learns
    return list(walk.units())


def _list(value: Any, count: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _at(value: Any, index: int) -> int:
    return value[index] if isinstance(value, list | tuple) else value


class _Walk:
    def __init__(self, config, width, height, batch, loads):
        self.channels = list(config["block_out_channels"])
        levels = len(self.channels)
        self.layers = _list(config["layers_per_block"], levels)
        self.down = list(config["down_block_types"])
        self.up = list(config["up_block_types"])
        self.depths = _list(config["transformer_layers_per_block"], levels)
        reverse = config.get("reverse_transformer_layers_per_block")
        self.up_depths = list(reverse) if reverse else list(reversed(self.depths))
        self.middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
        self.context = config["cross_attention_dim"]
        self.places = [batch * -(-width // 8 >> i) * -(-height // 8 >> i) for i in range(levels)]
        self.batch, self.loads = batch, loads
        self.reached = False  # whether gradients flow through what comes next
        self.learned = 0  # numbers that learn, met since the last unit

    def units(self) -> Iterator[Unit]:
        last = len(self.channels) - 1
        skips, previous = [self.channels[0]], self.channels[0]
        for name in ("time_embedding", "add_embedding"):
            begin = [self._kept(f"{name}.linear_{i}", self.batch) for i in (1, 2)]
            yield self._always(name, sum(begin))
        yield self._always("conv_in", self._kept("conv_in", self.places[0]))
        for level, channels in enumerate(self.channels):
            resnets = []
            for layer in range(self.layers[level]):
                resnets.append((previous if layer == 0 else channels, channels))
                skips.append(channels)
            attends = "CrossAttn" in self.down[level]
            yield from self._block(f"down_blocks.{level}", level, resnets, self.depths, attends)
            previous = channels
            if level < last:
                skips.append(channels)
                name = f"down_blocks.{level}.downsamplers.0.conv"
                size = self.places[level] * channels
                kept = self._kept(name, self.places[level + 1])
                yield self._always(name, kept + size * self.reached)
        if self.middle:
            attends = "CrossAttn" in self.middle
            first = self._resnet("mid_block.resnets.0", last, previous, previous)
            yield self._always("mid_block.resnets.0", first)
            middle = [(previous, previous)] * attends
            yield from self._block("mid_block", last, middle, self.depths, attends)
        for index in range(len(self.channels)):
            level = last - index
            channels, resnets = self.channels[level], []
            for _ in range(self.layers[level] + 1):
                resnets.append((previous + skips.pop(), channels))
                previous = channels
            depths = list(reversed(self.up_depths))
            attends = "CrossAttn" in self.up[index]
            yield from self._block(f"up_blocks.{index}", level, resnets, depths, attends)
            if level:
                name, rows = f"up_blocks.{index}.upsamplers.0.conv", self.places[level - 1]
                kept = self._kept(name, rows)
                yield self._always(name, kept + rows * channels * self.reached)
        kept = self._kept("conv_out", self.places[0])
        end = 3 * self.places[0] * self.channels[0] * self.reached
        yield self._always("conv_out", kept + end)

    def _kept(self, name: str, rows: int, shared: int = 0) -> int:
        """What the adapter of a layer keeps; from it on gradients flow.

        Args:
            rows: what it computes.
            shared: elements of its input where nothing else keeps it.
        """
        load = self.loads.get(name)
        if load is None:
            return 0
        self.reached = True
        self.learned += load.learns
        return load.inputs * shared + load.per_row * rows + load.fixed

    def _always(self, name: str, kept: int) -> Unit:
        """What diffusers never computes twice."""
        return Unit(name, "end", 0, 0, 0, 0, kept, 0, self._learned())

    def _learned(self) -> int:
        count, self.learned = self.learned, 0
        return count

    def _block(self, name, level, resnets, depths, attends) -> Iterator[Unit]:
        places, found = self.places[level], []
        middle = name == "mid_block"  # there the attention comes first
        inputs = learned = 0
        for i, (a, b) in enumerate(resnets):
            if attends and middle:
                yield self._transformer(f"{name}.attentions.{i}", level, _at(depths[level], i))
            found.append(self._resnet(f"{name}.resnets.{i + middle}", level, a, b))
            inputs += places * a * bool(found[-1])
            learned += self._learned()
            if attends and not middle:
                yield self._transformer(f"{name}.attentions.{i}", level, _at(depths[level], i))
        kept = sum(found)
        yield Unit(
            name,
            "resnets",
            level,
            kept,
            min(kept, inputs),
            max(found, default=0),
            0,
            2 * places * sum(9 * b * (a + b) + a * b * (a != b) for a, b in resnets),
            learned,
        )

    def _resnet(self, name: str, level: int, a: int, b: int) -> int:
        """Inputs of two norms, activations and convolutions, and what adapted layers keep."""
        places = self.places[level]
        kept = sum(self._kept(f"{name}.{part}", places) for part in ("conv1", "conv2"))
        kept += self._kept(f"{name}.time_emb_proj", self.batch)
        kept += self._kept(f"{name}.conv_shortcut", places)
        return kept + 3 * places * (a + b) * self.reached

    def _transformer(self, name: str, level: int, depth: int) -> Unit:
        places, channels = self.places[level], self.channels[level]
        text = self.batch * TEXT_TOKENS
        size = places * channels
        ends = self._kept(f"{name}.proj_in", places, size)
        begins = self.reached
        blocks = [
            self._transformer_block(f"{name}.transformer_blocks.{i}", places, channels)
            for i in range(depth)
        ]
        ends += begins * size + self._kept(f"{name}.proj_out", places, size)
        work = size * (36 * channels + 4 * places // self.batch + 4 * TEXT_TOKENS)
        work += 4 * text * self.context * channels
        return Unit(
            name,
            "transformer",
            level,
            sum(blocks),
            sum(size for block in blocks if block),
            max(blocks, default=0),
            ends,
            depth * work + 4 * size * channels,
            self._learned(),
        )

    def _transformer_block(self, name: str, places: int, channels: int) -> int:
        """Per place, in channels: 3 inputs of norms, q k v and the output of attention, q and the
        output of cross-attention, the gate (8), its GELU (4); k and v of the text; and what
        adapted layers keep: 3 normed inputs and the gate's product (4), which layers share."""
        text, size = self.batch * TEXT_TOKENS, places * channels
        kept = self._group((f"{name}.attn1.to_{x}" for x in "qkv"), places, size)
        kept += self._kept(f"{name}.attn1.to_out.0", places)
        kept += self._kept(f"{name}.attn2.to_q", places, size)
        kept += self._group((f"{name}.attn2.to_{x}" for x in "kv"), text, 0)
        kept += self._kept(f"{name}.attn2.to_out.0", places)
        kept += self._kept(f"{name}.ff.net.0.proj", places, size)
        kept += self._kept(f"{name}.ff.net.2", places, 4 * size)
        return kept + (21 * size + 2 * text * channels) * self.reached

    def _group(self, names: Iterator[str], rows: int, shared: int) -> int:
        """Layers that read the same input, which is kept once."""
        kept = [(self._kept(n, rows), n) for n in names]
        needed = any(self.loads[n].inputs for _, n in kept if n in self.loads)
        return sum(k for k, _ in kept) + shared * needed


def text_units(name: str, hidden: int, layers: int, batch: int, loads: Sequence[Load]) -> Unit:
    """What a trained text encoder keeps, 77 tokens of a caption for each picture.

    In each layer, in its width: inputs of two norms, q k v and the output of attention, the input
    and the inside of the activation (12), and what adapted layers keep: two normed inputs and the
    activation's output (4).
    """
    rows = batch * TEXT_TOKENS
    own = sum(load.per_row * rows + load.fixed for load in loads)
    learns = sum(load.learns for load in loads)
    return Unit(name, "end", 0, 0, 0, 0, layers * rows * hidden * 24 + own, 0, learns)
