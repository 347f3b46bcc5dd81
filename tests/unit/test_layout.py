"""The rules of the house, read off the sources."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tools.inprocess import ROOT

ENGINES = ("training", "conditioning", "video", "headless", "miniature")
COMFYUI = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server")
COMFYUI += ("execution", "node_helpers", "latent_preview", "nodes")
LATE = ("diffusers", "peft", "controlnet_aux", "kornia", "accelerate", "transformers")
MOST_LINES = 450
MOST_MB = 60
UNTRACKED = {".git", ".venv", ".lanes", "__pycache__", "output", ".pytest_cache", ".ruff_cache"}


def tracked(*suffixes: str) -> list[Path]:
    """Files of the project: in git, or about to be; of an unpacked archive, or without git, all."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        files = [ROOT / name for name in listed.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        files = [f for f in ROOT.rglob("*") if not UNTRACKED & set(f.relative_to(ROOT).parts)]
    return [f for f in files if f.is_file() and (not suffixes or f.suffix in suffixes)]


def tracked_names() -> list[str]:
    return [f.relative_to(ROOT).as_posix() for f in tracked()]


SOURCES = {f.relative_to(ROOT).as_posix(): f for f in tracked(".py")}


def imports(path: Path) -> list[tuple[int, int, str, bool]]:
    """(line, level of a relative import, module, whether it runs when the file is imported)."""
    tree = ast.parse(path.read_text("utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, 0, alias.name, id(node) not in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.level, node.module or "", id(node) not in late))
    return found


def in_package(name: str, *folders: str) -> list[str]:
    return [file for file in SOURCES if file.split("/")[0] in (name, *folders) and "/" in file]


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_know_neither_comfyui_nor_each_other(engine):
    forbidden = {*COMFYUI, *ENGINES, "tools", "demo", "bench"}
    faults = []
    for file in in_package(engine):
        depth = file.count("/")  # a file directly in the engine may go one level up: to the engine
        own = {engine} if file.endswith("__main__.py") else set()  # it has no package to be in
        for line, level, module, _ in imports(SOURCES[file]):
            if (level == 0 and module.split(".")[0] in forbidden - own) or level > depth:
                faults.append(f"{file}:{line}: {'.' * level}{module}")
    assert in_package(engine) and not faults


def test_only_nodes_touch_comfyui():
    allowed = ("nodes/", "demo/companion/", "tests/", "bench/", "tools/inprocess.py")
    faults = [
        f"{file}:{line}: {module}"
        for file, path in SOURCES.items()
        if not file.startswith(allowed)
        for line, level, module, _ in imports(path)
        if level == 0 and module.split(".")[0] in COMFYUI
    ]
    assert not faults


def test_nodes_reach_the_engines_by_relative_imports():
    """The pack is loaded under a mangled name; its folder is not on sys.path."""
    own = {*ENGINES, "nodes", "tools", "demo"}
    faults = [
        f"{file}:{line}: {module}"
        for file in in_package("nodes")
        for line, level, module, _ in imports(SOURCES[file])
        if level == 0 and module.split(".")[0] in own
    ]
    assert not faults


def test_heavy_libraries_are_imported_where_they_are_used():
    faults = [
        f"{file}:{line}: {module}"
        for file in in_package("nodes", *ENGINES)
        for line, level, module, at_import in imports(SOURCES[file])
        if at_import and level == 0 and module.split(".")[0] in LATE
    ]
    assert not faults


def test_headless_needs_the_standard_library_only():
    import sys

    for file in in_package("headless"):
        for line, level, module, _ in imports(SOURCES[file]):
            assert level or module.split(".")[0] in sys.stdlib_module_names, f"{file}:{line}"


def test_comfyui_finds_one_folder_of_templates():
    """It serves the first it finds of these names, and lists the files of all."""
    names = {"example_workflows", "example", "examples", "workflow", "workflows"}
    assert {file.split("/")[0] for file in tracked_names()} & names == {"workflows"}


def test_run_py_needs_the_standard_library_only():
    import sys

    tools = ("comfyui", "environment", "lanes", "launch", "lock")
    for file in ("run.py", *(f"tools/{name}.py" for name in tools)):
        for line, level, module, _ in imports(SOURCES[file]):
            top = module.split(".")[0]
            assert level or top in {*sys.stdlib_module_names, "tools"}, f"{file}:{line}: {module}"


def test_every_process_we_start_is_told_what_it_reads():
    """Left out, it inherits our standard input, which may be a pipe that somebody else reads."""
    faults = []
    for file, path in SOURCES.items():
        if file.startswith("tests/"):  # pytest puts nothing into its own place
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess."):
                if not {"stdin", "input"} & {keyword.arg for keyword in node.keywords}:
                    faults.append(f"{file}:{node.lineno}")
    assert not faults


def test_paths_in_messages_are_not_doubled():
    """repr() writes C:\\\\new for C:\\new."""
    shown = re.compile(r"^(str\(.*|.*(path|folder|root|file|out))$")
    faults = [
        f"{file}:{node.lineno}: {ast.unparse(node.value)}"
        for file, path in SOURCES.items()
        if file.startswith(("training/", "nodes/", "conditioning/", "video/"))
        and file not in ("training/settings.py", "nodes/training_widgets.py")  # paths of settings
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FormattedValue)
        and node.conversion == ord("r")
        and shown.match(ast.unparse(node.value))
    ]
    assert not faults


def test_sources_are_short_and_ascii():
    faults = []
    for file, path in SOURCES.items():
        content = path.read_bytes()
        if not content.isascii():
            faults.append(f"{file} is not ASCII")
        if content.count(b"\n") > MOST_LINES:
            faults.append(f"{file} has {content.count(10)} lines")
    assert not faults


def test_every_workflow_has_its_twin_and_thumbnail():
    folder = ROOT / "workflows"
    names = {file.stem for file in folder.glob("*.json")}
    assert names
    assert names == {file.stem for file in (folder / "api").glob("*.json")}
    assert names <= {file.stem for file in folder.glob("*.jpg")}


def test_the_tree_stays_small():
    sizes = {f.relative_to(ROOT).as_posix(): f.stat().st_size / 2**20 for f in tracked()}
    assert sum(sizes.values()) < MOST_MB
    large = {name for name, size in sizes.items() if size > 4}
    assert all(name.startswith("miniature/weights/") for name in large)


def test_a_checkout_with_windows_line_ends_has_the_same_bytes():
    """Tests compare bytes, SHA256SUMS names them, bash reads no CRLF: .gitattributes forbids it."""
    archives = [
        subprocess.run(
            ["git", "-c", f"core.autocrlf={answer}", "archive", "--format=tar", "HEAD"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        for answer in ("false", "true")
    ]
    assert len(archives[0]) > 1e6 and archives[0] == archives[1]


def test_ci_runs_the_test_command_of_the_readme():
    assert (ROOT / ".ci" / "run").read_text("ascii") == "python3 run.py tests\n"
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "python3 run.py tests" in readme and "python3 run.py demo" in readme
