"""The loss curve as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path

SIZE = (960, 480)
MARGIN = 56
SMOOTHING = 0.95  # share of the old value in the running mean


def running_mean(losses: Sequence[float], smoothing: float = SMOOTHING) -> list[float]:
    """Exponential mean without the pull towards zero at the start (Adam's correction).

    Values that are not finite repeat the mean before them.
    """
    out, mean, weight = [], 0.0, 0.0
    for loss in losses:
        if math.isfinite(loss):
            mean = smoothing * mean + (1 - smoothing) * loss
            weight = smoothing * weight + (1 - smoothing)
        out.append(mean / weight if weight else math.nan)
    return out


def plot_losses(losses: Sequence[float], path: Path, title: str = "") -> None:
    """Draw every step's loss in grey and the running mean in blue, as a PNG file."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(picture)
    finite = sorted(x for x in losses if math.isfinite(x))
    # the top is the 99th percentile, so that one outlier does not flatten the curve
    top = (finite[min(len(finite) - 1, int(len(finite) * 0.99))] if finite else 1.0) or 1.0
    left, right, bottom = MARGIN, SIZE[0] - 16, SIZE[1] - MARGIN

    def place(i: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * i / max(1, len(losses) - 1)
        return x, bottom - (bottom - MARGIN) * min(value / top, 1.0)

    for part in range(5):
        value = top * part / 4
        y = place(0, value)[1]
        draw.line([(left, y), (right, y)], fill="#dddddd")
        draw.text((8, y - 6), f"{value:.3g}", fill="#444444")
    for values, colour, width in ((losses, "#c0c8d4", 1), (running_mean(losses), "#1f5fbf", 3)):
        points = [place(i, v) for i, v in enumerate(values) if math.isfinite(v)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=width)
        elif points:
            draw.ellipse([points[0][0] - 2, points[0][1] - 2, points[0][0] + 2, points[0][1] + 2])
    draw.text((left, SIZE[1] - 28), f"{title}  loss over {len(losses)} steps", fill="#444444")
    part = path.with_name(f"{path.name}.part")
    picture.save(part, "png")
    part.replace(path)
