"""Nodes of the menu section troupe/scene that hold pictures: character, attire, background."""

from comfy_api.v0_0_2 import io, ui

from ..conditioning import FITS, JOINS, MODES, ROLES, make_reference, resized
from .runtime.types import Reference

CATEGORY = "troupe/scene"
AUTO = "auto"
EVERYBODY = 0
ENCODER_PX = 224


def _weight() -> io.Input:
    return io.Float.Input(
        "weight",
        default=1.0,
        min=-1.0,
        max=3.0,
        step=0.05,
        tooltip="How strongly the pictures count. 0 switches the reference off; 0.6 to 1.0 is "
        "usual.",
    )


def _mask() -> io.Input:
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="Which part of the reference pictures to look at: white counts, black is cut away. "
        "Load Image's mask marks the transparent part, so put an Invert Mask between.",
    )


def _region(options: list[str], what: str) -> io.Input:
    return io.Combo.Input(
        "region",
        options=[AUTO, *options],
        default=AUTO,
        optional=True,
        tooltip=f"Where it acts. auto: {what}",
    )


def _reference_details(role: str) -> list[io.Input]:
    """The expert inputs that all references share."""
    kind = ROLES[role]
    return [
        io.Combo.Input(
            "combine",
            options=list(JOINS),
            default=JOINS[0],
            optional=True,
            advanced=True,
            tooltip="Several pictures: concat shows all of them, average blends them into one, "
            "per frame gives picture 1 to pose 1, picture 2 to pose 2 and so on.",
        ),
        io.Combo.Input(
            "fit",
            options=[AUTO, *FITS],
            default=AUTO,
            optional=True,
            advanced=True,
            tooltip="The image encoder sees squares. pad keeps everything and fills up with the "
            "encoder's mean colour, crop takes the middle, stretch distorts. "
            f"auto: {kind.fit}.",
        ),
        _percent("start_percent", kind.start_percent, "From which part of the steps on it counts."),
        _percent("end_percent", kind.end_percent, "Up to which part of the steps it counts."),
    ]


def _percent(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        optional=True,
        advanced=True,
        tooltip=f"{tooltip} 0 is the first step, 1 the last.",
    )


def _person() -> io.Input:
    return io.Int.Input(
        "person",
        default=EVERYBODY,
        min=EVERYBODY,
        max=64,
        optional=True,
        advanced=True,
        tooltip="Whose it is: 1 is the first person in the keypoints, 2 the second; 0 is "
        "everybody.",
    )


def _reference_output(role: str) -> io.Output:
    return Reference.Output(
        display_name="reference",
        tooltip=f"For the {role} socket of Compose Scene, or for Apply Reference. The node shows "
        "the pictures as the encoder will see them.",
    )


def _output(role: str, cls, image, person: int = EVERYBODY, **options) -> io.NodeOutput:
    options = {name: None if value == AUTO else value for name, value in options.items()}
    reference = make_reference(
        role, image, person=None if person == EVERYBODY else person - 1, **options
    )
    seen = [resized(one, ENCODER_PX, ENCODER_PX) for one in reference.prepared_images()]
    return io.NodeOutput(reference, ui=ui.PreviewImage(seen, cls=cls))


class TroupeCharacter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeCharacter",
            display_name="Character",
            category=CATEGORY,
            search_aliases=["face", "identity", "ip adapter", "consistent character"],
            description="Pictures of who is in the scene. They speak for the head of the "
            "skeleton, or for the whole person when there is no attire.",
            inputs=[
                io.Image.Input("image", tooltip="One or several pictures of the same character."),
                _weight(),
                _mask(),
                _region(["head", "person"], "the head beside an attire, else the whole person."),
                *_reference_details("character"),
                _person(),
            ],
            outputs=[_reference_output("character")],
        )

    @classmethod
    def execute(
        cls, image, weight, mask=None, region=AUTO, combine=JOINS[0], fit=AUTO,
        start_percent=ROLES["character"].start_percent,
        end_percent=ROLES["character"].end_percent, person=EVERYBODY,
    ) -> io.NodeOutput:  # fmt: skip
        return _output(
            "character", cls, image, person, weight=weight, mask=mask, region=region,
            combine=combine, fit=fit, start_percent=start_percent, end_percent=end_percent,
        )  # fmt: skip


class TroupeAttire(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeAttire",
            display_name="Attire",
            category=CATEGORY,
            search_aliases=["clothes", "garment", "outfit", "costume", "try on", "ip adapter"],
            description="Pictures of what is worn. They speak for the clothed parts of the "
            "skeleton and keep out of the layers that carry composition, so the pose of a "
            "photographed model does not come along.",
            inputs=[
                io.Image.Input("image", tooltip="One or several pictures of the same clothes."),
                _weight(),
                _mask(),
                _region(["outfit", "upper", "lower", "feet", "person"], "outfit."),
                *_reference_details("attire"),
                _person(),
            ],
            outputs=[_reference_output("attire")],
        )

    @classmethod
    def execute(
        cls, image, weight, mask=None, region=AUTO, combine=JOINS[0], fit=AUTO,
        start_percent=ROLES["attire"].start_percent,
        end_percent=ROLES["attire"].end_percent, person=EVERYBODY,
    ) -> io.NodeOutput:  # fmt: skip
        return _output(
            "attire", cls, image, person, weight=weight, mask=mask, region=region,
            combine=combine, fit=fit, start_percent=start_percent, end_percent=end_percent,
        )  # fmt: skip


class TroupeBackground(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TroupeBackground",
            display_name="Background",
            category=CATEGORY,
            search_aliases=["scenery", "plate", "set", "backdrop", "ip adapter"],
            description="A picture of where the scene takes place: to be inspired by, or a plate "
            "that is kept while only the people are painted in.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="One picture, or with a moving camera one for each pose."
                ),
                _weight(),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    tooltip="inspire: a new background that looks like it (IP-Adapter). plate: the "
                    "picture itself, cut to the canvas, encoded by the VAE, and painted over only "
                    "where people are; weight and the other settings do not matter then.",
                ),
                *_reference_details("background"),
            ],
            outputs=[_reference_output("background")],
        )

    @classmethod
    def execute(
        cls, image, weight, mode, combine=JOINS[0], fit=AUTO,
        start_percent=ROLES["background"].start_percent,
        end_percent=ROLES["background"].end_percent,
    ) -> io.NodeOutput:  # fmt: skip
        return _output(
            "background", cls, image, weight=weight, mode=mode, combine=combine, fit=fit,
            start_percent=start_percent, end_percent=end_percent,
        )  # fmt: skip


NODES: list[type[io.ComfyNode]] = [TroupeCharacter, TroupeAttire, TroupeBackground]
