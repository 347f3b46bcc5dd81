"""ComfyUI runs this before it loads any pack: keeps the environment that it was started with.

Packs change it later for themselves, and the training process must not inherit that: see
nodes/runtime/environment.py.
"""

import os
import sys
from types import ModuleType

started = ModuleType("troupe_started")
started.environment = dict(os.environ)
sys.modules.setdefault(started.__name__, started)
