"""Pose files and pose networks by name: below input/ and output/, and in models/pose."""

import json
import os
from pathlib import Path

import folder_paths

from ...conditioning.pose import WEIGHT_FILES, WEIGHTS_SOURCE, PoseError, pose_files_in
from ...training import whole_file
from .listings import model_files, only_text
from .paths import find_below, inside

MODEL_FOLDER = "pose"
NO_MODEL = "none"
USUAL = "auto"
LISTED_DEPTH = 3  # folders below input/ that the menu of Load Pose looks into


def _register_model_folder() -> None:
    is_new = MODEL_FOLDER not in folder_paths.folder_names_and_paths
    folder = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
    folder_paths.add_model_folder_path(MODEL_FOLDER, folder)
    if is_new:  # an empty set lists every file
        extensions = folder_paths.folder_names_and_paths[MODEL_FOLDER][1]
        extensions.update({".pth", ".pt", ".safetensors"})


_register_model_folder()


def weight_file(name: str, part: str) -> Path | None:
    """The file `name` in a `pose` model folder, for the network of `part` in `WEIGHT_FILES`.

    None for 'none', and for 'auto' where the usual file is not there; a body needs its file.

    Raises:
        PoseError: there is no such file.
    """
    known = model_files(MODEL_FOLDER)
    usual = WEIGHT_FILES[part].file_name
    if part != "body" and (name == NO_MODEL or (name == USUAL and usual not in known)):
        return None
    file_name = usual if name == USUAL else name
    if file_name not in known:
        raise PoseError(
            f"{part}_model {file_name!r} is not in models/{MODEL_FOLDER}: put {usual} (from "
            f"{WEIGHTS_SOURCE}) there, or choose another file."
        )
    return Path(folder_paths.get_full_path_or_raise(MODEL_FOLDER, file_name))


def listed_poses() -> list[str]:
    """.json files below input/, and folders with several of them, which end with a slash."""
    root = folder_paths.get_input_directory()
    files, folders = [], []
    for folder, subfolders, names in os.walk(root):
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else f"{relative}/"
        found = [prefix + name for name in names if name.lower().endswith(".json")]
        files += found
        if prefix and len(found) > 1:
            folders.append(prefix)
        if prefix.count("/") >= LISTED_DEPTH:
            subfolders.clear()
    return only_text(sorted(files) + sorted(folders), "input")


def pose_paths(name: str) -> list[Path]:
    """The JSON file, or all JSON files of the folder, that `name` means.

    Raises:
        PathError: `name` does not lie in input/ (or output/ with the suffix '[output]').
        PoseError: a folder without JSON files.
    """
    text, base = folder_paths.annotated_filepath((name or "").strip())
    path = find_below([base or folder_paths.get_input_directory()], text, "pose_file")
    if path.is_file():
        return [path]
    paths = pose_files_in(path) if path.is_dir() else []
    if not paths:
        raise PoseError(f"pose_file {name!r}: no .json files in this folder; put them there.")
    return [inside(path, file.name, "pose_file") for file in paths]  # refuses links that lead out


def write_json(path: Path, data: list[dict]) -> None:
    """Write a new file, which appears under its name only when it is complete.

    Raises:
        NameTaken: there is one of this name, or another process writes it.
    """
    with whole_file(path, new=True) as part, open(part, "w", encoding="utf-8") as file:
        json.dump(data, file, separators=(",", ":"), allow_nan=False)
