"""Writes workflows/*.jpg: what comes out of each workflow, made by one run of the miniature film.

`python -m tools.thumbnails`, a few minutes. ComfyUI shows them square in its template browser.
"""

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .client import Client
from .server import ComfyServer
from .sketches import DANCES

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
CAST = WORKFLOWS / "input" / "troupe_miniature"
SIDE, TILE = 512, 128
FRAMES = range(0, 12, 3)


def main() -> None:
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        made = pictures(server.client)
    films = [made[f"dance{n}"] for n in range(1, DANCES + 1)]
    poses = [made[f"pose{n}"] for n in range(1, DANCES + 1)]
    learned = [Image.open(CAST / f"{n:02}.png") for n in (0, 3, 5, 8)]
    roles = [Image.open(f"{CAST}_{role}.png") for role in ("attire", "background")]
    thumbnails = {
        "Miniature film": grid([film[5] for film in films], 2),
        "Compose scene": inset(films[0][4], [poses[0][4], *roles]),
        "Train LoRA": inset(films[2][8], learned[:3]),
        "Pose sequence to film": grid(
            [row[i] for row in (poses[1], films[1], poses[3], films[3]) for i in FRAMES], 4
        ),
        "Full pipeline": grid([*learned, *(film[i] for film in films[:3] for i in FRAMES)], 4),
    }
    for title, picture in thumbnails.items():
        picture.save(WORKFLOWS / f"{title}.jpg", quality=88, optimize=True)


def pictures(client: Client) -> dict[str, list[Image.Image]]:
    """The frames and the drawn poses of each dance, from the workflow itself."""
    prompt = json.loads((WORKFLOWS / "api" / "miniature_film.json").read_text("ascii"))
    by_title = {node["_meta"]["title"]: key for key, node in prompt.items()}
    for n in range(1, DANCES + 1):
        scene = prompt[by_title[f"Dance {n}"]]["inputs"]
        drawn = _node("TroupeDrawPose", pose=scene["pose"], width=TILE, height=TILE)
        prompt |= {
            f"drawn{n}": drawn,
            f"pose{n}": _node("PreviewImage", images=[f"drawn{n}", 0]),
            f"dance{n}": _node("PreviewImage", images=[by_title[f"Dance {n}: frames"], 0]),
        }
    outputs = client.run(prompt, timeout=3600)
    return {
        key: [Image.open(io.BytesIO(client.view(**item))) for item in outputs[key]["images"]]
        for key in prompt
        if key.startswith(("pose", "dance"))
    }


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def grid(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """`columns` x `columns` tiles that fill the square."""
    side = SIDE // columns
    canvas = Image.new("RGB", (SIDE, SIDE))
    for number, tile in enumerate(tiles):
        place = side * (number % columns), side * (number // columns)
        canvas.paste(_sized(tile, side), place)
    return canvas


def inset(picture: Image.Image, tiles: Sequence[Image.Image]) -> Image.Image:
    """A picture that fills the square, and what it was made of at its left edge."""
    canvas, edge = _sized(picture, SIDE), 4
    step = (SIDE - TILE * len(tiles)) // (len(tiles) + 1) + TILE
    for number, tile in enumerate(tiles):
        top = step * number + step - TILE
        canvas.paste("white", (step - TILE - edge, top - edge, step + edge, top + TILE + edge))
        canvas.paste(_sized(tile, TILE), (step - TILE, top))
    return canvas


def _sized(picture: Image.Image, side: int) -> Image.Image:
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
