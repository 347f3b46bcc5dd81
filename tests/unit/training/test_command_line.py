"""The command line as it is typed in any shell: patterns, encodings, quotes, order."""

import subprocess
import sys
from pathlib import Path

import pytest

from training import JobError, cli, files_cli, plan_cli
from training.program import program_command
from training.settings import load_job

JOB = "name: Zo\xeb\nbase: {checkpoint: x.safetensors}\ndataset: {folder: y}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_job_file_is_read_as_windows_writes_it(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith("e") else ""  # PowerShell's > puts it there
    (tmp_path / "job.yaml").write_bytes((mark + JOB.replace("\n", "\r\n")).encode(encoding))
    assert load_job(tmp_path / "job.yaml").name == "Zo\xeb"


def test_a_job_file_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "job.yaml").write_bytes(JOB.encode("cp1252"))
    with pytest.raises(JobError, match="is not UTF-8: save it as UTF-8"):
        load_job(tmp_path / "job.yaml")


@pytest.mark.parametrize("path", ["C:\\models\\x", "C:\\new\\x", "D:\\Users", "E:\\x", "F:\\tmp"])
def test_backslashes_in_double_quotes_are_explained(tmp_path, path):
    """Some are no YAML, others are: a line break in the middle of a path."""
    file = tmp_path / "job.yaml"
    file.write_text(f'base: {{checkpoint: "{path}"}}\ndataset: {{folder: y}}\n', "ascii")
    with pytest.raises(JobError) as error:
        load_job(file)
    assert "single quotes" in str(error.value) and "\n" not in str(error.value)
    file.write_text(f"base: {{checkpoint: '{path}'}}\ndataset: {{folder: y}}\n", "ascii")
    assert load_job(file).base.checkpoint.endswith(path)


def test_settings_may_follow_an_option(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "_run", lambda job, words, *_: seen.append((str(job), words)) or 0)
    monkeypatch.setattr(cli, "_claim_stdout", lambda: sys.stdout)
    monkeypatch.setattr(cli, "_stop_on_signals", lambda stop: None)
    words = ["seed=3", "schedule.steps=2"]
    for line in (
        ["j.yaml", *words, "--processes", "2"],
        ["j.yaml", "--processes", "2", *words],
        ["--processes", "2", "j.yaml", *words],
        ["run", "j.yaml", words[0], "--processes", "2", words[1]],
    ):
        assert cli.main(line) == 0
        assert seen.pop() == ("j.yaml", [*words, "memory.processes=2"])
    monkeypatch.setattr(plan_cli, "describe", lambda job, words: [str(job), *words])
    assert cli.main(["plan", "j.yaml", *words]) == 0


def test_patterns_stand_for_the_files_that_are_there(tmp_path):
    for name in ("b.safetensors", "a.safetensors", "[x].safetensors", "c.txt"):
        (tmp_path / name).touch()
    expand = files_cli._expanded
    pattern = tmp_path / "?.safetensors"
    assert [p.name for p in expand([pattern, tmp_path / "c.txt"])] == [
        "a.safetensors", "b.safetensors", "c.txt"
    ]  # fmt: skip
    for path in (tmp_path / "[x].safetensors", tmp_path / "no*"):  # a name, and no match
        assert expand([path]) == [path]
    assert expand(tmp_path / "a*") == tmp_path / "a.safetensors"
    with pytest.raises(files_cli.FileError, match="names 2 files: give one"):
        expand(pattern)


def test_paths_in_messages_are_as_they_were_typed(tmp_path, capsys):
    path = tmp_path / r"C:\new\none.yaml"
    with pytest.raises(JobError) as error:
        load_job(path)
    assert rf"'{path}'" in str(error.value) and "\\\\" not in str(error.value)
    assert cli.main(["inspect", r"C:\new\none.safetensors"]) == 2
    assert r"'C:\new\none.safetensors' does not exist" in capsys.readouterr().err
    (tmp_path / "a.safetensors").touch()
    out = tmp_path / r"b\c" / "d.safetensors"
    out.mkdir(parents=True)
    assert cli.main(["merge", str(tmp_path / "a.safetensors"), "-o", str(out)]) == 2
    assert f"{out}' exists" in capsys.readouterr().err


def test_the_program_is_started_with_our_packages_and_utf8():
    """-s keeps a user's own packages out: what ComfyUI was started without must stay out."""
    root = Path(__file__).resolve().parents[3]
    show = (
        "import sys; f = sys.flags; print(sys.stdout.encoding, f.no_user_site, "
        "f.ignore_environment, getattr(f, 'safe_path', 0))"
    )
    code = (
        "import subprocess, sys; sys.path.insert(0, sys.argv[1]);"
        "from training import program; program.PROGRAM = '-c';"
        "command = program.program_command(sys.argv[2]);"
        "sys.exit(subprocess.run(command, stdin=subprocess.DEVNULL).returncode)"
    )
    for flags in ([], ["-s"], ["-s", "-E"], ["-I"]):
        expected, found = (
            subprocess.run(
                [sys.executable, *flags, *rest], capture_output=True, check=True, timeout=120
            ).stdout
            for rest in (["-X", "utf8", "-c", show], ["-c", code, str(root), show])
        )
        assert found == expected and b"utf-8" in found, flags
    assert program_command("x")[-1] == "x"
