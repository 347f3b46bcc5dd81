"""Which cross attention of a UNet each pair of an adapter file belongs to.

Files number the attentions as diffusers lists them: down blocks, up blocks, middle block last;
self attentions are even, cross attentions odd. A UNet in the original layout (`input_blocks`,
`middle_block`, `output_blocks`) is walked in that order, so no depth is ever assumed. The
`transformer_index` counts in order of execution instead (the middle comes before the up blocks).
"""

from dataclasses import dataclass

from .errors import IPAdapterError
from .weights import AdapterSpec

FAMILIES = {2048: "SDXL", 768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}


@dataclass(frozen=True)
class AttentionLayer:
    """One text cross attention.

    Attributes:
        key: (block kind "input" | "middle" | "output", block index, depth in its transformer).
        number: N of the keys in an adapter file.
        transformer_index: position of its transformer in order of execution.
        channels: width of queries, keys and values.
        context_dim: width of the text context.
    """

    key: tuple[str, int, int]
    number: int
    transformer_index: int
    channels: int
    context_dim: int

    @property
    def index(self) -> int:
        """Position among the pairs of an adapter file."""
        return self.number // 2


def _transformers(blocks) -> list[tuple[int, object]]:
    return [
        (index, module)
        for index, block in enumerate(blocks)
        for module in block
        if hasattr(module, "transformer_blocks")
    ]


def attention_layers(unet) -> tuple[AttentionLayer, ...]:
    """Every text cross attention of `unet`, in the order of adapter files.

    Raises:
        IPAdapterError: `unet` is not a UNet with text cross attention.
    """
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        raise IPAdapterError(
            "References work with SDXL and Stable Diffusion 1.5 models; this model has no UNet "
            f"({type(unet).__name__}). Load an SDXL checkpoint."
        )
    groups = {
        "input": _transformers(unet.input_blocks),
        "middle": _transformers([unet.middle_block] if unet.middle_block is not None else []),
        "output": _transformers(unet.output_blocks),
    }
    running = [(kind, i) for kind in ("input", "middle", "output") for i, _ in groups[kind]]
    layers: list[AttentionLayer] = []
    for kind in ("input", "output", "middle"):
        for block, transformer in groups[kind]:
            for depth, inner in enumerate(transformer.transformer_blocks):
                attention = inner.attn2
                layers.append(
                    AttentionLayer(
                        key=(kind, block, depth),
                        number=2 * len(layers) + 1,
                        transformer_index=running.index((kind, block)),
                        channels=attention.to_k.out_features,
                        context_dim=attention.to_k.in_features,
                    )
                )
    if not layers:
        raise IPAdapterError("This model has no text cross attention: load an SDXL checkpoint.")
    return tuple(layers)


def check_fit(spec: AdapterSpec, layers: tuple[AttentionLayer, ...]) -> None:
    """Refuse an adapter that was trained for another kind of model.

    Raises:
        IPAdapterError: names both sides and the remedy.
    """
    context = layers[0].context_dim
    wanted = tuple(layer.channels for layer in layers)
    if spec.context_dim == context and spec.channels == wanted:
        return
    yours, theirs = _family(context, len(wanted)), _family(spec.context_dim, len(spec.channels))
    remedy = "use the adapter that was trained for this model, or download the file again"
    if spec.context_dim != context:
        remedy = "use an adapter made for it (SDXL: ip-adapter-plus_sdxl_vit-h.safetensors)"
    raise IPAdapterError(f"{spec.label} is made for {theirs}, but the model is {yours}: {remedy}.")


def _family(context: int, pairs: int) -> str:
    name = FAMILIES.get(context, "another UNet")
    return f"{name} ({pairs} cross attentions, text width {context})"
