"""One training as ComfyUI sees it: its process, bar, texts and panel, pause and interrupt."""

from pathlib import Path
from typing import Any

import comfy.model_management
from comfy_execution.utils import get_executing_context

from .panel import PANELS, Panel
from .pause import PauseRequested, check_pause, keep_prompt
from .progress import TrainingProgress, planned_memory
from .trainer import run_training


def watch_training(job: dict, logs: Path, hidden: Any) -> tuple[dict, list[str]]:
    """Train a job in its process and show it on the node; (its `done` event, notes and warnings).

    Args:
        job: values of a TrainingJob, JSON-ready.
        logs: where the job and the log of the process are kept.
        hidden: the node's hidden inputs.

    Raises:
        TrainingFailed: the process ended without a LoRA; says why.
        InterruptProcessingException: the user stopped or paused it; the state is saved.
    """
    panel = PANELS.open(_panel(job["name"], hidden))
    progress = TrainingProgress()

    def on_event(event: dict) -> None:
        panel.on_event(event)
        progress(event)

    try:
        done = run_training(job, logs, job["name"], on_event, lambda: check_pause(panel))
    except PauseRequested:
        keep_prompt(panel)
        raise comfy.model_management.InterruptProcessingException from None
    except comfy.model_management.InterruptProcessingException:
        panel.end("stopped", "Run again to go on from here")
        raise
    except BaseException as error:
        panel.end("failed", str(error))
        raise
    panel.end("done", "Already trained" if done["reused"] else "")
    planned, used = planned_memory(panel.plan), panel.figures.get("memory_mb")
    peak = f"{planned}, {used / 1024:.1f} GB used at most" if planned and used else planned
    return done, [peak, *progress.warnings] if peak else progress.warnings


def _panel(name: str, hidden: Any) -> Panel:
    info = hidden.extra_pnginfo
    workflow = info.get("workflow") if isinstance(info, dict) else None
    context = get_executing_context()
    return Panel(
        node=str(hidden.unique_id),
        workflow=str(workflow.get("id", "")) if isinstance(workflow, dict) else "",
        name=name,
        prompt_id=context.prompt_id if context else "",
    )
