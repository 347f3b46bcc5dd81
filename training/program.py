"""How this program is started as a process of its own, by a ComfyUI node or for several devices."""

import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent / "__main__.py"
# Those flags of the interpreter that decide which packages are found. Not -I: where a file ._pth
# isolates an embedded Python, it would add -s, which is for the user to say.
FLAGS = {"ignore_environment": "-E", "no_user_site": "-s", "safe_path": "-P", "no_site": "-S"}


def program_command(*arguments: str) -> list[str]:
    """The command that starts the training program, with the packages of this interpreter.

    Its streams are UTF-8 whatever the system's code page is; an embedded Python ignores the
    variables that would say so, hence the option.
    """
    flags = [flag for name, flag in FLAGS.items() if getattr(sys.flags, name, False)]
    return [sys.executable, *flags, "-X", "utf8", str(PROGRAM), *arguments]
