"""The pictures of the README, made of what the demo left: `python -m demo.pictures`.

Run `python3 run.py demo --proof 100` first. Reads output/demo, writes docs/images.
"""

import argparse
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DEMO, IMAGES = ROOT / "output" / "demo", ROOT / "docs" / "images"
FILM_PX, FILM_FPS, COLOURS = 320, 12, 96
SHEETS = {  # of the demo -> of the README, with the width to show
    "scene_sheet_0.png": ("scene_sheet.jpg", 900),
    "contact_sheet.png": ("contact_sheet.jpg", 900),
}
PROOFS = ("text", "attire", "background", "character", "lora")
COLUMNS, CELL_PX = 8, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder that the demo wrote")
    parser.add_argument("--into", type=Path, default=IMAGES)
    options = parser.parse_args()
    write_film(options.demo / "film.mp4", options.into / "film.gif")
    for name, (target, width) in SHEETS.items():
        write_small(Image.open(options.demo / name), options.into / target, width)
    for name in PROOFS:
        sheet = Image.open(options.demo / "proof" / f"{name}.png")
        shown = sheet.crop((0, 0, min(sheet.width, COLUMNS * CELL_PX), sheet.height))
        write_small(shown, options.into / f"proof_{name}.jpg", shown.width)


def write_film(film: Path, target: Path) -> None:
    """A film as a small endless GIF, all frames with one palette so that nothing flickers."""
    frames = _frames(film)
    sample = Image.new("RGB", (FILM_PX, FILM_PX * 4))
    for row in range(4):
        sample.paste(frames[(2 * row + 1) * len(frames) // 8], (0, FILM_PX * row))
    palette = sample.quantize(COLOURS)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    flat[0].save(
        target, save_all=True, append_images=flat[1:], duration=1000 // FILM_FPS, loop=0,
        optimize=True,
    )  # fmt: skip


def _frames(film: Path) -> list[Image.Image]:
    """Every picture that is due at FILM_FPS, FILM_PX wide."""
    import av

    frames: list[Image.Image] = []
    with av.open(str(film)) as container:
        for frame in container.decode(video=0):
            if frame.time * FILM_FPS >= len(frames):
                picture = frame.to_image()
                height = round(FILM_PX * picture.height / picture.width)
                frames.append(picture.resize((FILM_PX, height), Image.Resampling.LANCZOS))
    return frames


def write_small(picture: Image.Image, target: Path, width: int) -> None:
    """A picture as JPEG, at most `width` wide."""
    picture = picture.convert("RGB")
    if picture.width > width:
        height = round(picture.height * width / picture.width)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    picture.save(target, quality=86, optimize=True, progressive=True)


if __name__ == "__main__":
    main()
