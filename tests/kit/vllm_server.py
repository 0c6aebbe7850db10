"""vLLM's CPU build in processes of its own, by ``examples/remote/serve_vllm.sh``.

It is no dependency of ours: tests that need it run where ``VLLM_VENV`` names an environment that holds it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "remote" / "serve_vllm.sh"
TICKS = os.sysconf("SC_CLK_TCK")


def installed() -> bool:
    """Whether this machine has it."""
    venv = os.environ.get("VLLM_VENV")
    return venv is not None and (Path(venv) / "bin" / "python").exists()


class VllmServer:
    """A running server: the process with HTTP, and those with the scheduler and the model below it.

    Attributes:
        base: Such as ``http://127.0.0.1:8000``.
        address: What a guard is given as its model.
        pid: Of the process with HTTP.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, name: str) -> None:
        self._process, self.pid, self.port = process, process.pid, port
        self._seen: set[int] = set()  # processes that live on when only the one with HTTP is killed
        self.base = f"http://127.0.0.1:{port}"
        self.address = f"vllm+{self.base}/{name}"

    @property
    def engine_pid(self) -> int:
        """Of the process that schedules."""
        named = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in self.note()}
        return next(each for each, name in named.items() if b"EngineCore" in name)

    @property
    def cpu_seconds(self) -> float:
        """Processor time that its processes have used."""
        return sum(_ticks(each) for each in (self.pid, *self.note())) / TICKS

    def note(self) -> list[int]:
        """Its processes below the one with HTTP: that which schedules, and the one with the model below it."""
        found = below(self.pid)
        self._seen |= set(found)
        return found

    def metric(self, name: str) -> float:
        """The sum of a counter of ``/metrics``."""
        with urllib.request.urlopen(f"{self.base}/metrics", timeout=30) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))

    def kill(self) -> None:
        """SIGKILL, to all of its processes."""
        self.note()
        for each in (self.pid, *self._seen):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._process.wait(20)


@contextlib.contextmanager
def vllm_server(
    model: Path | str, *options: str, name: str = "served", port: int = 0, seconds: float = 900.0
) -> Iterator[VllmServer]:
    """Starts a server and waits for it; it is gone afterwards.

    Args:
        model: A checkpoint's folder.
        *options: More of vLLM's.
        name: Of the model.
        port: 0 for any that is free.
        seconds: That it may take to start.
    """
    port = port or _free_port()
    log = open(os.environ.get("VLLM_LOG", os.devnull), "ab")  # noqa: SIM115
    process = subprocess.Popen(
        [str(SCRIPT), str(model), name, str(port), *options], stdout=log, stderr=log, env={**os.environ}
    )
    server = VllmServer(process, port, name)
    try:
        end = time.monotonic() + seconds
        while not _answers(f"{server.base}/health"):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("vLLM did not start; set VLLM_LOG to a file and read it")
            time.sleep(0.5)
        server.note()
        yield server
    finally:
        server.kill()
        log.close()


def below(pid: int) -> list[int]:
    """All processes that one has started, and those that these have."""
    mine: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):  # of each thread
        with contextlib.suppress(OSError):
            mine += map(int, listed.read_text().split())
    return [*mine, *(each for one in mine for each in below(one))]


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status) == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # MODEL NAME PORT [options]: as the script, until it is killed
    with vllm_server(sys.argv[1], *sys.argv[4:], name=sys.argv[2], port=int(sys.argv[3])) as running:
        print(running.address, flush=True)  # noqa: T201
        while True:
            time.sleep(3600)
