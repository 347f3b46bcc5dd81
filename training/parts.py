"""The parts of one layer in an adapter file, and what they do to its weight.

`change` computes what the program that trained them computes (LyCORIS 4, PEFT). ComfyUI does the
same but for two things: it divides the rows of DoRA on the output axis by the length they had
before, and limits OFT's rotation to `alpha` where LyCORIS means `alpha * rows`.
"""

from collections.abc import Mapping

import torch

from .errors import FileError
from .masters import rotation

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"
# ending of a key -> part; longer ones first, so that none hides another
_ENDINGS = {
    ".lora_A.default.weight": DOWN,
    ".lora_B.default.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora_mid.weight": MID,
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_A": DOWN,
    ".lora_B": UP,
    ".w_norm": "diff",  # LyCORIS' names for what is added to a norm
    ".b_norm": "diff_b",
    **{f".{part}.weight": part for part in ("a1", "a2", "b1", "b2", "bm")},
} | {
    f".{part}": part
    for part in (
        *("alpha", "dora_scale", "diff", "diff_b", "oft_blocks", "rescale", "on_input"),
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    )
}
Parts = dict[str, torch.Tensor]


def split_key(key: str) -> tuple[str, str]:
    """(stem of the layer, part) of a key; the part is "" where it is none we know."""
    for ending, part in _ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), part
    return key, ""


