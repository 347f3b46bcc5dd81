"""Names that some system cannot write are refused before anything runs, on every system."""

import pytest

from training import JobError, merge, parse_job
from training.filenames import unwritable, unwritable_path
from training.files_cli import main
from training.plan import _run_dir

BAD = {
    **{f"a{c}b": "Windows has in no name" for c in '<>:"|?*\x01\x1f\n'},
    **dict.fromkeys(("CON", "con.txt", "Aux .x", "nul", "COM1", "lpt9.a", "com\u00b2"), "device"),
    **dict.fromkeys(("zoe.", "zoe ", "zoe..safetensors", "zoe .safetensors"), "ends in a dot"),
    "x" * 201: "longer",
    "\u65e5" * 70: "longer",
    "\ud800": "half a character",
}
GOOD = [
    "zoe",
    "v1.5 zoe",
    "Dr. Zoe",
    ".hidden",
    "console",
    "com10",
    "nully.x",
    "Zo\u00eb \u65e5\u672c",
    "50%",
]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused(name):
    assert BAD[name] in unwritable(name)
    assert BAD[name] in unwritable_path(f"cast\\{name}/more")


@pytest.mark.parametrize("name", GOOD)
def test_good_names_pass(name):
    assert unwritable(name) == unwritable_path(f"./cast\\{name}//more") == ""


@pytest.mark.parametrize(
    "setting, value",
    [
        ("saving.output", "loras/Zoe: portrait.safetensors"),
        ("saving.output", "/loras/aux.safetensors"),
        ("saving.output", "a?/zoe.safetensors"),
        ("embedding.name", "CON"),
        ("name", "COM1.old"),
    ],
)
def test_jobs_are_refused(setting, value):
    values = {"base": {"checkpoint": "x"}, "dataset": {"folder": "y"}}
    for name in reversed(setting.split(".")):
        value = {name: value}
    with pytest.raises(JobError, match=f"{setting}.*choose another"):
        parse_job(merge(values, value))


def test_a_backslash_typed_on_windows_makes_a_folder():
    values = {"base": {"checkpoint": "x"}, "dataset": {"folder": "y"}}
    job = parse_job(merge(values, {"saving": {"output": "loras\\zoe.safetensors"}}))
    assert job.saving.output == "loras/zoe.safetensors"


def test_commands_refuse_them_before_reading(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "gone"), "-o", str(tmp_path / "a?.safetensors")]) == 2
    assert "choose another name" in capsys.readouterr().err


def test_run_folders_are_short_and_old_ones_are_found(tmp_path):
    digest = "0123456789abcdef"
    folder = _run_dir(tmp_path, "n" * 100, digest)
    assert len(folder.name) <= 53 and folder.name.endswith("-0123456789ab")
    # behind a usual C:\Users\NAME\Documents\ComfyUI_windows_portable\ComfyUI
    usual = 70 + len("\\output\\troupe\\runs\\") + len(folder.name)
    assert usual + len("\\states\\state-00000100.safetensors.1.troupe.part") < 200
    old = tmp_path / f"{'n' * 100}-{digest[:12]}"
    old.mkdir()
    assert _run_dir(tmp_path, "n" * 100, digest) == old
