"""Pictures with known content, and FFmpeg's filters as an oracle."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from video import Pictures, Renderer, Shot, Timeline, assemble


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth colour picture without symmetry, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    picture = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(4):
            frequency, phase = rng.uniform(0.5, 3, 2), rng.uniform(0, 6.28)
            picture[..., channel] += np.sin(6.28 * (frequency[0] * u + frequency[1] * v) + phase)
    return np.clip(127.5 + 30 * picture, 0, 255).round().astype(np.uint8)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def still(picture: np.ndarray) -> Pictures:
    return Pictures(picture[None])


def clip(pictures: np.ndarray, fps=24, **more) -> Timeline:
    """A film of one shot that shows each picture for one frame."""
    return assemble([Shot(Pictures(pictures))], fps, **more)


def rendered(film: Timeline) -> np.ndarray:
    with Renderer(film) as renderer:
        return np.stack(list(renderer.frames()))


def moving(count: int, width: int = 64, height: int = 48) -> np.ndarray:
    """`count` frames of a texture that travels: every frame is another one."""
    wide = texture(width + 4 * count, height)
    return np.stack([wide[:, 4 * n : 4 * n + width] for n in range(count)])


def read_video(path) -> tuple[np.ndarray, list[Fraction]]:
    """Every frame of a file as uint8 RGB by its own tags, in floating point, and their times."""
    frames, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            frames.append(rgb_of(frame))
            times.append(frame.pts * Fraction(stream.time_base))
    return np.stack(frames), times


def rgb_of(frame: av.VideoFrame) -> np.ndarray:
    """RGB of a limited range BT.709 frame straight from the standard's equations."""
    if frame.format.name in ("bgr0", "rgb24", "gbrp"):
        return frame.to_ndarray(format="rgb24")
    depth = frame.format.components[0].bits
    planes = []
    for number, plane in enumerate(frame.planes):
        dtype = np.uint8 if depth == 8 else np.dtype("<u2")
        values = np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width]
        values = values / 2.0 ** (depth - 8)
        if number:  # chroma of half the size: interpolated between the centres of its samples
            small = Image.fromarray(values.astype(np.float32))
            size = (frame.width, frame.height)
            values = np.asarray(small.resize(size, Image.Resampling.BILINEAR), np.float64)
        planes.append(values)
    assert frame.colorspace == 1 and frame.color_range in (0, 1), "not BT.709, limited range"
    luma, blue, red = (planes[0] - 16) / 219, (planes[1] - 128) / 224, (planes[2] - 128) / 224
    r, b = luma + 1.5748 * red, luma + 1.8556 * blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    return np.clip(np.stack((r, g, b), -1) * 255, 0, 255).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture
def xfade():
    """FFmpeg's xfade filter: the pictures at progress j / count of a transition from a to b."""

    def run(a: np.ndarray, b: np.ndarray, name: str, count: int) -> list[np.ndarray]:
        graph = av.filter.Graph()
        height, width = a.shape[:2]
        sources = []
        for _ in range(2):
            sources.append(
                graph.add_buffer(
                    width=width,
                    height=height,
                    format=av.VideoFormat("gbrp"),
                    time_base=Fraction(1, count),
                )
            )
        rate = [graph.add("fps", f"{count}") for _ in sources]
        mixer = graph.add("xfade", f"transition={name}:duration=1:offset=0")
        sink = graph.add("buffersink")
        for number, (source, fps) in enumerate(zip(sources, rate, strict=True)):
            source.link_to(fps)
            fps.link_to(mixer, 0, number)
        mixer.link_to(sink)
        graph.configure()
        out = []
        for index in range(count + 1):
            for source, picture in zip(sources, (a, b), strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="gbrp")
                frame.pts, frame.time_base = index, Fraction(1, count)
                source.push(frame)
        for source in sources:
            source.push(None)
        while len(out) < count:
            out.append(sink.pull().to_ndarray(format="rgb24"))
        return out

    return run
