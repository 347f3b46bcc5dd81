"""From a decoded frame to the picture a film shows: sRGB, upright, square pixels, without alpha.

High dynamic range (HLG and PQ of BT.2100) is brought to SDR: reference white becomes nearly white
(243), everything below four fifths of its light stays as it was, what is brighter is rolled off.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

# Accurate rounding, chroma interpolated; libswscale's quick default darkens every picture by a
# level or more, at each generation. Bilinear where the size stays, the area
# where it shrinks (nearer to Lanczos than bicubic, in half the time), bicubic where it grows.
EXACT = 0x40000 | 0x2000
BILINEAR, AREA = 0x2 | EXACT, 0x20 | EXACT
BICUBIC = 0x4 | EXACT  # also where the size stays in 16 bit: bilinear gives wrong colours there
DEEP_WHITE = 255 / 256  # what libswscale makes of full scale in 16 bit
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
LIMITED_RANGE = 1
# AVCOL_SPC_* -> the matrix libswscale knows. What is not tagged is read as BT.601, as FFmpeg and
# ComfyUI's own loader do, so both show the same colours.
UNTAGGED_MATRIX = 5
MATRIX_OF_TAG = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
PQ, HLG = 16, 18  # AVCOL_TRC_SMPTE2084, AVCOL_TRC_ARIB_STD_B67
HLG_WHITE = 0.75  # signal of reference white, ITU-R BT.2408
PQ_WHITE = 203 / 10_000  # the same in light
KNEE = 0.8  # light, relative to reference white, up to which nothing changes
LUT_SIZE = 49
# BT.2020 primaries in those of BT.709, ITU-R BT.2087
GAMUT = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def has_alpha(frame) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def quarter_turns(frame) -> int:
    return round(getattr(frame, "rotation", 0) / 90)


class Converter:
    """Makes pictures of the frames of one stream: uint8 (height, width, 3), of the size given.

    `transfer` is what the stream says of its curve, for PyAV whose frames do not say it.
    """

    def __init__(self, width: int, height: int, transfer: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._size = (width, height)
        self._transfer = transfer
        self._reformatter = VideoReformatter()
        self._tone: _ToneMap | None = None

    def picture(self, frame) -> np.ndarray:
        turns = quarter_turns(frame)
        width, height = self._size[::-1] if turns % 2 else self._size
        transfer = int(getattr(frame, "color_trc", self._transfer) or 0)
        alpha = has_alpha(frame)
        if transfer in (PQ, HLG):
            deep = self._rgb(frame, "rgb48le", width, height)
            if self._tone is None:
                self._tone = _ToneMap(transfer, width, height)
            picture = self._tone(deep)
        else:
            picture = self._rgb(frame, "rgba" if alpha else "rgb24", width, height).to_ndarray()
            if alpha:
                picture = over_black(picture)
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns % 4 else picture

    def _rgb(self, frame, pixels: str, width: int, height: int):
        full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
        smooth = BICUBIC
        if pixels != "rgb48le" and width <= frame.width and height <= frame.height:
            smooth = BILINEAR if (width, height) == (frame.width, frame.height) else AREA
        return self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=pixels,
            src_colorspace=MATRIX_OF_TAG.get(int(frame.colorspace), UNTAGGED_MATRIX),
            # RGB has no matrix, but PyAV 16 ignores ours where this one looks the same.
            dst_colorspace=UNTAGGED_MATRIX,
            src_color_range=FULL_RANGE if full else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
            interpolation=smooth,
        )


def over_black(rgba: np.ndarray) -> np.ndarray:
    """(height, width, 4) with straight alpha as (height, width, 3) before black, rounded."""
    colours, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(colours)
    return ((colours.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


class _ToneMap:
    """HDR frames as SDR pictures by a table that FFmpeg interpolates."""

    def __init__(self, transfer: int, width: int, height: int) -> None:
        import av

        descriptor, path = tempfile.mkstemp(suffix=".cube")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"LUT_3D_SIZE {LUT_SIZE}\n")
                np.savetxt(file, tone_table(transfer), fmt="%.5f")
            self._graph = av.filter.Graph()
            shape = {"width": width, "height": height, "format": av.VideoFormat("rgb48le")}
            source = self._graph.add_buffer(**shape, time_base=1)
            table = self._graph.add("lut3d", file=path, interp="tetrahedral")
            sink = self._graph.add("buffersink")
            source.link_to(table)
            table.link_to(sink)
            self._graph.configure()
        finally:
            os.remove(path)

    def __call__(self, frame) -> np.ndarray:
        self._graph.push(frame)
        deep = self._graph.pull().to_ndarray(format="rgb48le")
        return ((deep.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def tone_table(transfer: int) -> np.ndarray:
    """sRGB for a cube of HLG or PQ signals in BT.2020, red fastest: (LUT_SIZE ** 3, 3) in [0, 1].

    HLG is taken as scene light, as BT.2408 does to match an SDR camera. The brightest colour of a
    pixel decides how far all three are lowered, so hues stay; the shoulder is that of Reinhard et
    al. 2002 (eq. 4), begun at the knee.
    """
    axis = np.clip(np.linspace(0, 1, LUT_SIZE) / DEEP_WHITE, 0, 1)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    signal = np.stack((red, green, blue), -1).reshape(-1, 3)
    light, most = (_pq_light(signal), 1 / PQ_WHITE)
    if transfer == HLG:
        white = _hlg_light(np.array(HLG_WHITE))
        light, most = _hlg_light(signal) / white, 1 / white
    light = np.clip(light @ GAMUT.T, 0, None)
    brightest = light.max(1, keepdims=True)
    over = np.clip((brightest - KNEE) / (1 - KNEE), 0, None)
    end = (most - KNEE) / (1 - KNEE)
    shown = np.where(over > 0, KNEE + (1 - KNEE) * over * (1 + over / end**2) / (1 + over), 0)
    light *= np.where(over > 0, shown / np.maximum(brightest, 1e-9), 1)
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """Scene light [0, 1] of an HLG signal, ITU-R BT.2100 table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """Display light of a PQ signal, relative to reference white, ITU-R BT.2100 table 4."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    root = signal ** (1 / m2)
    return (np.clip(root - c1, 0, None) / (c2 - c3 * root)) ** (1 / m1) / PQ_WHITE
