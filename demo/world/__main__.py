"""`python -m demo.world SHEET.png [--columns 8] [--rows 4] [--size 128] [--seed 0]`."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .sample import draw_sample


def contact_sheet(columns: int, rows: int, size: int, seed: int) -> np.ndarray:
    """(rows * size, columns * size, 3) uint8: samples seed, seed + 1, ..."""
    pictures = [draw_sample(seed + i, size).rendered.picture for i in range(columns * rows)]
    lines = [np.concatenate(pictures[i : i + columns], axis=1)
             for i in range(0, len(pictures), columns)]  # fmt: skip
    return np.concatenate(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo.world", description="Draw a contact sheet.")
    parser.add_argument("file", type=Path)
    for name, default in (("columns", 8), ("rows", 4), ("size", 128), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    Image.fromarray(contact_sheet(args.columns, args.rows, args.size, args.seed)).save(args.file)
    print(args.file)


if __name__ == "__main__":
    main()
