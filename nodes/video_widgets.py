"""Widgets that the nodes of troupe/video share, made from the film engine's registries."""

from comfy_api.v0_0_2 import io

from ..video import EASINGS, FITS, MOVES, TRANSITIONS


def choices(registry: dict) -> str:
    """The entries of a registry as tooltip text."""
    return "; ".join(f"{entry.name}: {entry.help}" for entry in registry.values()) + "."


def easing(name: str, what: str, default: str) -> io.Input:
    return io.Combo.Input(
        name,
        options=list(EASINGS),
        default=default,
        optional=True,
        advanced=True,
        tooltip=f"How {what} spends its time. {choices(EASINGS)}",
    )


def transition(options: list[str], tooltip: str) -> list[io.Input]:
    """The widgets of a transition, for a shot or for all shots of a film."""
    return [
        io.Combo.Input(
            "transition",
            options=options,
            default=options[0],
            optional=True,
            tooltip=f"{tooltip} {choices(TRANSITIONS)}",
        ),
        io.Float.Input(
            "transition_duration",
            default=0.5,
            min=0.0,
            max=60.0,
            step=0.01,
            optional=True,
            tooltip="Seconds in which both shots show; the film gets that much shorter.",
        ),
        io.Float.Input(
            "transition_softness",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="Width of a wipe's soft edge as a share of the frame; 0 is a hard edge. "
            "Fades ignore it.",
        ),
        easing("transition_easing", "a transition", "linear"),
    ]


def camera() -> list[io.Input]:
    return [
        io.Combo.Input(
            "camera",
            options=list(MOVES),
            default="none",
            optional=True,
            tooltip=f"A move over the picture. {choices(MOVES)}",
        ),
        io.Float.Input(
            "camera_amount",
            default=0.15,
            min=0.0,
            max=4.0,
            step=0.01,
            optional=True,
            tooltip="How far a zoom goes: 0.15 is 15 percent closer. A pan goes that much "
            "closer to have room, and travels as far as the picture reaches.",
        ),
        io.Combo.Input(
            "fit",
            options=list(FITS),
            default="fill",
            optional=True,
            tooltip=f"For pictures of another shape than the film. {choices(FITS)}",
        ),
    ]


def size(side: str) -> io.Input:
    return io.Int.Input(
        side,
        default=0,
        min=0,
        max=8192,
        tooltip=f"{side.capitalize()} of the film in pixels; 0 takes it from the first shot.",
    )


def fps() -> io.Input:
    return io.Float.Input(
        "fps",
        default=24.0,
        min=0.01,
        max=240.0,
        step=0.001,
        tooltip="Frames per second. 23.976, 29.97 and 59.94 mean the exact broadcast rates "
        "(24000/1001 and so on).",
    )
