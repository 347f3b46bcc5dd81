"""Pose detection with controlnet-aux: positions on pictures of any size, weight files, packages."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conditioning.pose import PoseDetector, PoseError, load_pose_detector
from conditioning.pose.openpose import WEIGHT_FILES, load_detector, open_pose_module
from tests.unit.conditioning.colour_pose import (
    FACE_DOT,
    GROUND,
    HAND_DOT,
    DotBody,
    DotFace,
    DotHand,
    dot,
    dot_picture,
    published,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Full-size networks with random weights in files of the usual names."""
    folder = tmp_path_factory.mktemp("pose-weights")
    paths = {part: folder / known.file_name for part, known in WEIGHT_FILES.items()}
    for part, path in paths.items():
        torch.save(published(part), path)
    return paths


def dotted(body=None, hand=None, face=None) -> PoseDetector:
    """controlnet-aux's detectors around the networks that read dots."""

    def around(part: str, network):
        if network is None:
            return None
        detector_class = getattr(
            open_pose_module(WEIGHT_FILES[part].module), WEIGHT_FILES[part].detector
        )
        detector = object.__new__(detector_class)
        detector.model = network
        return detector

    return PoseDetector(around("body", body), around("hand", hand), around("face", face))


@pytest.mark.parametrize(
    "size",
    [(512, 512), (683, 512), (512, 683), (517, 333), (1000, 640), (1920, 1080), (97, 131)],
)
def test_joints_land_where_they_are_at_any_size(size):
    """Within half a percent of the short side, also where no side is a multiple of 8 or 64."""
    width, height = size
    radius = 0.03 * min(size)
    box = (0.1 * width, 0.08 * height, 0.8 * width, 0.84 * height)
    picture, joints = dot_picture(size, [box], radius)
    frame = dotted(DotBody(joints[0]))(picture)
    assert (frame.width, frame.height) == size
    (person,) = frame.people
    error = np.hypot(*(person.body[:, :2] - joints[0]).T)
    assert error.max() < max(0.005 * min(size), 1.0)
    assert abs((person.body[:, :2] - joints[0]).mean(axis=0)).max() < max(0.002 * min(size), 0.3)
    assert ((person.body[:, 2] > 0.3) & (person.body[:, 2] <= 1)).all()


def test_confidence_is_that_of_the_network():
    picture, joints = dot_picture((512, 512), [(40, 40, 430, 430)], 16)
    (strong,) = dotted(DotBody(joints[0], strength=0.8))(picture).people
    (weak,) = dotted(DotBody(joints[0], strength=0.4))(picture).people
    np.testing.assert_allclose(weak.body[:, 2], strong.body[:, 2] / 2, rtol=1e-3)


def test_two_people_and_a_joint_that_is_hidden():
    picture, joints = dot_picture((900, 512), [(20, 20, 420, 470), (460, 30, 420, 470)], 16)
    dot(picture, joints[1][10], 18, GROUND)
    frame = dotted(DotBody(joints[0]))(picture)
    assert len(frame.people) == 2
    left, right = sorted(frame.people, key=lambda p: p.body[1, 0])
    assert np.abs(left.body[:, :2] - joints[0]).max() < 3
    seen = [i for i in range(18) if i != 10]
    assert np.abs(right.body[seen, :2] - joints[1][seen]).max() < 3
    assert not right.body[10].any()


def test_hands_and_face_land_in_the_full_picture():
    """At 1400 px the body is searched at 512; the dots of hands and face are not."""
    size = (1500, 1400)
    picture, joints = dot_picture(size, [(200, 60, 1100, 1280)], 40)
    at_left, at_right = joints[0][7] + (25, 95), joints[0][4] + (-20, 105)
    at_face = joints[0][0] + (55, 60)
    for point, colour in ((at_left, HAND_DOT), (at_right, HAND_DOT), (at_face, FACE_DOT)):
        dot(picture, point, 14, colour)
    frame = dotted(DotBody(joints[0]), DotHand(), DotFace())(picture)
    (person,) = frame.people
    for hand, wanted in ((person.left_hand, at_left), (person.right_hand, at_right)):
        assert np.abs(hand[:20, :2] - wanted).max() < 6
        assert (hand[:20, 2] > 0.05).all() and (hand[:20, 2] <= 0.7).all()
        assert not hand[20].any()
    points = [i for i in range(70) if i != 5]
    assert np.abs(person.face[points, :2] - at_face).max() < 8
    assert not person.face[5].any()
    assert (person.face[points, 2] <= 0.6 + 1e-6).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 700), (700, 1), (2500, 16), (16, 9000)])
def test_strips_and_single_pixels_are_empty_frames(size):
    frame = dotted(DotBody(np.zeros((18, 2))))(np.zeros((size[1], size[0], 3), np.uint8))
    assert (frame.width, frame.height, frame.people) == (*size, ())


def test_a_picture_of_another_shape_is_named():
    with pytest.raises(PoseError, match=r"\(height, width, 3\), got \(4, 4, 4\)"):
        dotted(DotBody(np.zeros((18, 2))))(np.zeros((4, 4, 4), np.uint8))


