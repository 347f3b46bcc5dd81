"""Read one picture file as upright 8-bit sRGB, or say why that is impossible.

Whatever another library did to Pillow's global switches, a damaged file is an error here: a
half-decoded picture would be learnt as it is.
"""

import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from .errors import DatasetError

MAX_PIXELS = 178_956_970  # where Pillow itself refuses: 512 MB as RGB
MAX_FILE_BYTES = 1 << 30
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF")  # none runs other programs
# Transparent parts become mid grey: the zero of the VAE's input, as far from a light subject as
# from a dark one, so that no outline appears that the model would learn.
MATTE = 128
ZERO_TAIL = 512  # bytes; compressed data never holds that many zeros in a row
DAMAGED_ROWS = 1 / 50  # share of plain grey rows at the end of a JPEG that is worth a look


@dataclass(frozen=True)
class Picture:
    """A decoded file: uint8 (height, width, 3) sRGB, its sha256, and what was odd about it."""

    pixels_hwc: np.ndarray
    digest: str
    remarks: tuple[str, ...] = ()


def load_image(path: Path, digest: str = "") -> np.ndarray:
    """Pixels of a picture file: uint8 (height, width, 3), sRGB, upright, without alpha.

    EXIF rotation is applied, transparency filled with mid grey (MATTE), 16-bit and float values
    scaled to 8 bit, colour profiles converted to sRGB; of an animation the first frame counts.

    Args:
        path: the file.
        digest: sha256 the file must have, "" for any.

    Raises:
        DatasetError: missing, not a picture, damaged, too large, or another file than expected.
    """
    return read_picture(path, digest).pixels_hwc


def load_mask(path: Path, digest: str = "") -> np.ndarray:
    """A mask file as uint8 (height, width); errors as `load_image`."""
    return np.asarray(Image.fromarray(load_image(path, digest)).convert("L"))


def read_alpha(path: Path, digest: str = "") -> np.ndarray | None:
    """How opaque a picture is: uint8 (height, width), upright; None where all of it is.

    Raises:
        DatasetError: as `load_image`.
    """
    data = _read_bytes(path)
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise DatasetError(f"{path.name} changed since the dataset was read: load it again.")
    try:
        with _strict_decoding():
            picture = _upright(_open(data, []), [])
            if not _has_alpha(picture):
                return None
            alpha = np.array(picture.convert("RGBA").getchannel("A"))
    except DatasetError as error:
        raise DatasetError(f"{path.name}: {error}") from None
    except Exception as error:  # decoders meet hostile bytes with nearly any exception type
        raise DatasetError(f"{path.name}: {_why(error)}") from error
    return None if alpha.min() == 255 else alpha


def read_picture(path: Path, digest: str = "") -> Picture:
    """As `load_image`, with the file's digest and remarks for the dataset's report."""
    data = _read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if digest and found != digest:
        raise DatasetError(f"{path.name} changed since the dataset was read: load it again.")
    remarks: list[str] = []
    try:
        with _strict_decoding():
            picture = _open(data, remarks)
            rgb = _to_srgb(picture, remarks)
    except DatasetError as error:
        raise DatasetError(f"{path.name}: {error}") from None
    except Exception as error:  # decoders meet hostile bytes with nearly any exception type
        raise DatasetError(f"{path.name}: {_why(error)}") from error
    return Picture(np.array(rgb), found, tuple(remarks))


def _read_bytes(path: Path) -> bytes:
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):  # opening a named pipe would wait for ever
            raise DatasetError(f"{path.name}: not a regular file: put a picture file there.")
        if info.st_size == 0:
            raise DatasetError(f"{path.name}: the file is empty: copy or export it again.")
        if info.st_size > MAX_FILE_BYTES:
            raise DatasetError(f"{path.name}: larger than 1 GB: export it smaller.")
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DatasetError(f"{path.name}: cannot be read ({reason}): check the file.") from error


def _open(data: bytes, remarks: list[str]) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    picture = Image.open(io.BytesIO(data), formats=known)
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise DatasetError(
            f"{width}x{height} pixels are too many: export it with fewer than {MAX_PIXELS}."
        )
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # the second picture of an MPO is the other eye
        remarks.append("it has several frames or pages: the first one is used")
    picture.load()
    if picture.format in ("WEBP", "AVIF") and data.endswith(bytes(ZERO_TAIL)):
        raise DatasetError("it ends in zeros, a copy broke off: copy or export it again.")
    if picture.format in ("JPEG", "MPO"):
        if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):  # last end before last scan
            raise DatasetError("the file is cut off: copy or export it again.")
        if _grey_rows(picture) > DAMAGED_ROWS:
            remarks.append("its end is plain grey as in a damaged file: look at it")
        if picture.mode == "CMYK" and "adobe" not in picture.info:
            # Pillow undoes Adobe's inversion for every CMYK JPEG; only Adobe's files have it.
            picture = _keep_info(ImageChops.invert(picture), picture)
    return picture


