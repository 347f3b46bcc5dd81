"""Writes workflows/*.jpg, what comes out of each workflow, from the film that the demo made.

`python -m tools.thumbnails output/demo/film.mp4`. The template browser shows them square.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image

from conditioning.pose import draw_pose, read_pose_files
from demo import cast

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
CAST = WORKFLOWS / "input" / cast.FOLDER
SIDE, TILE = 512, 128
OVERLAP_S = 0.25  # of the film's shots
SHOWN = (2, 4, 6, 8)  # frames of a dance, away from the transitions


def main(film: Path) -> None:
    dances = [frames_of(film, number) for number in range(4)]
    poses = [poses_of(number) for number in range(4)]
    learned = [Image.open(CAST / f"{n:02}.png") for n in (0, 3, 5, 8)]
    roles = [Image.open(f"{CAST}_{role}.png") for role in ("attire", "background")]
    thumbnails = {
        "miniature_film": grid([dance[1] for dance in dances], 2),
        "compose_scene": inset(dances[0][1], [poses[0][1], *roles]),
        "train_lora": inset(dances[2][2], learned[:3]),
        "pose_sequence_to_film": grid([*poses[1], *dances[1], *poses[3], *dances[3]], 4),
        "full_pipeline": grid([*learned, *dances[0], *dances[1], *dances[2]], 4),
    }
    for name, picture in thumbnails.items():
        picture.save(WORKFLOWS / f"{name}.jpg", quality=88, optimize=True)


def frames_of(film: Path, number: int) -> list[Image.Image]:
    """The shown frames of a dance, by the times at which the film shows them."""
    begin = number * (cast.SHOT_S - OVERLAP_S)
    wanted = [begin + (i + 0.5) / cast.FPS for i in SHOWN]
    with av.open(str(film)) as container:
        frames = [(float(f.time), f.to_image()) for f in container.decode(video=0)]
    return [min(frames, key=lambda frame: abs(frame[0] - time))[1] for time in wanted]


def poses_of(number: int) -> list[Image.Image]:
    frames = read_pose_files([Path(f"{CAST}_dance_{number + 1}.json")])
    return [Image.fromarray(draw_pose(frames[i], TILE, TILE)) for i in SHOWN]


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
    gap = (SIDE - TILE * len(tiles)) // (len(tiles) + 1)
    for number, tile in enumerate(tiles):
        top = gap + (gap + TILE) * number
        canvas.paste("white", (gap - edge, top - edge, gap + TILE + edge, top + TILE + edge))
        canvas.paste(_sized(tile, TILE), (gap, top))
    return canvas


def _sized(picture: Image.Image, side: int) -> Image.Image:
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
