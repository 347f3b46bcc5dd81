"""The other processes of a run: they train along, and leave writing and deciding to the first."""

import torch

from .adapter import Adapter, add_adapter
from .cache import Encoded, encode
from .checkpoint import load_unet
from .compiled import compile_blocks
from .live_text import LiveText
from .loop import Loop
from .plan import Plan
from .preview import needed_texts
from .quantize import round_weights
from .state import State, States, restore
from .streaming import Streamer


def assemble(plan: Plan, data: Encoded, state: State) -> tuple[Adapter, Loop]:
    """The model with its adapter and the loop, as they were when `state` was saved."""
    streamed = plan.memory.streamed  # a model that does not fit must not go to the device at all
    unet = load_unet(plan.checkpoint, plan.dtype, "cpu" if streamed else plan.device)
    if plan.job.memory.base_weights != "full":
        round_weights(unet, plan.job.memory.base_weights)
    live = LiveText(plan) if plan.job.reads_live else None
    adapter = add_adapter(unet, plan.job, live.models if live else ())
    if streamed:
        Streamer(adapter, streamed, plan.device)
    if plan.job.memory.compile != "off":
        compile_blocks(unet)
    data.live = live
    loop = Loop(plan, adapter, data)
    if state.step:
        restore(state, adapter, loop.updater)
    return adapter, loop


def be_repeatable(device: torch.device, state: State) -> str:
    """Choose kernels that give the same bits every time, where that costs nothing.

    On the processor sums depend on how many threads share them: a run goes on with as many as it
    began with, whatever the environment says now. Returns what to tell the user, or "".
    """
    if device.type != "cpu":
        return ""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    offered = torch.get_num_threads()
    state.threads = state.threads or offered
    if state.threads == offered:
        return ""
    torch.set_num_threads(state.threads)
    return (
        f"This run began with {state.threads} threads of the processor and goes on with them, not "
        f"with {offered}, so that its numbers stay the same."
    )


def follow(plan: Plan) -> int:
    """Train along with the first process until it says stop; returns the finished steps."""
    team = plan.team
    if not team.agree(None):  # nothing to train
        return plan.job.schedule.steps
    if not team.agree(None):  # stopped while pictures were encoded
        return 0
    states = States(plan.run_dir, plan.digest, plan.job.saving.keep)
    state = states.newest(lambda _: None) or State()
    be_repeatable(plan.device, state)
    data = encode(plan, needed_texts(plan), lambda *_: None)
    _, loop = assemble(plan, data, state)
    done = [state.step]

    def after(step) -> bool:
        done[0] = step.number
        return team.agree(None)

    loop.run(state.step, after)
    return done[0]