def _to_srgb(picture: Image.Image, remarks: list[str]) -> Image.Image:
    picture = _upright(picture, remarks)
    if picture.mode.startswith(("I", "F")):
        picture = _keep_info(_to_8_bit(picture, remarks), picture)
    alpha = None
    if _has_alpha(picture):
        rgba = picture.convert("RGBA")
        alpha = rgba.getchannel("A")
        gray = picture.mode in ("LA", "L", "1")
        picture = _keep_info(rgba.convert("L" if gray else "RGB"), picture)
    rgb = _apply_profile(picture, remarks)
    if alpha is not None and alpha.getextrema()[0] < 255:
        remarks.append("its transparent parts are filled with mid grey")
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, (MATTE,) * 3), alpha)
    return rgb


def _upright(picture: Image.Image, remarks: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # a broken EXIF block must not cost the picture
        remarks.append("its EXIF data is damaged: check that it is upright")
        return picture


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in picture.info


def _apply_profile(picture: Image.Image, remarks: list[str]) -> Image.Image:
    """RGB; with an embedded colour profile other than sRGB, converted by it."""
    icc = picture.info.get("icc_profile")
    if icc:
        try:
            converted = _convert_profile(picture, icc)
            if converted is not None:
                return converted
        except Exception:  # lcms reports a bad profile in several ways
            remarks.append("its colour profile cannot be used: check the colours")
    elif picture.mode == "CMYK":
        remarks.append("it is CMYK without a colour profile: check the colours")
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # the way to RGB that keeps palettes with alpha right
    return picture.convert("RGB")


def _convert_profile(picture: Image.Image, icc: bytes) -> Image.Image | None:
    """The picture in sRGB, or None where it is sRGB already (a round trip would add noise)."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    if ImageCms.getProfileDescription(profile).strip().lower().startswith("srgb"):
        return None
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[profile.profile.xcolor_space.strip()]
    if picture.mode != mode:
        if "CMYK" in (picture.mode, mode):
            raise DatasetError("profile of another colour space")
        picture = picture.convert(mode)
    return ImageCms.profileToProfile(
        picture,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _to_8_bit(picture: Image.Image, remarks: list[str]) -> Image.Image:
    """Mode L from 16-bit, 32-bit or float gray; the value range decides where the file does not.

    Integers of 16 bit span 0..65535 (12-bit TIFF 0..4095). For the others the smallest range out
    of 0..1 (float only), 0..255, 0..65535, 0..2^32-1 that holds nearly all values is meant.
    """
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise DatasetError("it holds values that are not numbers: export it as 16-bit PNG.")
    if values.min() < 0:
        raise DatasetError("it holds negative values: export it with values from 0 to 1.")
    bits = getattr(picture, "tag_v2", {}).get(258, (16,))
    if picture.mode.startswith("I;16"):
        top = 2.0 ** (bits[0] if bits[0] in (10, 12, 14) else 16) - 1
    else:
        high = np.quantile(values, 0.995)  # single bright outliers are clipped
        ranges = (255.0, 65535.0, 2.0**32 - 1)
        ranges = (1.0, *ranges) if picture.mode == "F" else ranges
        top = next((r for r in ranges if high <= r), values.max())
        if top != 1:
            remarks.append(f"its values are taken as 0 to {top:.0f}: check the brightness")
    return Image.fromarray(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8))


def _grey_rows(picture: Image.Image) -> float:
    """Share of rows at the end that are exactly mid grey, libjpeg's filling for missing data."""
    if picture.mode not in ("RGB", "L") or picture.height < 16:
        return 0.0
    rows = np.asarray(picture).reshape(picture.height, -1)
    if rows[-1].min() != 128 or rows[-1].max() != 128:
        return 0.0
    plain = (rows == 128).all(axis=1)
    missing = int(np.argmin(plain[::-1])) if not plain.all() else 0
    return missing / picture.height


def _keep_info(new: Image.Image, old: Image.Image) -> Image.Image:
    new.info = {k: v for k, v in old.info.items() if k != "transparency"}
    return new


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture this can read: save it as PNG or JPEG, or take it out."
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: export it with fewer than {MAX_PIXELS}."
    if isinstance(error, MemoryError):
        return "too large for the memory: export it smaller."
    return f"the file is damaged or cut off ({error}): copy or export it again."


_strict_lock = threading.Lock()
_strict_users = 0
_strict_before = False


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Pillow refuses truncated files inside, whatever the rest of the process set."""
    global _strict_users, _strict_before
    with _strict_lock:
        if _strict_users == 0:
            _strict_before = ImageFile.LOAD_TRUNCATED_IMAGES
        _strict_users += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _strict_lock:
            _strict_users -= 1
            if _strict_users == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _strict_before
