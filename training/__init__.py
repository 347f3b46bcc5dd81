"""Training engine: pictures and captions in, one LoRA file out. `python -m training JOB.yaml`.

The way of the data:

1. `job` says what is wanted: every setting with its default, bounds and help text; `settings`
   reads jobs and describes settings to others, `presets` are starting points.
2. `dataset` (`folders`, `entries`, `pairing`, `listing`, `captions`, `images`, `quality`,
   `records`, `store`) finds pictures and captions; `captioner` and `sidecars` write captions where
   there are none; `buckets` decides the size each picture is trained at; `sheet` shows them.
3. `plan` looks at everything the job names before anything expensive starts; `memory`
   (`activations`, `adapter_size`) predicts what it needs, `streaming` keeps frozen weights
   elsewhere until used.
4. `checkpoint` (`layout`, `keys`) reads the base model part by part; `cache` encodes every version
   of pictures (`augment`, `masks`) and captions (`variants`, `text`) once, then the VAE and the
   text encoders leave memory; `prune` keeps the cache small.
5. `loop` draws batches (`sampler`, `rng`), asks `objective` (`diffusion`, `noise`, `timesteps`,
   `losses`, `weighting`) for the loss of the UNet with its `adapter`, and lets `update` move the
   weights (`optimize`, `optimizers`, `schedules`), if asked within the backward pass
   (`fused_backward`); `compiled` makes the UNet's blocks faster.
6. `validation` measures pictures that are held out, `judge` keeps the best weights; `state`
   (`optimizer_state`) saves and restores runs, `preview` makes sample pictures, `plot` the loss
   curve.
7. `export` writes the LoRA with `metadata` (`thumbnail`) and verifies its own file; `delivery`
   brings it where it is wanted; `diffusers_file` writes it once more for diffusers. Every file
   is written by `wholefile`, under names that `filenames` lets pass.

The `adapter` is put together from `targets` (which layers, ranks and rates), `kinds` (LoRA, DoRA,
LoKr, ...: how each is put in, starts and is written) and `masters` (how they compute); `live_text`
keeps text encoders in memory that learn as well, or that read a new word (`tokens`, `embedding`;
its file is `embedding_file`'s).

Files of adapters are read in any spelling by `lorafile` (`lora_names`), and made into others by
`fileops` (`bake`, `lowrank`, `weights`, `inspection`); `files_cli` has the commands.

`run` strings these together, `events` tells the world about it, `cli` is the program, `stdio` its
streams; `program` says how it is started, `launch` starts it in several processes;
`packages` names what cannot be imported.
Names below are imported when first used, so importing this package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "BUNDLE": "lorafile",
    "CARDS_GB": "presets",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "DEFAULT_PRESET": "presets",
    "Dataset": "records",
    "DatasetError": "errors",
    "DatasetItem": "records",
    "DatasetSettings": "records",
    "Events": "events",
    "FileError": "errors",
    "JobError": "errors",
    "PRESETS": "presets",
    "Setting": "settings",
    "NameTaken": "wholefile",
    "TrainingError": "errors",
    "TrainingJob": "job",
    "all_settings": "settings",
    "check_replaceable": "wholefile",
    "forecast": "plan",
    "in_words": "wholefile",
    "load_job": "settings",
    "merge": "settings",
    "open_checkpoint": "checkpoint",
    "parse_job": "settings",
    "parse_text": "settings",
    "program_command": "program",
    "read_dataset": "dataset",
    "remove_all_left": "wholefile",
    "run_job": "run",
    "setting": "settings",
    "unwritable": "filenames",
    "unwritable_path": "filenames",
    "whole_file": "wholefile",
    "with_comfy_names": "comfy_names",
    "write_bytes": "tensorfile",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