def test_full_size_networks_run_on_a_photograph(weights):
    """Weights too weak to see anybody: the whole way of a picture, and no people in the end."""
    photo = np.array(Image.open(ROOT / "workflows/input/troupe_character.jpg").convert("RGB"))
    frame = load_pose_detector(**weights)(photo)
    assert (frame.height, frame.width) == photo.shape[:2] and frame.people == ()


def test_the_full_size_face_network_runs_on_a_crop(weights):
    picture, joints = dot_picture((400, 360), [(20, 20, 360, 320)], 12)
    face = load_detector("face", weights["face"])
    loud = list(face.model.parameters())[-1]  # a bias: every point is somewhere
    loud.data[:] = torch.linspace(0.2, 0.6, 71)
    (person,) = PoseDetector(dotted(DotBody(joints[0])).body, None, face)(picture).people
    np.testing.assert_allclose(person.face[:, 2], loud.data[:70], atol=0.1)


def test_the_full_size_hand_network_answers_as_its_stand_in_does(weights):
    """One small pass: a hand takes four of up to 736 px, seconds on a CPU."""
    network = load_detector("hand", weights["hand"]).model
    with torch.no_grad():
        picture = torch.rand(1, 3, 184, 184) - 0.5
        assert network(picture).shape == DotHand()(picture).shape == (1, 22, 23, 23)


def test_weights_arrive_unchanged_under_the_names_of_the_network(weights):
    state = published("body")
    network = load_detector("body", weights["body"]).model
    own = network.state_dict()
    assert len(own) == len(state)
    for key, tensor in own.items():
        torch.testing.assert_close(tensor, state[key.split(".", 1)[1]].float(), rtol=0, atol=0)


def test_safetensors_and_full_names_are_read_too(tmp_path, weights):
    from safetensors.torch import save_file

    face = load_detector("face", weights["face"]).model.state_dict()
    path = tmp_path / "face.safetensors"
    save_file(face, path)
    again = load_detector("face", path).model.state_dict()
    assert all(torch.equal(again[key], face[key]) for key in face)


class Bomb:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_bad_weight_files_are_named_and_never_run(tmp_path, weights):
    mark = tmp_path / "exploded"
    bomb = tmp_path / "bomb.pth"
    torch.save({"conv1_1.weight": Bomb(mark)}, bomb)
    bare = tmp_path / "bare.pth"
    bare.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights["body"].read_bytes()[:100_000])
    text = tmp_path / "page.pth"
    text.write_text("<html>404</html>", "ascii")
    empty = tmp_path / "empty.pth"
    empty.touch()
    zipped = tmp_path / "zip.pth"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", "b")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 64)
    for path in (bomb, bare, cut, text, empty, zipped, broken, tmp_path / "gone.pth"):
        with pytest.raises(PoseError) as caught:
            load_pose_detector(path)
        message = str(caught.value)
        assert path.name in message and "Annotators" in message and "\n" not in message
    assert not mark.exists()


def test_a_file_of_another_network_is_told_apart(weights, tmp_path):
    with pytest.raises(PoseError, match="hand_pose_model.pth is not OpenPose's body network"):
        load_pose_detector(weights["hand"])
    with pytest.raises(PoseError, match="facenet.pth is not OpenPose's hand.*hand_pose_model.pth"):
        load_detector("hand", weights["face"])
    numbers = tmp_path / "numbers.pth"
    torch.save([1, 2, 3], numbers)
    with pytest.raises(PoseError, match="not OpenPose's face network"):
        load_detector("face", numbers)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_mediapipe_without_solutions_does_not_matter():
    """Its newer releases make `import controlnet_aux` fail; nothing of it is imported here."""
    out = run_python("""
import sys, types
fake = types.ModuleType("mediapipe")
sys.modules["mediapipe"] = fake
from conditioning.pose.openpose import open_pose_module
open_pose_module("body"), open_pose_module("util")
assert sys.modules["mediapipe"] is fake
print(sorted(m for m in sys.modules if m.split(".")[0] in ("controlnet_aux", "timm")))
try:
    import controlnet_aux
    print("imported")
except AttributeError as error:
    print("mediapipe" in str(error))
""")
    assert out.splitlines() == ["[]", "True"]


@pytest.mark.parametrize("missing", ["controlnet_aux", "cv2"])
def test_a_missing_package_is_named_with_the_command(missing):
    out = run_python(f"""
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Without())
from pathlib import Path
from conditioning.pose import PoseError, load_pose_detector
try:
    load_pose_detector(Path("body_pose_model.pth"))
except PoseError as error:
    print(error)
""")
    assert f"(missing: {missing})" in out and "pip install controlnet-aux" in out


def test_the_engine_imports_no_detector():
    heavy = "('controlnet_aux', 'cv2', 'skimage', 'scipy', 'timm', 'huggingface_hub')"
    out = run_python(
        "import sys, conditioning.pose\n"
        f"print([m for m in sys.modules if m.split('.')[0] in {heavy} or '_aux' in m])"
    )
    assert out.strip() == "[]"