# kind -> the parts it is made of; a bias may be trained beside any of them
_ALWAYS = {"alpha", "diff_b"}
_COLUMNS = {"dora_scale"}
_MADE_OF = {
    "lora": {DOWN, UP, MID},
    "dora": {DOWN, UP, MID, "magnitude", *_COLUMNS},
    "loha": {f"hada_{p}" for p in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")} | _COLUMNS,
    "lokr": {f"lokr_{p}" for p in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")} | _COLUMNS,
    "oft": {"oft_blocks", "rescale"},
    "boft": {"oft_blocks", "rescale"},
    "diff": {"diff"},
}
_FOREIGN = {"glora": "GLoRA", "ia3": "(IA)^3"}  # known by name, not computed here


def kind_of(parts: Mapping[str, torch.Tensor]) -> str:
    """The kind of a layer, "" for nothing whole.

    Returns:
        "lora", "dora", "loha", "lokr", "oft", "boft", "diff", or "glora" and "ia3", which nothing
        here computes. LoHa and LoKr stay what they are with a `dora_scale` beside them.
    """
    if DOWN in parts and UP in parts:
        return "dora" if "dora_scale" in parts or "magnitude" in parts else "lora"
    if "oft_blocks" in parts:
        return "boft" if parts["oft_blocks"].ndim == 4 else "oft"
    for part, kind in (("hada_w1_a", "loha"), ("a1", "glora"), ("on_input", "ia3")):
        if part in parts:
            return kind
    if any(p.startswith("lokr_w1") for p in parts) and any(p.startswith("lokr_w2") for p in parts):
        return "lokr"
    return "diff" if "diff" in parts or "diff_b" in parts else ""


def complaint(parts: Mapping[str, torch.Tensor]) -> str:
    """Why a layer cannot be computed with, "" if it can: half, of a kind unknown here, or more."""
    kind = kind_of(parts)
    if not kind:
        return f"has {', '.join(sorted(parts))} alone: its partner is missing"
    if kind in _FOREIGN:
        return f"is {_FOREIGN[kind]}, which these commands do not compute"
    beyond = sorted(set(parts) - _MADE_OF[kind] - _ALWAYS)
    if beyond:
        return f"is {kind} with {', '.join(beyond)} beside it, which would be lost"
    wild = sorted(part for part, tensor in parts.items() if not _is_finite(tensor))
    return f"holds NaN or infinity in {', '.join(wild)}" if wild else ""


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(_wide(tensor)).all())


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """As float32 where it is narrower: 16 bits and float8 are not computed with."""
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def rank_in(parts: Mapping[str, torch.Tensor]) -> int | None:
    """The rank of a layer's parts; None where they have none."""
    for part in (DOWN, "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if part in parts:
            return len(parts[part])
    return parts["oft_blocks"].shape[-1] if "oft_blocks" in parts else None


def scale_of(parts: Mapping[str, torch.Tensor]) -> float:
    """What the product of the matrices is multiplied with: alpha / rank, 1 without alpha."""
    rank = rank_in(parts)
    if "alpha" not in parts or not rank or "oft_blocks" in parts:
        return 1.0
    return float(parts["alpha"]) / rank


def change(parts: Mapping[str, torch.Tensor], weight: torch.Tensor | None = None) -> torch.Tensor:
    """What a layer's parts add to its weight, in float32, or float64 for float64 parts.

    Args:
        weight: the original weight; its shape is taken over, and DoRA and OFT need its numbers.

    Raises:
        FileError: the parts do not fit together, or need the weight.
    """
    try:
        return _change({part: _wide(tensor) for part, tensor in parts.items()}, weight)
    except (RuntimeError, KeyError, IndexError, torch.linalg.LinAlgError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise FileError(f"its parts do not fit together ({reason})") from None


def _change(parts: Mapping[str, torch.Tensor], weight: torch.Tensor | None) -> torch.Tensor:
    kind = kind_of(parts)
    if kind == "diff":
        return parts["diff"] if weight is None else parts["diff"].reshape(weight.shape)
    if kind in _TURNS:
        weight = _required(weight, kind.upper())
        turned = _TURNS[kind](_rotations(parts, len(weight)).to(weight), weight)
        if "rescale" in parts:
            turned = turned * parts["rescale"].view(-1, *[1] * (weight.ndim - 1))
        return turned - weight
    out = _PRODUCTS["lora" if kind == "dora" else kind](parts) * scale_of(parts)
    if weight is not None:
        out = out.reshape(weight.shape)
    if "dora_scale" in parts or "magnitude" in parts:
        weight = _required(weight, "DoRA")
        return _with_lengths(weight + out, parts) - weight
    return out


def _required(weight: torch.Tensor | None, kind: str) -> torch.Tensor:
    if weight is None:
        raise FileError(f"{kind} changes a weight by what it was: give the checkpoint (--base)")
    return weight


def _lora_product(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    down, up = p[DOWN], p[UP]
    if MID in p:
        return torch.einsum("mnkl,im,nj->ijkl", p[MID], up.flatten(1), down.flatten(1))
    return (up.flatten(1) @ down.flatten(1)).view(len(up), *down.shape[1:])


def _loha_product(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "hada_t1" in p:
        both = [
            torch.einsum("ijkl,jr,ip->prkl", p[f"hada_t{i}"], p[f"hada_w{i}_b"], p[f"hada_w{i}_a"])
            for i in (1, 2)
        ]
        return both[0] * both[1]
    return (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])


def _lokr_product(p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    first = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    if "lokr_w2" in p:
        second = p["lokr_w2"]
    elif "lokr_t2" in p:
        second = torch.einsum("ijkl,jr,ip->prkl", p["lokr_t2"], p["lokr_w2_b"], p["lokr_w2_a"])
    else:
        second = p["lokr_w2_a"] @ p["lokr_w2_b"]
    return torch.kron(first.view(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


_PRODUCTS = {"lora": _lora_product, "loha": _loha_product, "lokr": _lokr_product}


def _rotations(p: Mapping[str, torch.Tensor], rows: int) -> torch.Tensor:
    """Cayley transforms (..., n, n) of the blocks, whose skew part is no longer than alpha * rows.

    As LyCORIS does: `alpha` of an OFT file is its constraint, 0 for none.
    """
    blocks = p["oft_blocks"]
    limit = float(p["alpha"]) * rows if "alpha" in p else 0.0
    if limit > 0:
        length = float((blocks - blocks.transpose(-1, -2)).norm()) + 1e-8
        blocks = blocks * min(1.0, limit / length)
    return rotation(blocks.flatten(0, -3)).view(blocks.shape)


def _turned(turn: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = weight.reshape(*turn.shape[:2], -1)
    return torch.einsum("knm,knx->kmx", turn, rows).view(weight.shape)


def _butterfly(turn: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """BOFT (arXiv 2311.06243): each factor turns blocks of rows that lie further apart."""
    size = turn.shape[-1]
    rows = weight.flatten(1)
    for i, blocks in enumerate(turn):
        apart = 2**i * (size // 2)
        rows = rows.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2)
        rows = torch.einsum("bij,bjx->bix", blocks, rows.unflatten(0, (-1, size))).flatten(0, 1)
        rows = rows.unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return rows.view(weight.shape)


_TURNS = {"oft": _turned, "boft": _butterfly}


def _with_lengths(changed: torch.Tensor, p: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """DoRA: rows or columns of the changed weight brought to trained lengths.

    PEFT's magnitude is of rows; the shape of a `dora_scale` says what it is of.
    """
    lengths = p["magnitude"] if "magnitude" in p else p["dora_scale"]
    of_rows = "magnitude" in p or len(lengths) == len(changed)
    matrix = changed if of_rows else changed.transpose(0, 1)
    factor = (lengths.flatten() / matrix.flatten(1).norm(dim=1)).view(-1, *[1] * (matrix.ndim - 1))
    return changed * (factor if of_rows else factor.transpose(0, 1))
