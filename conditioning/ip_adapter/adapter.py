"""One adapter as a module: the projector and the key/value projections of every layer."""

from collections.abc import Mapping

import torch
from torch import nn

from .errors import IPAdapterError
from .projectors import PROJECTORS
from .weights import AdapterSpec, layer_pairs


class AdapterModule(nn.Module):
    """`projector`, and `to_k[i]` / `to_v[i]` for the i-th cross attention in the file's order."""

    def __init__(self, adapter: Mapping[str, Mapping], spec: AdapterSpec, ops=nn):
        super().__init__()
        self.spec = spec
        self.projector = PROJECTORS[spec.kind](adapter["image_proj"], ops)
        self.to_k = nn.ModuleList(self._linears(spec, ops))
        self.to_v = nn.ModuleList(self._linears(spec, ops))

    @staticmethod
    def _linears(spec: AdapterSpec, ops) -> list[nn.Module]:
        return [ops.Linear(spec.context_dim, width, bias=False) for width in spec.channels]

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Encoder output (B, E) or (B, S, E), as `spec.feature` says -> tokens (B, T, D)."""
        return self.projector(features)

    def keys_values(
        self, index: int, tokens: torch.Tensor, weight: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, T, C) of layer `index`; the reference's weight is in the values."""
        values = self.to_v[index](tokens)
        return self.to_k[index](tokens), values if weight == 1.0 else values * weight


def build_adapter(adapter: Mapping[str, Mapping], spec: AdapterSpec, ops=nn) -> AdapterModule:
    """The module of `adapter`; its parameters are the file's tensors themselves, not copies.

    Raises:
        IPAdapterError: tensors are missing or of the wrong shape.
    """
    state = {f"projector.{key}": value for key, value in adapter["image_proj"].items()}
    for index, (to_k, to_v) in enumerate(layer_pairs(adapter["ip_adapter"])):
        state[f"to_k.{index}.weight"] = to_k
        state[f"to_v.{index}.weight"] = to_v
    try:
        with torch.device("meta"):
            module = AdapterModule(adapter, spec, ops)
        module.load_state_dict(state, strict=True, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        detail = str(error).strip().splitlines()[-1].strip()[:160]
        raise IPAdapterError(
            f"{spec.label} is incomplete ({detail}): download the file again."
        ) from error
    return module.eval().requires_grad_(False)
