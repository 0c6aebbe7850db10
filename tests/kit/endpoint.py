"""A judge's server on a local port, whose replies a test makes up."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORD = "UNSAFE"


class Endpoint:
    """A judge's server: ``reply`` makes what is sent of what was asked, as (status, JSON or bytes)."""

    def __init__(self):
        self.asked, self.headers, self.paths = [], [], []
        self.reply, self.stall = self.scores, threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.asked.append(body)
                endpoint.headers.append(dict(self.headers))
                endpoint.paths.append(self.path)
                status, content = endpoint.reply(body)
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @staticmethod
    def scores(body):
        return 200, {"scores": [1.0 if WORD in each else -1.0 for each in body["responses"]]}

    @staticmethod
    def classes(body):
        probs = [[0.1, 0.9] if WORD in each else [0.8, 0.2] for each in body["input"]]
        return 200, {"data": [{"index": at, "label": "x", "probs": each} for at, each in enumerate(probs)]}

    def hang(self, body):
        self.stall.wait(20)
        return self.scores(body)
