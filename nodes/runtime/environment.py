"""The environment of the training process.

It is what ComfyUI was started with: what the user, a launcher or ComfyUI itself has set stays, be
it CUDA_VISIBLE_DEVICES, PYTORCH_CUDA_ALLOC_CONF, HSA_OVERRIDE_GFX_VERSION, MIOPEN_*, HF_HOME, a
proxy, TMP, PATH, or a number of threads. What other packs put there later, for themselves, is not
passed on: OMP_NUM_THREADS=1 and TORCH_CPP_LOG_LEVEL (ultralytics), LD_LIBRARY_PATH and QT_* (cv2),
KMP_*, CUDA_VISIBLE_DEVICES (chosen for a detector), PYTHONPATH. So the process has as many threads
as ComfyUI had at first, and the same libraries, whatever was loaded beside it.

`prestartup_script.py` notes that environment before any pack is loaded.
"""

import os
import sys
from collections.abc import Mapping

# Never passed on, whoever set it. The first two would make the process a member of another team of
# processes, and it would wait for the others for ever; the last would give its streams another
# encoding than ours, or keep it after its end.
LEFT_OUT = ("TORCHELASTIC_", "PET_")
LEFT_OUT += ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
LEFT_OUT += ("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT")
LEFT_OUT += ("PYTHONIOENCODING", "PYTHONINSPECT")
# Every file is named in the job, so the hub is never asked; the log shows all up to a crash.
SET = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

_AT_IMPORT = dict(os.environ)  # where the pack is loaded by something else than ComfyUI


def clean_environment(started: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for the training process.

    Args:
        started: those ComfyUI was started with; by default what was noted then.
    """
    if started is None:
        started = getattr(sys.modules.get("troupe_started"), "environment", _AT_IMPORT)
    return {name: value for name, value in started.items() if not _left_out(name)} | SET


def _left_out(name: str) -> bool:
    name = name.upper()  # Windows does not tell cases apart
    return any(name == left or (left[-1] == "_" and name.startswith(left)) for left in LEFT_OUT)
