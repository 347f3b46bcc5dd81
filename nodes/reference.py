"""Nodes of the menu section troupe/scene that let reference pictures speak: IP-Adapter."""

import os

import folder_paths
from comfy_api.v0_0_2 import io

from ..conditioning.ip_adapter import NEGATIVES, IPAdapterError, inspect_adapter, read_adapter
from .runtime.combos import listed, refuse_hint
from .runtime.ip_adapter import LoadedAdapter, apply_reference
from .runtime.listings import model_files
from .runtime.paths import PathError
from .runtime.types import IPAdapter, Reference

FOLDER = "ipadapter"
NO_ADAPTER = "put an IP-Adapter file into models/ipadapter"
EXTENSIONS = {".safetensors", ".bin"}

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
folder_paths.folder_names_and_paths[FOLDER][1].update(EXTENSIONS)


def _adapter_path(name: str | None) -> str:
    """Where a file of the model folder lies; ComfyUI's resolver lets no name out of it.

    Raises:
        IPAdapterError, PathError: there is no such file.
    """
    refuse_hint(name)
    path = folder_paths.get_full_path(FOLDER, name) if name else None
    if path is None or not path.lower().endswith(tuple(EXTENSIONS)):
        raise IPAdapterError(
            f"ipadapter_name {name!r} is no adapter file: put a .safetensors or .bin file into "
            "models/ipadapter and choose it."
        )
    return path


class TroupeLoadIPAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TroupeLoadIPAdapter",
            display_name="Load IP-Adapter",
            category="troupe/scene",
            description="Loads an IP-Adapter file, which lets a model look at reference pictures.",
            search_aliases=["ipadapter", "image prompt", "reference"],
            inputs=[
                io.Combo.Input(
                    "ipadapter_name",
                    options=listed(model_files(FOLDER), NO_ADAPTER),
                    tooltip=(
                        "A file in models/ipadapter. For SDXL: ip-adapter-plus_sdxl_vit-h, or "
                        "ip-adapter-plus-face_sdxl_vit-h for faces. Base, Plus, Plus-Face and "
                        "Full-Face files work; FaceID files do not yet."
                    ),
                ),
            ],
            outputs=[
                IPAdapter.Output(
                    display_name="IPADAPTER",
                    tooltip="The adapter, as Apply Reference and Compose Scene take it.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, ipadapter_name=None) -> bool | str:
        try:
            if ipadapter_name is not None:
                _adapter_path(ipadapter_name)
        except (IPAdapterError, PathError) as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, ipadapter_name):
        if ipadapter_name is None:  # linked: not known yet
            return ""
        return os.stat(_adapter_path(ipadapter_name)).st_mtime_ns

    @classmethod
    def execute(cls, ipadapter_name) -> io.NodeOutput:
        parts = read_adapter(_adapter_path(ipadapter_name))
        inspect_adapter(parts, ipadapter_name)
        return io.NodeOutput(LoadedAdapter(parts, ipadapter_name))


class TroupeApplyReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TroupeApplyReference",
            display_name="Apply Reference",
            category="troupe/scene",
            description=(
                "Lets a model follow a reference of a character, its attire or the background. "
                "Chain several for several references."
            ),
            search_aliases=["ipadapter", "image prompt", "character reference"],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL or Stable Diffusion 1.5 model."),
                Reference.Input(
                    "reference",
                    tooltip="From Character, Attire or Background: pictures, strength and timing.",
                ),
                IPAdapter.Input("ipadapter", tooltip="From Load IP-Adapter."),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip=(
                        "The image encoder that the adapter was trained with; files named "
                        "vit-h need CLIP-ViT-H-14."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where in the new picture the reference counts: white there, black "
                        "elsewhere, gray in between. One mask, or one for each latent. "
                        "Without it the reference counts everywhere."
                    ),
                ),
                io.Image.Input(
                    "avoid",
                    optional=True,
                    tooltip="Pictures of what to stay away from, e.g. noise or a wrong style.",
                ),
                io.Combo.Input(
                    "negative",
                    options=list(NEGATIVES),
                    default=NEGATIVES[0],
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What the negative prompt sees in place of the reference: zeros, as "
                        "adapters were trained, or a black picture. Not used with avoid."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The model with the reference; the input model is unchanged.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        reference,
        ipadapter,
        clip_vision,
        mask=None,
        avoid=None,
        negative=NEGATIVES[0],
    ) -> io.NodeOutput:
        patched = apply_reference(
            model,
            ipadapter,
            clip_vision,
            reference.prepared_images(),
            mask=mask,
            negative=negative if avoid is None else avoid,
            **reference.attention_options(),
        )
        return io.NodeOutput(patched)


NODES: list[type[io.ComfyNode]] = [TroupeLoadIPAdapter, TroupeApplyReference]
