"""Start a training run by file path or as `python -m training`; see cli.py.

The package is loaded from where this file lies, without touching sys.path: an embedded Python
ignores the working directory, and the names of our modules and folders must not hide others.
"""

import importlib.util
import os
import sys


def _load_package() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    # run by path, Python puts this folder first, and `import events` anywhere would find ours
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or os.getcwd()) != here]
    init = os.path.join(here, "__init__.py")
    spec = importlib.util.spec_from_file_location(
        "training", init, submodule_search_locations=[here]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["training"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if not __package__:
        _load_package()
    from training.cli import main

    sys.exit(main(sys.argv[1:]))
