"""Standard streams of the programs: nobody waits for input, no character ends an output."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training import stdio

ROOT = Path(__file__).resolve().parents[3]

# what a library sees that asks about handle 0 while it is loaded: no thread may wait in read(0)
WATCH = """
import time
from pathlib import Path
def readers():
    found = []
    for task in Path("/proc/self/task").iterdir():
        call = (task / "syscall").read_text().split()
        found += [call] if call[0] in ("0", "63") and call[1] == "0x0" else []
    return found
time.sleep(0.5)
seen = [readers() for _ in range(20)]
"""
TRAINING = """
import sys
sys.path.insert(0, sys.argv[1])
from training import cli
def wait(*_):
    {watch}
    print(seen, file=sys.stderr)
    return 0 if not any(seen) else 9
cli._run = wait
sys.exit(cli.main(["job.yaml", "--control", "stdin"]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_nobody_waits_in_a_read_of_a_pipe_that_never_speaks(tmp_path):
    main = tmp_path / "main.py"
    main.write_text(WATCH + "import os\nos._exit(9 if any(seen) else 0)\n", "ascii")
    code = TRAINING.format(watch=WATCH.replace("\n", "\n    "))
    for command in (["-c", code, str(ROOT)], [str(ROOT / "tools" / "launch.py"), str(main)]):
        with subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE) as process:
            assert process.wait(120) == 0, command


def test_what_has_come_is_read_and_the_end_is_seen():
    out, into = os.pipe()
    try:
        assert stdio.read_now(out) is None
        os.write(into, b"stop\n")
        assert stdio.read_now(out) == b"stop\n"
        assert stdio.read_now(out) is None
    finally:
        os.close(into)
        assert stdio.read_now(out) == b""
        os.close(out)
    assert stdio.read_now(out) == b""  # closed on our own side


def test_the_pipe_of_windows_is_asked_before_it_is_read():
    class Kernel32:
        def __init__(self, answer: int | None):
            self.answer = answer

        def PeekNamedPipe(self, handle, buffer, size, read, waiting, left):  # noqa: N802
            assert (handle.value, buffer, size, read, left) == (2**40, None, 0, None, None)
            waiting._obj.value = self.answer or 0
            return self.answer is not None

    answers = (0, 5, None)  # nothing yet, five bytes, closed or no pipe
    assert [stdio._in_pipe(Kernel32(answer), 2**40) for answer in answers] == [0, 5, None]


def run_strict(*command: str, cwd: Path = ROOT) -> str:
    """The output of a program that is piped in the code page of Western Europe."""
    code_page = {"PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **code_page},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode("cp1252")
    return done.stdout.decode("cp1252")


def test_names_in_other_scripts_end_no_command(tmp_path):
    layer, name = "lora_unet_input_blocks_4_1_proj_in", "Zo\xeb \u65e5\u672c.safetensors"
    parts = {"lora_down.weight": torch.ones(4, 640), "lora_up.weight": torch.ones(640, 4)}
    save_file({f"{layer}.{k}": v for k, v in parts.items()}, tmp_path / name)
    program = str(ROOT / "training" / "__main__.py")
    said = run_strict(program, "convert", "Zo*", "-o", "\u65e5.safetensors", cwd=tmp_path)
    assert "\\u65e5.safetensors: 1 layers" in said
    said = run_strict(program, "inspect", "*.safetensors", cwd=tmp_path)
    assert "Zo\xeb \\u65e5\\u672c.safetensors: " in said and "\n\\u65e5.safetensors: " in said


DEMO = """
import sys
import demo.__main__ as demo
film = {"frames": 1, "width": 2, "height": 2, "fps": 1}
report = {"stages_s": {}, "film": film, "peak_memory_mb": 1, "film_s": 1, "total_s": 1}
demo.run = lambda *_: report
sys.argv[1:] = ["--output", "\u65e5\u672c"]
sys.exit(demo.main())
"""
BENCH = """
import sys, types
import bench.__main__ as bench
from bench import Row
sys.modules["bench.pack"] = types.SimpleNamespace(rows=lambda: [Row("\u65e5.s", 1.0, "s")])
sys.argv[1:] = ["pack"]
sys.exit(bench.main())
"""


@pytest.mark.parametrize("script", [DEMO, BENCH], ids=["demo", "bench"])
def test_other_programs_print_what_the_code_page_lacks(script, tmp_path):
    (tmp_path / "script.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})" + script, "utf-8"
    )
    assert "\\u65e5" in run_strict(str(tmp_path / "script.py"))
