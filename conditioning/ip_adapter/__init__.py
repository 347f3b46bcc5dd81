"""IP-Adapter: pictures that speak in the text cross attention of a UNet. Pure torch.

The way of the data:

1. `weights` reads an adapter file into its two parts and tells from keys and shapes what it is.
2. `layers` walks a UNet and says which of its cross attentions each pair of weights belongs to;
   `check_fit` refuses an adapter made for another kind of model.
3. `adapter` makes a module of the parts: a projector (`projectors`) and the layers' projections.
4. `features` takes what an image encoder saw, with and without the reference, to tokens.
5. `attention` adds a reference to one layer's output; `masks` says where, on the exact grid.

Patching a ComfyUI model with this is the business of `nodes/runtime/ip_adapter.py`.
"""

from .adapter import AdapterModule, build_adapter
from .attention import KeysValues, add_reference_output
from .errors import IPAdapterError
from .features import (
    COMBINES,
    NEGATIVES,
    ReferenceEmbeds,
    ReferenceTokens,
    check_features,
    check_images,
    pad_to_square,
    project_tokens,
)
from .layers import AttentionLayer, attention_layers, check_fit
from .masks import check_mask, mask_tokens, token_grid
from .weights import (
    AdapterSpec,
    adapter_parts,
    encoder_name,
    inspect_adapter,
    read_adapter,
    split_adapter,
)

__all__ = [
    "COMBINES",
    "NEGATIVES",
    "AdapterModule",
    "AdapterSpec",
    "AttentionLayer",
    "IPAdapterError",
    "KeysValues",
    "ReferenceEmbeds",
    "ReferenceTokens",
    "adapter_parts",
    "add_reference_output",
    "attention_layers",
    "build_adapter",
    "check_features",
    "check_fit",
    "check_images",
    "check_mask",
    "encoder_name",
    "inspect_adapter",
    "mask_tokens",
    "pad_to_square",
    "project_tokens",
    "read_adapter",
    "split_adapter",
    "token_grid",
]
