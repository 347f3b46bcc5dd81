"""What `run.py serve` places for a person to try things with: never over what is theirs."""

from safetensors import safe_open

from demo.inputs import SHIPPED, place_missing
from demo.nano import nano_files
from demo.trained import place_trained
from miniature import miniature_files


def test_inputs_are_placed_beside_what_is_there(tmp_path):
    mine = tmp_path / "troupe_cast" / "characters" / "head.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("my caption", "ascii")
    place_missing(tmp_path)
    assert mine.read_text("ascii") == "my caption"
    placed = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    shipped = {p.relative_to(SHIPPED) for p in SHIPPED.rglob("*") if p.is_file()}
    assert {str(path) for path in shipped - placed} == {"README.md"} and not placed - shipped


def test_the_trained_miniature_is_completed_and_never_replaced(tmp_path):
    files = miniature_files(tmp_path)
    files.checkpoint.parent.mkdir(parents=True)
    files.checkpoint.write_bytes(b"somebody's own")
    place_trained(tmp_path)
    assert files.checkpoint.read_bytes() == b"somebody's own"
    with safe_open(files.controlnet, "pt") as net:
        assert "control_model.input_hint_block.0.weight" in net.keys()  # noqa: SIM118
    assert files.clip_vision.is_file() and files.ip_adapter_plus.is_file()


def test_random_weights_have_other_names_than_trained_ones(tmp_path):
    trained = {path.name for path in vars(miniature_files(tmp_path)).values()}
    assert not trained & {path.name for path in vars(nano_files(tmp_path)).values()}
