"""The loss curve as a picture."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from .tensorfile import write_changed

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


def plot_losses(
    losses: Sequence[float],
    path: Path,
    title: str = "",
    scores: Sequence[tuple[int, float]] = (),
) -> None:
    """Draw every step's loss in grey and the running mean in blue, as a PNG file.

    Args:
        scores: (steps, validation loss), drawn in orange on a scale of their own at the right,
            since weighting may have changed what the training loss measures.
    """
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
    _plot_scores(draw, [(s, x) for s, x in scores if math.isfinite(x)], max(1, len(losses)))
    draw.text((left, SIZE[1] - 28), f"{title}  loss over {len(losses)} steps", fill="#444444")
    data = io.BytesIO()
    picture.save(data, "png")
    write_changed(path, data.getvalue())


def _plot_scores(draw, scores: Sequence[tuple[int, float]], steps: int) -> None:
    if not scores:
        return
    colour, left, right, bottom = "#d9730d", MARGIN, SIZE[0] - 16, SIZE[1] - MARGIN
    values = [value for _, value in scores]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    # between a tenth and nine tenths of the height: the change is what matters here
    points = [
        (
            left + (right - left) * min(1.0, step / steps),
            bottom - (bottom - MARGIN) * (0.1 + 0.8 * (value - low) / spread),
        )
        for step, value in scores
    ]
    if len(points) > 1:
        draw.line(points, fill=colour, width=2)
    for x, y in points:
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
    text = f"validation {values[0]:.4g} to {values[-1]:.4g}, best {low:.4g}"
    draw.text((right - 6 * len(text), MARGIN - 20), text, fill=colour)
