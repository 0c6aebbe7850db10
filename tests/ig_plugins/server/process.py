"""A server in a process of its own, as an operator runs it, on the bundled models; started by the tests beside."""

import gc
import json
import resource
import signal
import sys
import time
from pathlib import Path

from ig_plugins import InferenceGuard
from ig_plugins.server import create_app

MIB = 2**20


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def collect(*_: object) -> None:
    """What a full collection takes of the thread that answers, asked for by SIGUSR1."""
    started = time.thread_time()
    gc.collect()
    say(f"collected in {time.thread_time() - started:.3f} s")


def main() -> None:
    signal.signal(signal.SIGUSR1, collect)
    wanted = json.loads(sys.argv[1])
    guard = InferenceGuard.from_pretrained("tiny-beaver")
    guard.generate("How do I clean the kettle?", max_tokens=8)  # all buffers and threads are there
    if room := wanted.pop("room_mib", None):
        lines = Path("/proc/self/status").read_text().splitlines()
        (used,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:"))
        resource.setrlimit(resource.RLIMIT_AS, (used + room * MIB,) * 2)
    try:
        from ig_plugins.server import Limits, listen, serve
    except ImportError:  # a server without limits, to see what these tests see then
        import uvicorn

        say(f"serving {wanted['port']}")
        uvicorn.run(create_app(guard), port=wanted["port"], log_level="error")
        return
    bound = listen("127.0.0.1", wanted.pop("port", 0))
    limits = Limits(**wanted)
    app = create_app(guard, limits=limits)
    say(f"serving {bound.getsockname()[1]}")
    serve(app, limits=limits, bound=bound, say=say)


if __name__ == "__main__":
    main()
