"""Python packages that cannot be imported: which one it is, in its own words, and the remedy.

A failed import shows in the wrong place: diffusers and peft look for what else is installed and
import it, so that a broken package nobody asked for ends in a message about another one.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib import metadata
from types import TracebackType

# What diffusers, peft and transformers import unasked where it is installed, found with stand-ins
# for a hundred packages (diffusers 0.35 and 0.42). Training needs none of them by itself.
UNASKED = ("bitsandbytes", "xformers", "flash_attn", "sageattention", "torchao", "gguf", "hqq")
UNASKED += ("aqlm", "eetq", "transformer_engine", "sentencepiece", "soundfile", "torchaudio")
UNASKED += ("triton", "torch_npu", "torch_xla", "torch_musa")
_NO_FRAMEWORKS = ("USE_TF", "USE_FLAX", "USE_JAX")  # as transformers 4 asks, before it imports them
_OURS = ("__main__.", f"{__package__.rpartition('.')[0] or __package__}.")
_PIP_NAMES = {"yaml": "pyyaml", "PIL": "pillow", "cv2": "opencv-python"}
_WHERE = "in ComfyUI's Python"
_MOST = 300  # letters of an error's own words

_hidden: dict[str, str] = {}  # name of a broken package -> what was said about it


def hide_broken(names: Iterable[str] = UNASKED) -> list[str]:
    """Make others take broken packages for missing ones; returns one sentence for each.

    Only installed packages are imported, and those would be imported anyway. To be called before
    diffusers is imported for the first time.
    """
    for variable in _NO_FRAMEWORKS:
        os.environ.setdefault(variable, "0")
    said = []
    for name in names:
        try:
            if name in sys.modules or importlib.util.find_spec(name) is None:
                continue
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a broken package may raise anything
            _hidden[name] = _broken(name, _cause(error))
            said.append(f"{_hidden[name]} Training goes on without it.")
            for part in [m for m in sys.modules if m.partition(".")[0] == name]:
                del sys.modules[part]
            sys.modules[name] = None  # what Python itself takes for "not there"
    return said


def why_not(error: BaseException) -> str:
    """What to tell about an error that is a failed import: package, version, words and remedy.

    "" for any other error. A package may raise anything while it is imported, such as
    RuntimeError (CUDA setup failed) and OSError (a DLL cannot be loaded).
    """
    error = _cause(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return ""
    name = _package_of(error)
    if not name and type(error) is ImportError and not error.name:
        return f"A Python package cannot be used here ({_words(error)})."
    if not name:
        return ""
    if name in _hidden:
        return _hidden[name]
    if isinstance(error, ModuleNotFoundError) and not _is_there(name):
        return f"The Python package {name!r} is missing: pip install {_pip_name(name)}, {_WHERE}."
    return _broken(name, error)


def _cause(error: BaseException) -> BaseException:
    """What libraries have wrapped in an error of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _package_of(error: BaseException) -> str:
    """The top-level package whose import failed, "" if none did."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if name and f"{error.name}.".startswith(_OURS):
        return ""
    if isinstance(error, ModuleNotFoundError) and name:
        return name
    # whose code was being imported: an extension that cannot be loaded has a name of its own
    foreign = [m for m in _importing(error.__traceback__) if not f"{m}.".startswith(_OURS)]
    return foreign[-1].partition(".")[0] if foreign else name


def _importing(trace: TracebackType | None) -> list[str]:
    """Modules that were being imported when an error was raised, the innermost last."""
    found = []
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            found.append(trace.tb_frame.f_globals.get("__name__") or "__main__")
        trace = trace.tb_next
    return found


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # ValueError: half-imported
        return name in sys.modules


def _broken(name: str, error: BaseException) -> str:
    package, version = _pip_name(name), _version(name)
    # with dependencies pip would exchange torch as well
    again = f"pip install --upgrade --force-reinstall --no-deps {package}, {_WHERE}"
    return (
        f"The Python package {package!r}{version} is there but cannot be imported "
        f"({type(error).__name__}: {_words(error)}): "
        f"{again if version else 'update what it belongs to'}."
    )


def _words(error: BaseException) -> str:
    """The last line of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:_MOST].rstrip(".") if lines else "no reason given"


def _pip_name(name: str) -> str:
    try:
        return metadata.packages_distributions()[name][0]
    except Exception:  # not installed, or what is written about some package is damaged
        return _PIP_NAMES.get(name, name)


def _version(name: str) -> str:
    try:
        return f" {metadata.version(_pip_name(name))}"
    except Exception:
        return ""
