"""A ComfyUI process of our own: this pack and the nano companion, a free loopback port, a log.

    with ComfyServer(base_dir) as server:
        server.client.run(prompt)

`python -m tools.server [ComfyUI options]` keeps one running for a browser.
"""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.error import URLError

from training.stdio import never_refuse

from .client import Client, ClientError
from .comfyui import ComfyUIError, find_comfyui
from .front_end import find_front_end

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
PACK_FOLDER = "ComfyUI-Troupe"
COMPANION_FOLDER = "troupe-nano-companion"
FOLDERS = ("custom_nodes", "input", "output", "models", "datasets", "temp", "user")
PORT_TAKEN = "already in use"


class ServerError(RuntimeError):
    """ComfyUI did not start."""


class ComfyServer:
    """Starts ComfyUI on `with`, stops it at the end; it never outlives the process that started it.

    Args:
        base_dir: ComfyUI's base directory (models, input, output, ...); made if missing.
        comfyui: folder of ComfyUI; by default `find_comfyui()`.
        cpu: whether to run on the CPU; by default only where no accelerator is found.
        port: by default a free one.
        options: further command line options of ComfyUI.
        pack: folder to load as the pack. folder: its name below custom_nodes.
        environment: further variables of its environment.
        companion: whether ComfyUI's own loaders shall read nano's files (see demo.companion).
        front_end: folder of the front end to serve; by default what TROUPE_FRONT_END names, else
            the one that came with ComfyUI's requirements.
    """

    def __init__(
        self,
        base_dir: Path,
        comfyui: Path | None = None,
        cpu: bool | None = None,
        port: int | None = None,
        options: Sequence[str] = (),
        pack: Path = ROOT,
        folder: str = PACK_FOLDER,
        environment: Mapping[str, str] = MappingProxyType({}),
        companion: bool = True,
        front_end: Path | None = None,
    ):
        self.base_dir = Path(base_dir).resolve()
        self.input_dir = self.base_dir / "input"
        self.output_dir = self.base_dir / "output"
        self.models_dir = self.base_dir / "models"
        self.log_path = self.base_dir / "server.log"
        self.pid: int | None = None
        self.url = ""
        self.client = Client("")
        self._comfyui = comfyui
        self._cpu = cpu
        self._port = port
        self._options = list(options)
        self._pack = Path(pack)
        self._folder = folder
        self._environment = dict(environment)
        self._companion = companion
        self._front_end = front_end or find_front_end()
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "ComfyServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_text(self) -> str:
        """All that ComfyUI has printed since it was started."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def start(self, timeout: float = 300.0) -> None:
        """Start ComfyUI and return when it answers.

        Raises:
            ServerError: it ended, or did not answer within `timeout` seconds. The message holds the
                last lines of its log.
        """
        comfyui = self._comfyui or find_comfyui()
        for name in FOLDERS:
            (self.base_dir / name).mkdir(parents=True, exist_ok=True)
        nodes = self.base_dir / "custom_nodes"
        link_folder(self._pack, nodes / self._folder)
        if self._companion:
            link_folder(ROOT / "demo" / "companion", nodes / COMPANION_FOLDER)
        for attempt in range(3):
            port = self._port or _free_port()
            self._spawn(comfyui, port)
            try:
                self._wait_until_ready(timeout)
                return
            except BaseException as error:
                self.stop()
                lost_port = isinstance(error, ServerError) and PORT_TAKEN in self.log_text()
                if not lost_port or self._port or attempt == 2:
                    raise
                logger.info("Port %d was taken meanwhile; trying another.", port)

    def stop(self) -> None:
        """End ComfyUI and the processes it started; does nothing when it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal_tree(process, force=False)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        # Children may still be saving their state: the pipe is closed only after their grace.
        deadline = time.monotonic() + 10
        while _tree_lives(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        if _tree_lives(process):
            _signal_tree(process, force=True)
        process.wait()
        process.stdin.close()
        self.pid = None

    def wait(self) -> int:
        """Wait until ComfyUI ends by itself; its exit code."""
        return self._process.wait()

    def command(self, comfyui: Path, port: int) -> list[str]:
        """The argument list that starts ComfyUI."""
        cpu = not _accelerator_found() if self._cpu is None else self._cpu
        command = [sys.executable, "-X", "utf8", str(ROOT / "tools" / "launch.py")]
        command += [str(comfyui / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(port)]
        command += ["--base-directory", str(self.base_dir), "--disable-auto-launch"]
        command += ["--disable-all-custom-nodes", "--disable-api-nodes"]
        command += ["--whitelist-custom-nodes", self._folder, COMPANION_FOLDER]
        command += ["--database-url", "sqlite:///:memory:"]
        if self._front_end:
            command += ["--front-end-root", str(self._front_end)]
        return command + (["--cpu"] if cpu else []) + self._options

    def _spawn(self, comfyui: Path, port: int) -> None:
        # The hub is never asked: whatever a prompt needs must be in the base directory.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        environment |= self._environment
        environment.pop("PYTHONPATH", None)
        environment.pop("PYTHONIOENCODING", None)  # the log is UTF-8, whatever folders are called
        if os.name == "nt":
            own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        else:
            own_group = {"start_new_session": True}
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                self.command(comfyui, port),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=comfyui,
                env=environment,
                **own_group,
            )
        self.pid = self._process.pid
        self.url = f"http://127.0.0.1:{port}"
        self.client = Client(self.url)

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            code = self._process.poll()
            if code is not None:
                raise ServerError(f"ComfyUI ended with exit code {code}.\n{self._last_lines()}")
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise ServerError(f"No answer after {timeout:.0f} s.\n{self._last_lines()}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            stats = Client(self.url, timeout=5).get_json("/system_stats")
        except (URLError, OSError, ClientError, ValueError):
            return False
        # Another program may have got the port first; only our own start names this folder.
        return str(self.base_dir) in stats.get("system", {}).get("argv", [])

    def _last_lines(self, count: int = 30) -> str:
        lines = self.log_text().splitlines()[-count:]
        return "\n".join([f"The end of {self.log_path}:", *lines])


def link_folder(source: Path, link: Path) -> None:
    """Make `link` show the folder `source`: a symbolic link, a junction, or else a copy."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        try:
            os.rmdir(link)  # removes a junction without touching what it leads to
        except OSError:
            shutil.rmtree(link)
    try:
        os.symlink(source.resolve(), link, target_is_directory=True)
    except OSError:  # Windows without the right to make symbolic links
        try:
            import _winapi

            _winapi.CreateJunction(str(source.resolve()), str(link))
        except (ImportError, OSError):
            skipped = shutil.ignore_patterns(".venv", ".git", "output", "__pycache__")
            shutil.copytree(source, link, ignore=skipped)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _accelerator_found() -> bool:
    import torch

    return torch.accelerator.is_available()


def _signal_tree(process: subprocess.Popen, force: bool) -> None:
    """Signal ComfyUI and its children; on POSIX they are the process group that it leads."""
    if os.name == "nt":
        if process.poll() is None:
            process.kill() if force else process.terminate()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        pass


def _tree_lives(process: subprocess.Popen) -> bool:
    if os.name == "nt":
        return process.poll() is None
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main(options: Sequence[str]) -> int:
    """Serve until Ctrl-C, with output/serve as base directory and ComfyUI's usual port.

    The inputs of all workflows and the files of the trained miniature are placed there; what is
    there already stays as it is.
    """
    import argparse

    parser = argparse.ArgumentParser(prog="run.py serve", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--base-directory", type=Path, default=ROOT / "output" / "serve")
    own, passed_on = parser.parse_known_args(options)
    never_refuse(sys.stdout)
    base = own.base_directory.resolve()
    from demo.inputs import place_missing
    from demo.trained import place_trained

    place_missing(base / "input")
    place_trained(base / "models")
    try:
        with ComfyServer(base, port=own.port, options=passed_on) as server:
            print(f"ComfyUI with the pack: {server.url}  (Ctrl-C ends it)")
            print(f"Models, inputs and outputs: {base}\nLog: {server.log_path}", flush=True)
            return server.wait()
    except KeyboardInterrupt:
        return 0
    except (ServerError, ComfyUIError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main(sys.argv[1:]))
