"""llama.cpp's own server (the wheel ``xllamacpp``) in a process of its own: a policy's server that is not ours.

``python -m tests.kit.llama_server MODEL.gguf PORT SLOTS [states]`` runs one until it is killed.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class LlamaServer:
    """A running server.

    Attributes:
        address: What a guard is given as its model.
        pid: Of its process.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self._process, self.address, self.pid = process, f"llamacpp+http://127.0.0.1:{port}", process.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)

    @property
    def cpu_seconds(self) -> float:
        """Processor time that its process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def llama_server(
    model: Path, *, port: int = 0, slots: int = 16, seconds: float = 120.0, states: bool = False
) -> Iterator[LlamaServer]:
    """Starts a server and waits for it; it is gone afterwards.

    Args:
        model: A GGUF file.
        port: 0 for any that is free.
        slots: Sequences that it decodes at once, and choices that a call may ask for.
        seconds: That it may take to start.
        states: Started with --embeddings --pooling none --ubatch-size 4096.
    """
    settings = [str(model), str(port or _free_port()), str(slots), *(["states"] if states else [])]
    command = [sys.executable, "-m", "tests.kit.llama_server", *settings]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ}
    )
    ready: list[str] = []
    reader = threading.Thread(target=lambda: ready.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
    reader.start()
    reader.join(seconds)
    try:
        if not ready or not ready[0].strip():
            raise RuntimeError(f"llama.cpp's server did not start within {seconds} s")
        yield LlamaServer(process, int(ready[0].rpartition(":")[2]))
    finally:
        process.kill()
        process.wait(20)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(model: str, port: int, slots: int, *, states: bool) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.port, settings.n_parallel, settings.kv_unified = port, slots, True
    settings.n_ctx = 0  # the model's own
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.warmup = False
    settings.verbosity = -1
    if states:
        settings.embedding = True
        settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        settings.n_batch = settings.n_ubatch = 4096
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)  # noqa: T201
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), states="states" in sys.argv)
