"""A small picture for the file's metadata, as browsers of LoRA files show it."""

import base64
import io
from pathlib import Path

SIDE = 256  # pixels of the longer side: the format's advice, about 10 KB


def thumbnail(picture: Path) -> str | None:
    """A JPEG data URI of a picture file, None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(picture) as image:
            small = image.convert("RGB")
    except (OSError, ValueError):
        return None
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
