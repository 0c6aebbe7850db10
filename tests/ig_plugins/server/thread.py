"""A server on a thread of the test's own process, so that guards of its own making can be served."""

import threading
import time
from contextlib import contextmanager

from ig_plugins.server import Limits, create_app, listen
from ig_plugins.server.run import server_of


@contextmanager
def serving(guards, *, limits=None, **options):
    """The address of a service over these guards."""
    limits = limits or Limits()
    server = server_of(create_app(guards, limits=limits, **options), limits=limits, say=lambda text: None)
    bound = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(60)
