"""Times and rates as exact fractions: the only place where floats become rationals."""

from __future__ import annotations

from fractions import Fraction

from .errors import VideoError

# A frame rate n * 1000/1001 is what editors write as 23.976, 29.97 or 59.94.
NTSC_BASES = (12, 15, 24, 30, 48, 60, 90, 96, 120, 144, 240)
NTSC_TOLERANCE = 0.005
MAX_FPS = 1000


def exact_rate(fps: float | str | Fraction) -> Fraction:
    """The frame rate a person means: 23.976 is 24000/1001, 12.5 is 25/2, "30000/1001" is itself.

    Raises:
        VideoError: not a number, or outside 0..1000 frames per second.
    """
    try:
        rate = fps if isinstance(fps, Fraction) else Fraction(str(fps).strip())
    except (ValueError, ZeroDivisionError):
        message = f"fps {fps!r} is not a frame rate: write 24, 23.976 or 24000/1001."
        raise VideoError(message) from None
    if not 0 < rate <= MAX_FPS:
        raise VideoError(f"fps {fps} is out of range: use more than 0 and at most {MAX_FPS}.")
    for base in NTSC_BASES:
        ntsc = Fraction(base * 1000, 1001)
        if abs(float(rate - ntsc)) < NTSC_TOLERANCE and rate != base:
            return ntsc
    return rate.limit_denominator(1001)


def seconds(value: float | str | Fraction, what: str = "duration") -> Fraction:
    """A time in seconds, exact to the microsecond.

    Raises:
        VideoError: not a finite number, or negative.
    """
    try:
        time = value if isinstance(value, Fraction) else Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise VideoError(f"{what} {value!r} is not a number of seconds.") from None
    if time < 0:
        raise VideoError(f"{what} {value} is negative: give seconds, 0 or more.")
    return time.limit_denominator(1_000_000)


def from_av(value) -> Fraction | None:
    """A rate or time base as PyAV gives it, or None where it is unknown.

    PyAV up to 18 answers with Fraction or None; later releases answer with their own rational,
    whose denominator is 0 where the value is unknown.
    """
    if value is None:
        return None
    numerator = getattr(value, "numerator", getattr(value, "num", None))
    denominator = getattr(value, "denominator", getattr(value, "den", None))
    if not numerator or not denominator:
        return None
    return Fraction(int(numerator), int(denominator))


def nearest(value: Fraction) -> int:
    """The nearest whole number, halves up: the same for every frame boundary of a film."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
