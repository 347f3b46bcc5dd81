"""Really doing the bad thing: a killed process, a full disk, a folder that refuses."""

import errno
import io
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.systems import needs_limits
from tests.unit.video.conftest import clip, moving
from video import VideoError, encode

ROOT = Path(__file__).resolve().parents[3]
FILM = """
import sys
import numpy as np
from video import Pictures, Shot, VideoError, assemble, encode

rng = np.random.default_rng(0)
pictures = rng.integers(0, 256, (8, 270, 480, 3), dtype=np.uint8)
film = assemble([Shot(Pictures(pictures), {seconds})], 24)
"""


def start(script: str, seconds: int, *arguments: str) -> subprocess.Popen:
    code = FILM.format(seconds=f"__import__('fractions').Fraction({seconds})")
    return subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(script), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_no_file_under_its_name(tmp_path):
    """And the next save of the same name goes through."""
    target = tmp_path / "film.mp4"
    process = start(
        """
        def progress(done, total):
            print(done, flush=True)
        encode(film, sys.argv[1], "h264_draft", progress=progress)
        """,
        3600,
        str(target),
    )
    for line in process.stdout:
        if int(line) >= 30:
            break
    process.kill()
    process.wait()
    process.stdout.close()
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4.1.troupe.part"]
    encode(clip(moving(5)), target)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


@needs_limits
@pytest.mark.parametrize("limit", [500, 40_000, 900_000])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, limit):
    """The process may not write files beyond `limit` bytes: in the header, at once, and later."""
    process = start(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
        try:
            encode(film, sys.argv[1], metadata={"workflow": "x" * 1000})
        except VideoError as error:
            print(error)
        """,
        10,
        str(tmp_path / "film.mp4"),
        str(limit),
    )
    message, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert message == (
        "Cannot write film.mp4: the file grew larger than this disk or process may write:"
        " shorten the film.\n"
    )
    assert list(tmp_path.iterdir()) == []


class FullDisk(io.BytesIO):
    def write(self, data):
        if self.tell() > 2000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_no_space_left_is_said():
    with pytest.raises(VideoError, match="the disk is full: free some space"):
        encode(clip(moving(200)), FullDisk())


def test_a_missing_folder_is_said_at_once(tmp_path):
    def never(done, total):
        raise AssertionError("a frame was made")

    with pytest.raises(VideoError, match="Cannot write film.mp4: its folder does not exist"):
        encode(clip(moving(3)), tmp_path / "nowhere" / "film.mp4", progress=never)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_closes_while_others_listen_to_pyav(tmp_path):
    """A decoder's thread that logs needs the interpreter: whoever frees the decoder may not hold
    it. Older torchvision, and other packs, switch that logging on for the whole process."""
    path = str(tmp_path / "film.mp4")
    encode(clip(np.random.default_rng(0).integers(0, 255, (40, 120, 160, 3), np.uint8)), path)
    script = """
        import av
        from video import Renderer, Shot, assemble, open_video
        av.logging.set_level(av.logging.DEBUG)
        for _ in range(20):
            with Renderer(assemble([Shot(open_video(sys.argv[1]))], 24)) as renderer:
                renderer.frame(0)
        print("closed", flush=True)
        """
    process = start(script, 1, path)
    try:
        assert process.communicate(timeout=180)[0] == "closed\n"
    finally:
        process.kill()
