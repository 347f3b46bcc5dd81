"""Starting points: what a LoRA of one kind usually needs. A user's own values win over them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Values laid under the user's own, as nested sections of a job."""

    name: str
    help: str
    values: Mapping[str, Any] = field(default_factory=dict)


def _plan(steps: int, rank: int, rate: float, **sections: Any) -> dict[str, Any]:
    return {
        "schedule": {"steps": steps, "kind": "cosine", "warmup": 0.05},
        "adapter": {"rank": rank},
        "optimizer": {"learning_rate": rate},
        "objective": {"weighting": "min_snr"},
        **sections,
    }


PRESETS = {
    p.name: p
    for p in (
        Preset("character", "One person or figure, 10 to 40 pictures", _plan(1500, 16, 1e-4)),
        Preset("attire", "A garment or costume, 10 to 40 pictures", _plan(1200, 16, 1e-4)),
        Preset("pose", "A pose or gesture, 10 to 60 pictures", _plan(1200, 8, 1e-4)),
        Preset("background", "A place or set, 10 to 60 pictures", _plan(1500, 16, 1e-4)),
        Preset("style", "A look, 30 to 300 pictures", _plan(3000, 32, 1e-4)),
        Preset(
            "try out",
            "A few steps, to see that everything works",
            _plan(30, 4, 5e-4),
        ),
    )
}
DEFAULT_PRESET = "character"
CARDS_GB = (8, 12, 16, 24)  # memory of graphics cards that widgets and documentation speak of
