"""controlnet-aux's OpenPose networks, loaded from local weight files and from nothing else.

`import controlnet_aux` would import all of its detectors, and fails where one of their optional
packages is broken (mediapipe without `solutions`). Only its folder `open_pose` is imported here, as
a submodule of a package of our own, so that neither happens and no name in sys.modules changes
hands. Weights are never unpickled: `torch.load` reads tensors only.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..errors import PoseError

_ALIAS = f"{__package__}._controlnet_aux"
_INSTALL = "pip install controlnet-aux"
WEIGHTS_SOURCE = "lllyasviel/Annotators on Hugging Face"


@dataclass(frozen=True)
class WeightFile:
    """One network: what it finds, the usual file name, and its class in controlnet-aux."""

    part: str
    file_name: str
    module: str
    detector: str  # class that runs the network
    network: str  # class of the network itself


WEIGHT_FILES = {
    weights.part: weights
    for weights in (
        WeightFile("body", "body_pose_model.pth", "body", "Body", "bodypose_model"),
        WeightFile("hand", "hand_pose_model.pth", "hand", "Hand", "handpose_model"),
        WeightFile("face", "facenet.pth", "face", "Face", "FaceNet"),
    )
}


def open_pose_module(name: str) -> ModuleType:
    """Module `controlnet_aux.open_pose.<name>` without the rest of controlnet_aux.

    Raises:
        PoseError: controlnet-aux, or a package that it needs, is not installed.
    """
    try:
        if _ALIAS not in sys.modules:
            spec = importlib.util.find_spec("controlnet_aux")
            if spec is None or not spec.submodule_search_locations:
                raise ModuleNotFoundError("No module named 'controlnet_aux'", name="controlnet_aux")
            package = ModuleType(_ALIAS)
            package.__path__ = list(spec.submodule_search_locations)
            sys.modules[_ALIAS] = package
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(f"{_ALIAS}.open_pose.{name}")
    except Exception as error:  # a broken package may raise anything
        missing = isinstance(error, ModuleNotFoundError)
        words = " ".join(str(error).split()) or type(error).__name__
        raise PoseError(
            "Pose detection needs the Python package controlnet-aux "
            f"({'missing: ' + error.name if missing and error.name else words}). "
            f"Install it with: {_INSTALL}"
        ) from error


def load_detector(part: str, path: Path, device: str | torch.device = "cpu") -> Any:
    """controlnet-aux's detector of `part` with the weights in `path`, on `device`.

    Args:
        part: a name in `WEIGHT_FILES`.
        path: a .pth, .pt or .safetensors file.

    Raises:
        PoseError: controlnet-aux is missing, or the file is not this network.
    """
    wanted = WEIGHT_FILES[part]
    module = open_pose_module(wanted.module)
    state = _read_tensors(path)
    network = getattr(module, wanted.network)()
    network.load_state_dict(_matched(network.state_dict(), state, path, wanted))
    detector = object.__new__(getattr(module, wanted.detector))  # its __init__ would unpickle
    detector.model = network.eval()
    return detector.to(device)


def _read_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    hint = f"Download {path.name} again (from {WEIGHTS_SOURCE})."
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PoseError(f"Pose network {path.name} does not exist. {hint}") from None
    except Exception as error:  # corrupt archives raise whatever their parser met
        reason = str(error).strip().split("\n", 1)[0][:120] or type(error).__name__
        raise PoseError(f"Pose network {path.name} cannot be read ({reason}). {hint}") from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _matched(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    path: Path,
    wanted: WeightFile,
) -> dict[str, torch.Tensor]:
    """`state` under the names of the network, whose blocks the published files do not spell."""
    matched = {}
    for key, tensor in own.items():
        short = key.split(".", 1)[-1]
        found = state.get(key, state.get(short))
        if found is None or found.shape != tensor.shape:
            raise PoseError(
                f"{path.name} is not OpenPose's {wanted.part} network (no fitting tensor "
                f"{short!r}). Use {wanted.file_name} from {WEIGHTS_SOURCE}."
            )
        matched[key] = found
    return matched
