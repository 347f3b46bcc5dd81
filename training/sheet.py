"""The contact sheet: what the dataset is, at one glance."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .buckets import Placement, learnt_part
from .errors import DatasetError
from .images import load_image
from .records import Dataset, DatasetItem

THUMB = 192  # px, the longer side of a thumbnail
PAD = 8
FONT_PX = 12
LINE = 15  # px from one text line to the next
CAPTION_LINES = 2
MAX_PICTURES = 48
MAX_COLUMNS = 8

UNLEARNT = 96  # what a mask leaves out is flat grey around this
PAPER, CELL, TEXT, FAINT = (24, 24, 27), (39, 39, 42), (228, 228, 231), (161, 161, 170)
CATEGORY_COLOURS = {
    "poses": (96, 165, 250),
    "attire": (244, 114, 182),
    "characters": (250, 204, 21),
    "backgrounds": (74, 222, 128),
    "": FAINT,
}


def contact_sheet(
    dataset: Dataset, placements: Sequence[Placement] = (), max_pictures: int = MAX_PICTURES
) -> np.ndarray:
    """Thumbnails with category, bucket and caption: uint8 (height, width, 3).

    What a mask leaves out is shown in flat grey.

    Args:
        dataset: its pictures are opened again; ones that vanished since show as empty cells.
        placements: from `plan_buckets`, one per item in the same order; where given, the part of
            a picture that the bucket cuts off is darkened and the bucket's size is written.
        max_pictures: of more pictures that many are shown, evenly spread.

    Raises:
        DatasetError: the dataset is empty.
    """
    if not dataset.items:
        raise DatasetError("The dataset is empty: add pictures.")
    count = min(max_pictures, len(dataset.items))
    chosen = [i * len(dataset.items) // count for i in range(count)]
    columns = min(MAX_COLUMNS, count, max(3, round((count * 1.6) ** 0.5)))
    cell_w, cell_h = THUMB + PAD, THUMB + PAD + LINE * (1 + CAPTION_LINES) + PAD
    rows = -(-count // columns)
    left_out = len(dataset.items) - count
    footer = LINE + PAD if left_out else 0
    sheet = Image.new("RGB", (columns * cell_w + PAD, rows * cell_h + PAD + footer), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_PX)
    for position, index in enumerate(chosen):
        left = PAD + position % columns * cell_w
        top = PAD + position // columns * cell_h
        item = dataset.items[index]
        placement = placements[index] if placements else None
        draw.rectangle((left, top, left + THUMB - 1, top + cell_h - PAD - 1), fill=CELL)
        thumb = _thumbnail(item, placement)
        if thumb is not None:
            sheet.paste(
                thumb, (left + (THUMB - thumb.width) // 2, top + (THUMB - thumb.height) // 2)
            )
        _write(draw, font, item, placement, (left + 4, top + THUMB + 4))
    if left_out:
        text = f"and {left_out} more"
        draw.text((PAD, sheet.height - LINE - PAD // 2), text, FAINT, font)
    return np.array(sheet)


def _thumbnail(item: DatasetItem, placement: Placement | None) -> Image.Image | None:
    try:
        picture = Image.fromarray(load_image(item.path))
        learnt_hw = learnt_part(item)
    except DatasetError:  # gone since the dataset was read; training will say so
        return None
    picture.thumbnail((THUMB, THUMB), Image.Resampling.BICUBIC)
    if learnt_hw is not None:
        mask = Image.fromarray(learnt_hw).resize(picture.size, Image.Resampling.BOX)
        plain = picture.convert("L").point(lambda v: UNLEARNT + v // 4).convert("RGB")
        picture = Image.composite(picture, plain, mask)
    if placement is None:
        return picture
    dark = picture.point(lambda v: v // 4)
    left, top = placement.crop_left_top
    right, bottom = left + placement.bucket_size[0], top + placement.bucket_size[1]
    across, down = (t / r for t, r in zip(picture.size, placement.resized, strict=True))
    box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    dark.paste(picture.crop(box), box[:2])
    return dark


def _write(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont,
    item: DatasetItem,
    placement: Placement | None,
    at: tuple[int, int],
) -> None:
    x, y = at
    head = "regularisation" if item.prior else item.category or "picture"
    tail = f" x{item.repeats}" if item.repeats > 1 else ""
    if placement is not None:
        tail += "  {}x{}".format(*placement.bucket_size)
    draw.text((x, y), head, CATEGORY_COLOURS[item.category], font)
    draw.text((x + draw.textlength(head, font), y), tail, FAINT, font)
    caption = " / ".join(item.caption.splitlines())  # alternatives
    for number, line in enumerate(_wrap(draw, font, caption, THUMB - 8), start=1):
        draw.text((x, y + number * LINE), line, TEXT, font)


def _wrap(draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont, text: str, width: int) -> list[str]:
    """The first CAPTION_LINES lines of `text` within `width` px, "..." where it goes on."""
    lines: list[str] = []
    rest = text[:400]
    while rest and len(lines) < CAPTION_LINES:
        last = len(lines) == CAPTION_LINES - 1
        end = len(rest)
        while end > 1 and draw.textlength(rest[:end] + ("..." * (end < len(rest))), font) > width:
            end -= 1
        if end < len(rest) and not last:
            end = rest.rfind(" ", 0, end + 1) if " " in rest[: end + 1] else end
        lines.append(rest[:end].strip() + ("..." if last and end < len(rest) else ""))
        rest = rest[end:].strip()
    return lines
