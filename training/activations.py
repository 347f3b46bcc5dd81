"""What a forward pass keeps for the backward pass, block by block: bytes and work, without a model.

Counted by hand from what PyTorch's kernels save when only the adapter is trained: a frozen
convolution or linear layer keeps nothing but its weight, so what remains is the inputs of norms,
activations and attention, and the inputs of adapted layers. Checked against the tensors that
autograd really saves (tests/unit/training/test_memory.py).
"""

from collections.abc import Iterator, Mapping
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
    """

    name: str
    kind: str
    level: int
    kept: int
    inputs: int
    peak: int
    outside: int
    work: int

    @property
    def saving(self) -> int:
        """Elements that are not kept if it is computed twice."""
        return max(0, self.kept - self.inputs)


def _list(value: Any, count: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def units(
    config: Mapping[str, Any], width: int, height: int, batch: int, rank: int, targets: str
) -> list[Unit]:
    """Every unit of a UNet in the order of the forward pass.

    Args:
        config: UNet2DConditionModel arguments, as `unet_config_from_keys` gives.
        width, height: of the pictures, in pixels.
        targets: a key of TARGETS; those that are not known here count as "transformer".
    """
    walk = _Walk(config, width, height, batch, rank, targets)
    return list(walk.units())


class _Walk:
    def __init__(self, config, width, height, batch, rank, targets):
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
        self.batch, self.rank = batch, rank
        self.attention_only = targets == "attention"
        self.convolutions = targets == "all"
        self.reached = self.convolutions  # whether gradients flow through what comes next

    def units(self) -> Iterator[Unit]:
        skips, previous = [self.channels[0]], self.channels[0]
        for level, channels in enumerate(self.channels):
            resnets = []
            for layer in range(self.layers[level]):
                resnets.append((previous if layer == 0 else channels, channels))
                skips.append(channels)
            attends = "CrossAttn" in self.down[level]
            yield from self._block(f"down_blocks.{level}", level, resnets, self.depths, attends)
            previous = channels
            if level < len(self.channels) - 1:
                skips.append(channels)
        last = len(self.channels) - 1
        if self.middle:
            attends = "CrossAttn" in self.middle
            yield self._always("mid_block.resnets.0", last, 4 * previous * self.reached)
            middle = [(previous, previous)] * attends
            yield from self._block("mid_block", last, middle, self.depths, attends, 1)
        for index in range(len(self.channels)):
            level = last - index
            channels, resnets = self.channels[level], []
            for _ in range(self.layers[level] + 1):
                resnets.append((previous + skips.pop(), channels))
                previous = channels
            depths = list(reversed(self.up_depths))
            attends = "CrossAttn" in self.up[index]
            yield from self._block(f"up_blocks.{index}", level, resnets, depths, attends)
        yield self._always("conv_norm_out", 0, 2 * self.channels[0])

    def _always(self, name: str, level: int, channels: int) -> Unit:
        """What diffusers never computes twice."""
        return Unit(name, "end", level, 0, 0, 0, self.places[level] * channels, 0)

    def _block(self, name, level, resnets, depths, attends, attentions=None) -> Iterator[Unit]:
        # the order inside a block does not matter, except for where gradients begin
        begins = self.reached or name == "mid_block"  # there the attention comes first
        count = (len(resnets) if attentions is None else attentions) if attends else 0
        if count:
            self.reached = True
        yield self._resnets(name, level, resnets if begins else resnets[1:] * bool(count), resnets)
        for i in range(count):
            yield self._transformer(
                f"{name}.attentions.{i}", level, self.channels[level], _at(depths[level], i)
            )

    def _resnets(self, name, level, reached, resnets) -> Unit:
        """Inputs of two norms and of two activations, and of convolutions that are adapted."""
        places = self.places[level]
        each = [2 * (a + b) + (a + b) * self.convolutions for a, b in reached]
        kept = places * sum(each)
        return Unit(
            name,
            "resnets",
            level,
            kept,
            min(kept, places * sum(a for a, _ in resnets)),
            places * max(each, default=0),
            0,
            2 * places * sum(9 * b * (a + b) + a * b * (a != b) for a, b in resnets),
        )

    def _transformer(self, name, level, channels, depth) -> Unit:
        """Per block and place, in channels: 3 inputs of norms, q k v and the output of attention,
        q and the output of cross-attention, the gate (8), its GELU (4), and the inputs of adapted
        layers: 3 normed ones and the gate's product (4)."""
        places, text = self.places[level], self.batch * TEXT_TOKENS
        each = 3 + 4 + 2 + 12 + (2 if self.attention_only else 3 + 4)
        low = self.rank * (8 if self.attention_only else 10)
        block = places * (each * channels + low) + text * (2 * channels + 2 * self.rank)
        ends = places * channels * (1 if self.attention_only else 3)
        work = places * channels * (36 * channels + 4 * places // self.batch + 4 * TEXT_TOKENS)
        work += 4 * text * self.context * channels
        return Unit(
            name,
            "transformer",
            level,
            depth * block,
            depth * places * channels,
            block,
            ends,
            depth * work + 4 * places * channels * channels,
        )


def _at(value: Any, index: int) -> int:
    return value[index] if isinstance(value, list | tuple) else value
