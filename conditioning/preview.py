"""The contact sheet of a scene: what the sampler will be told, drawn without sampling."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .compose import PlacedReference, ScenePlan
from .references import resized
from .regions import PARTS, RegionSet

# One colour per part, RGB; told apart by most kinds of colour vision (after Okabe & Ito, 2008).
PART_COLOURS = {
    "background": (38, 42, 56),
    "head": (240, 228, 66),
    "hands": (213, 94, 0),
    "upper": (86, 180, 233),
    "lower": (0, 158, 115),
    "feet": (204, 121, 167),
}
PAPER, INK, FAINT = (20, 22, 28), (235, 235, 235), (150, 154, 165)
TILE_PX, PICTURE_PX, GAP_PX, LINE_PX, TEXT_PX = 240, 160, 10, 20, 14
MAX_FRAMES, MAX_PICTURES = 4, 6


def region_overlay(regions: RegionSet, width: int, height: int) -> torch.Tensor:
    """The parts in their colours, (N, height, width, 3) float 0..1."""
    out = torch.zeros(len(regions), height, width, 3)
    for part in PARTS:
        colour = torch.tensor(PART_COLOURS[part], dtype=torch.float32) / 255.0
        out += regions.mask(part, width, height)[..., None] * colour
    return out.clamp_(0.0, 1.0)


def preview_sheet(plan: ScenePlan) -> torch.Tensor:
    """A sheet (1, H, W, 3) float 0..1: poses, regions, references as the encoder sees them, notes.

    The first `MAX_FRAMES` frames stand for all.
    """
    rows = [
        _row(f"Pose ({_count(len(plan.frames), 'frame')}, {plan.width} x {plan.height})",
             _frames(plan, plan.hint_nhwc)),
        _row("Regions", _regions(plan)),
    ]  # fmt: skip
    if plan.plate is not None:
        rows.append(_row("Plate: kept where it is bright", _plates(plan)))
    for placed in plan.references:
        rows.append(_row(_reference_title(placed), _pictures(placed)))
    rows.append(_legend())
    rows.append(_lines([*_prompt_lines(plan), *plan.notes]))
    return _stack([row for row in rows if row is not None])


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _tile(plan: ScenePlan) -> tuple[int, int]:
    """(width, height) of a frame on the sheet."""
    scale = TILE_PX / max(plan.width, plan.height)
    return max(1, round(plan.width * scale)), max(1, round(plan.height * scale))


def _frames(plan: ScenePlan, pictures_nhwc: torch.Tensor) -> list[Image.Image]:
    width, height = _tile(plan)
    return [_image(resized(one, height, width)) for one in pictures_nhwc[:MAX_FRAMES]]


def _regions(plan: ScenePlan) -> list[Image.Image]:
    width, height = _tile(plan)
    overlay = region_overlay(plan.regions.select(0, MAX_FRAMES), width, height)
    skeletons = torch.stack([resized(one, height, width) for one in plan.hint_nhwc[: len(overlay)]])
    return [_image(one) for one in torch.maximum(overlay * 0.85, skeletons)]


def _plates(plan: ScenePlan) -> list[Image.Image]:
    width, height = _tile(plan)
    tiles = []
    for index, painted in enumerate(plan.plate.painted[:MAX_FRAMES]):
        plate = resized(plan.plate.images[index % len(plan.plate.images)], height, width)
        dark = resized(painted[..., None].expand(-1, -1, 3), height, width)
        tiles.append(_image(plate * (1.0 - 0.8 * dark)))
    return tiles


def _reference_title(placed: PlacedReference) -> str:
    one = placed.reference
    who = "" if one.person is None else f" of person {one.person}"
    steps = f"{one.start_percent:.0%} to {one.end_percent:.0%} of the steps"
    return f"{one.role.name.capitalize()} -> {placed.region}{who}, weight {one.weight:g}, {steps}"


def _pictures(placed: PlacedReference) -> list[Image.Image]:
    """The pictures as the encoder sees them, then where they act in the first frame."""
    seen = placed.reference.prepared_images()[:MAX_PICTURES]
    tiles = [_image(resized(one, PICTURE_PX, PICTURE_PX)) for one in seen]
    height, width = placed.mask.shape[-2:]
    scale = PICTURE_PX / max(width, height)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    mask = placed.mask[0][..., None].expand(-1, -1, 3)
    return [*tiles, _image(resized(mask, *size))]


def _prompt_lines(plan: ScenePlan) -> list[str]:
    return [f"{prompt.region}: {prompt.text}" for prompt in plan.prompts]


def _image(picture_hwc: torch.Tensor) -> Image.Image:
    values = (picture_hwc.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(values.cpu().numpy()))


def _font():
    return ImageFont.load_default(TEXT_PX)


def _row(title: str, tiles: Sequence[Image.Image]) -> Image.Image:
    width = sum(tile.width + GAP_PX for tile in tiles) + GAP_PX
    height = LINE_PX + max(tile.height for tile in tiles) + GAP_PX
    row = Image.new("RGB", (max(width, _text_width(title) + 2 * GAP_PX), height), PAPER)
    ImageDraw.Draw(row).text((GAP_PX, 0), title, INK, _font())
    left = GAP_PX
    for tile in tiles:
        row.paste(tile, (left, LINE_PX))
        left += tile.width + GAP_PX
    return row


def _text_width(text: str) -> int:
    return round(_font().getlength(text))


def _legend() -> Image.Image:
    widths = [_text_width(part) + LINE_PX + 2 * GAP_PX for part in PARTS]
    row = Image.new("RGB", (sum(widths) + GAP_PX, LINE_PX), PAPER)
    draw, left = ImageDraw.Draw(row), GAP_PX
    for part, width in zip(PARTS, widths, strict=True):
        draw.rectangle((left, 3, left + TEXT_PX, 3 + TEXT_PX - 2), PART_COLOURS[part], FAINT)
        draw.text((left + LINE_PX, 0), part, FAINT, _font())
        left += width
    return row


def _lines(texts: Sequence[str], width: int = 4 * (TILE_PX + GAP_PX)) -> Image.Image | None:
    """Paragraphs, broken at words."""
    lines: list[str] = []
    for text in texts:
        line = ""
        for word in text.split():
            longer = f"{line} {word}".strip()
            if line and _text_width(longer) > width - 2 * GAP_PX:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    if not lines:
        return None
    row = Image.new("RGB", (width, LINE_PX * len(lines)), PAPER)
    draw = ImageDraw.Draw(row)
    for number, line in enumerate(lines):
        draw.text((GAP_PX, number * LINE_PX), line, FAINT, _font())
    return row


def _stack(rows: Sequence[Image.Image]) -> torch.Tensor:
    width = max(row.width for row in rows)
    height = sum(row.height + GAP_PX for row in rows) + GAP_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    top = GAP_PX
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP_PX
    return torch.from_numpy(np.array(sheet, dtype=np.float32) / 255.0)[None]
