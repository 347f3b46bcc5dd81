"""`python -m training plan JOB [section.field=value ...]`: what a run would need, before it starts.

Prints the dataset, the memory it is predicted to take, how it would be made to fit, and the same
for graphics cards of common sizes. Nothing is computed and nothing written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .errors import TrainingError

COMMAND = "plan"
OK, REFUSED = 0, 2


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("job", type=Path, help="job file, .yaml or .json")
    parser.add_argument("set", nargs="*", metavar="section.field=value", help="change a setting")
    options = parser.parse_intermixed_args(list(arguments)[1:])
    try:
        lines = describe(options.job, options.set)
    except TrainingError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    sys.stdout.write("\n".join(lines) + "\n")
    return OK


def describe(job_path: Path, assignments: Sequence[str]) -> list[str]:
    """The lines that `plan` prints.

    Raises:
        TrainingError: see `make_plan`.
    """
    from .cli import with_tokenizer
    from .memory import spill_warning
    from .plan import ROUNDED_KINDS, make_plan
    from .presets import CARDS_GB
    from .settings import load_job, override

    plan = make_plan(with_tokenizer(load_job(job_path, override(list(assignments)))))
    about = plan.summary()
    sizes = ", ".join(f"{size}: {n}" for size, n in about["buckets"].items())
    lines = [
        f"{about['checkpoint']}: {about['pictures']} pictures ({sizes}), {about['steps']} steps",
        f"{about['device']}, {about['precision']}, predicts {about['prediction']}",
        f"needs about {_line(plan.memory)}",
    ]
    card = torch.device("cuda")
    for budget in CARDS_GB:
        memory = plan.memory_for(budget, card)
        lines.append(f"with {budget:>3} GB: {_line(memory)}")
        job = plan.job
        rounds = job.memory.base_weights == "full" and job.adapter.kind in ROUNDED_KINDS
        if memory.twice and rounds:  # never chosen for the user: it is a little less exact
            memory = plan.memory_for(budget, card, base_weights="int8")
            lines.append(f"   memory.base_weights int8: {_line(memory)}")
    if plan.job.memory.budget_gb:
        lines.append(f"budget: {plan.job.memory.budget_gb:.1f} GB")
    warning = spill_warning(plan.memory, plan.job)
    return [*lines, warning] if warning else lines


def _line(plan) -> str:
    from .memory import GIB

    parts = {
        "weights": plan.weights,
        "adapter": plan.adapter,
        "gradients": plan.gradients,
        "activations": plan.activations - plan.apart,
        "room to compute": plan.workspace,
    }
    shown = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items())
    twice = f"; {len(plan.twice)} parts computed twice, {plan.extra:.0%} more work"
    if plan.streamed:
        twice += (
            f"; {len(plan.streamed)} parts ({plan.streamed_bytes / GIB:.1f} GB) streamed from main "
            f"memory, {plan.moved / GIB:.1f} GB moved per step"
        )
    twice = ("; weights move within the backward pass" if plan.fused else "") + (
        twice if plan.twice else ""
    )
    fits = "" if plan.fits else "; does not fit"
    return f"{plan.total / GIB:.1f} GB ({shown}{twice}){fits}"
