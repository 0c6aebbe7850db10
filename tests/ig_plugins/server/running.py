"""A server in a process of its own (see `process`), and a client to it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

HERE = Path(__file__).parent
ASK = {"messages": [{"role": "user", "content": "How do I clean the kettle?"}], "seed": 1}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Server:
    def __init__(self, **limits):
        paths = os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in sys.path if path))
        self.errors = tempfile.TemporaryFile("a+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "process.py"), json.dumps({"port": free_port(), **limits})],
            stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        line = self.process.stdout.readline()
        self.port = int(line.split()[-1])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        for _ in range(100):
            try:
                self.http.get("/health")
                break
            except httpx.ConnectError:
                time.sleep(0.05)

    def ask(self, **change):
        return self.http.post("/v1/chat/completions", json={**ASK, **change})

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    @property
    def said(self):
        """Its standard error so far."""
        self.errors.seek(0)
        return self.errors.read()

    def rest(self):
        """Until nobody is in the house; its last state."""
        for _ in range(300):
            state = self.http.get("/ready").json()
            if state["running"] == state["queued"] == 0:
                break
            time.sleep(0.1)
        return state

    def memory(self, what="VmRSS"):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))

    @property
    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def acceptor(self):
        """The id of the process that accepts its connections; None once there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def stop(self):
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
