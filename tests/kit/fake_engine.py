"""A completions server on a local port, over a real bundled model: honest, slow, dying, malformed or lying on demand.

It speaks what `ig_plugins.remote` asks vLLM and llama.cpp for. Whatever it is told to do wrong, it does to the calls
that sample; what it is asked about itself it always answers. It draws anew with every call, and the same in every run
of a test, in whatever order calls come in.
"""

import contextlib
import json
import select
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from ig_plugins.engine import Sampler
from ig_plugins.grammar import CompiledGrammar, Rule, compiler
from ig_plugins.guard.policies import load_policy
from ig_plugins.search import Policy
from inferenceguard_vllm.buffers import StateBuffers
from inferenceguard_vllm.capture import COUNT, FIRST, KEY
from inferenceguard_vllm.protocol import NO_KEY, asked, reply
from inferenceguard_vllm.protocol import PATH as STATES

Reply = Any
Fault = Callable[["Handler", Reply], None]
"""Sends something else than the honest reply, which it is given."""

MODEL = "tiny"
PAGE = 16


class FakeEngine:
    """The server; a context manager.

    Args:
        kind: ``vllm``, ``openai`` or ``llamacpp``.
        policy: What samples; the bundled tiny-alpaca by default.
        seconds: That every call takes at least.
        plan: (number of the call, its body) to a fault, or None for an honest reply.
        most: Choices that a call may ask for; more are refused.
        echoes_stop: Replies hold the stop token.
        ids: Replies hold ids; else it speaks text only.
        tokenizes: It has ``/tokenize``.
        states: It gives hidden states: vLLM's with the plugin's own buffers, llama.cpp's for every token.
        state_key: That states are given for, as ``--api-key``; empty for a server without one.
        state_plan: As ``plan``, for requests for states, but the first, with which a guard tries them out.
        batch: llama.cpp's physical batch, the longest sequence whose states it gives.
    """

    def __init__(
        self,
        kind: str = "vllm",
        *,
        policy: Policy | None = None,
        seconds: float = 0.0,
        plan: Callable[[int, Mapping[str, Any]], Fault | None] = lambda number, body: None,
        most: int = 64,
        echoes_stop: bool = True,
        ids: bool = True,
        tokenizes: bool = True,
        states: bool = False,
        state_key: str = "K1",
        state_plan: Callable[[int, Mapping[str, Any]], Fault | None] = lambda number, body: None,
        batch: int = 4096,
    ) -> None:
        self.kind, self.seconds, self.plan, self.most = kind, seconds, plan, most
        self.echoes_stop, self.ids, self.tokenizes = echoes_stop, ids, tokenizes
        self.states, self.state_key, self.state_plan, self.batch = states, state_key, state_plan, batch
        self.buffers = StateBuffers(most_bytes=2**26, seconds=60.0)
        self.state_bodies: list[dict[str, Any]] = []
        self.policy = policy or load_policy("bundled:tiny-alpaca")
        self.asked: Counter[bytes] = Counter()  # calls with a prompt so far
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.aborted = self.connections = self.running = 0
        self.gauge: list[tuple[float, int]] = []  # (when, calls in flight from then on)
        self.lock, self._torch = threading.Lock(), threading.Lock()
        self._switch = threading.Lock()  # one starts or kills it at a time
        self._kept = threading.Lock()  # a worker of vLLM keeps and reads states on one thread
        self.open: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """What a guard is given as its model."""
        return f"{self.kind}+http://127.0.0.1:{self.port}" + ("" if self.kind == "llamacpp" else f"/{MODEL}")

    def __enter__(self) -> "FakeEngine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gone, and no thread of it is inside torch any more, under which an interpreter must not end."""
        self.kill()
        end = time.monotonic() + 20
        while self.running and time.monotonic() < end:
            time.sleep(0.01)

    def start(self) -> None:
        """Listens, on the port that it had before if it had one."""
        engine = self

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256
            allow_reuse_address = True

        with self._switch:
            server = Server(("127.0.0.1", self.port), type("Bound", (Handler,), {"engine": engine}))
            self.port = server.server_address[1]
            with self.lock:
                self._server = server
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self, life: object = None) -> None:
        """Gone in an instant, as a killed process: open connections are reset. Who kills it too waits until it is gone.

        Args:
            life: The one that is meant, `Handler.server`: where it has gone already, the next one lives on. None for
                whatever runs.
        """
        with self._switch:
            if self._server is None or life not in (None, self._server):
                return
            with self.lock:
                server, self._server = self._server, None
                sockets, self.open = self.open, set()
            for each in sockets:
                reset(each)
            server.shutdown()
            server.server_close()

    def joined(self, handler: "Handler") -> bool:
        """Notes a connection; False where the process that took it is gone."""
        with self.lock:
            self.connections += 1
            if handler.server is not self._server:
                return False
            self.open.add(handler.connection)
            return True

    def count(self, step: int) -> None:
        """A call comes, +1, or goes, -1."""
        with self.lock:
            self.running += step
            self.gauge.append((time.monotonic(), self.running))

    def mean_in_flight(self, start: float, end: float) -> float:
        """Calls in flight between two times, on average."""
        total, last, count = 0.0, start, 0
        for when, running in [*self.gauge, (end, 0)]:
            at = min(max(when, start), end)
            total += (at - last) * count
            last, count = at, running
        return total / (end - start)

    def sample(self, prompt: list[int], body: Mapping[str, Any]) -> list[tuple[list[int], bool]]:
        """Continuations of a prompt and whether each ended, drawn by the bundled model."""
        llama = self.kind == "llamacpp"
        count = body.get("n_cmpl" if llama else "n", 1)
        most = body["n_predict" if llama else "max_tokens"]
        pulled = body.get("logit_bias") or {}
        if pulled:
            token = int(next(iter(pulled))[0] if llama else next(iter(pulled)))
            return [([token], True)] * count
        sampler = Sampler(**{name: body[name] for name in ("temperature", "top_k", "top_p", "min_p")})
        wanted = body.get("structured_outputs")
        matchers = [] if wanted is None else [[self.grammar(wanted["grammar"])]]
        generator = torch.Generator().manual_seed(body["seed"] if "seed" in body else self.seed_of(prompt))
        with self._torch, torch.inference_mode():
            session = self.policy.tree.prefill([prompt], lanes=count, block=most, max_new=most)
            block = session.sample(
                torch.zeros(1, count, dtype=torch.long),
                samplers=[sampler],
                uniforms=torch.rand(1, count, most, generator=generator, dtype=torch.float64),
                max_tokens=[most],
                stop_ids=self.policy.stop_ids,
                matchers=matchers,
            )
        found = []
        for lane in range(count):
            tokens = block.tokens[0, lane, : int(block.lengths[0, lane])].tolist()
            found.append((tokens, bool(block.finished[0, lane])))
        if self.states and KEY in (kept := body.get("vllm_xargs") or {}):
            for index, (tokens, _) in enumerate(found):
                self.keep(kept, index, [*prompt, *tokens[:-1]])
        return found

    def seed_of(self, prompt: list[int]) -> int:
        """Another one for every call with the same prompt."""
        key = json.dumps(prompt).encode()
        with self.lock:
            self.asked[key] += 1
            return zlib.crc32(key, self.asked[key])

    def grammar(self, text: str) -> CompiledGrammar:
        """A grammar as vLLM reads it: one text, begun anew with every call.

        By default vLLM asks xgrammar first, which writes JSON in its own way; this directive makes it ask llguidance.
        """
        if "%llguidance" not in text:
            text = text.replace('"item_separator": ", "', '"item_separator": ","')
        return compiler(self.policy)(Rule("grammar", json.dumps([{"name": "answer", "lark_grammar": text}])))

    def keep(self, asked: Mapping[str, Any], index: int, read: list[int]) -> None:
        """Keeps the states of what was read of a sequence, as vLLM's worker does step by step."""
        states = self.states_of(read)
        with self._kept:
            lane = self.buffers.open(asked[KEY], index, first=asked[FIRST], count=asked[COUNT])
            for position, state in enumerate(states):
                self.buffers.see(asked[KEY], lane, position, state)

    def states_of(self, ids: list[int]) -> torch.Tensor:
        """The model's state at every token, shape (T, H)."""
        with self._torch, torch.inference_mode():
            model = self.policy.engine.body.model
            return model.base_model(torch.tensor([ids]), use_cache=False).last_hidden_state[0].clone()

    def state_reply(self, raw: bytes) -> Reply:
        """The honest reply to a request for states."""
        if self.kind == "llamacpp":
            (ids,) = json.loads(raw)["content"]
            return [{"index": 0, "embedding": self.states_of(ids).tolist()}]
        reads = asked(raw)
        with self._kept:
            return reply(reads, [[self.buffers.read(key, lengths) for key, lengths in reads]])

    def reply(self, body: Mapping[str, Any]) -> Reply:
        """The honest reply to a call."""
        prompt = body["prompt"] if self.kind == "llamacpp" else body["prompt"][0]
        choices = []
        for index, (tokens, done) in enumerate(self.sample(prompt, body)):
            shown = tokens if self.echoes_stop or not done else tokens[:-1]
            text = self.policy.tokenizer.decode(tokens, skip_special_tokens=True)
            if self.kind == "llamacpp":
                ids = {"tokens": shown if self.ids else [], "tokens_evaluated": len(prompt), "truncated": False}
                choices.append({"index": index, "content": text, "stop_type": "eos" if done else "limit", **ids})
            else:
                ids = {"token_ids": shown, "prompt_token_ids": prompt} if self.ids else {}
                choices.append({"index": index, "text": text, "finish_reason": "stop" if done else "length", **ids})
        if self.kind == "llamacpp":
            return choices if len(choices) > 1 else choices[0]
        return {"object": "text_completion", "model": MODEL, "choices": choices}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    engine: FakeEngine
    counted = False
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def setup(self) -> None:
        super().setup()
        if not self.engine.joined(self):
            reset(self.connection)

    def finish(self) -> None:
        with self.engine.lock:
            self.engine.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client hung up, or we were killed
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        engine, policy = self.engine, self.engine.policy
        if self.path == "/v1/models" and engine.kind != "llamacpp":
            self.send(200, {"data": [{"id": MODEL, "root": "/nowhere/tiny", "max_model_len": policy.tree.context}]})
        elif self.path == "/props" and engine.kind == "llamacpp":
            settings = {"n_ctx": policy.tree.context}
            self.send(200, {"total_slots": engine.most, "default_generation_settings": settings})
        elif self.path == "/metrics" and engine.kind == "vllm":
            self.send(200, f'vllm:cache_config_info{{block_size="{PAGE}",cache_dtype="auto"}} 1.0\n'.encode())
        elif self.path == STATES and engine.states and engine.kind != "llamacpp":
            if self.has_key():
                self.send(200, {"hidden_size": policy.tree.hidden_size})
        else:
            self.send(404, {"error": "not here"})

    def has_key(self) -> bool:
        """Whether states may be given; what is said where they may not."""
        key = self.engine.state_key
        if not key:
            self.send(501, {"error": NO_KEY})
        elif self.headers.get("authorization") != f"Bearer {key}":
            self.send(401, {"error": "no such key"})
        else:
            return True
        return False

    def give_states(self, raw: bytes) -> None:
        engine, body = self.engine, json.loads(raw)
        if engine.kind == "llamacpp" and len(body["content"][0]) > engine.batch:
            self.send(500, {"error": f"input is too large to process (current batch size: {engine.batch})"})
            return
        if engine.kind != "llamacpp" and not self.has_key():
            return
        with engine.lock:
            number = len(engine.state_bodies)
            engine.state_bodies.append(body)
        reply = engine.state_reply(raw)
        fault = engine.state_plan(number - 1, body) if number else None  # asked last: the plan may be over by now
        if fault is None:
            self.send(200, reply)
        else:
            fault(self, reply)

    def do_POST(self) -> None:
        engine = self.engine
        raw = self.rfile.read(int(self.headers["content-length"]))
        if len(raw) < int(self.headers["content-length"]):  # the client hung up, or we were killed
            return
        body = json.loads(raw)
        if self.path == "/tokenize" and engine.tokenizes:
            text = body.get("content", body.get("prompt"))
            self.send(200, {"tokens": engine.policy.tokenizer.encode(text, add_special_tokens=False)})
            return
        if engine.states and self.path == ("/embedding" if engine.kind == "llamacpp" else STATES):
            with self.running():
                self.give_states(raw)
            return
        if self.path != ("/completion" if engine.kind == "llamacpp" else "/v1/completions"):
            self.send(404, {"error": "not here"})
            return
        with self.running():
            self.complete(body)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The call is one of those in flight."""
        self.counted = True
        self.engine.count(+1)
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Not in flight any more: before the reply is sent, so that who has it finds none of its own calls running."""
        if self.counted:
            self.counted = False
            self.engine.count(-1)

    def complete(self, body: dict[str, Any]) -> None:
        engine = self.engine
        with engine.lock:
            number = len(engine.bodies)
            engine.bodies.append(body)
            engine.headers.append(dict(self.headers))
        if body.get("n", body.get("n_cmpl", 1)) > engine.most:
            self.send(400, {"error": f"at most {engine.most}"})
            return
        reply = engine.reply(body)
        if engine.seconds and self.left_within(engine.seconds):
            return
        fault = engine.plan(number, body)
        if fault is None:
            self.send(200, reply)
        else:
            fault(self, reply)

    def left_within(self, seconds: float) -> bool:
        """Whether the client hangs up within so many seconds, which are waited out otherwise."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.05))
            try:
                gone = bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
            except OSError:
                gone = True
            if gone:
                with self.engine.lock:
                    self.engine.aborted += 1
                self.close_connection = True
                return True
        return False

    def send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)
        self.leave()
        self.wfile.flush()


def reset(connection: socket.socket) -> None:
    """Closes a connection as a killed process does."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


# Faults.


def stalls(handler: Handler, reply: Reply) -> None:
    """Says nothing until the client hangs up."""
    handler.left_within(60.0)
    handler.close_connection = True


def hangs_up(handler: Handler, reply: Reply) -> None:
    """Closes without a word."""
    handler.close_connection = True
    reset(handler.connection)


def half(handler: Handler, reply: Reply) -> None:
    """Breaks off in the middle of the body."""
    raw = json.dumps(reply).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw[: len(raw) // 2])
    handler.wfile.flush()
    hangs_up(handler, reply)


def trickles(handler: Handler, reply: Reply) -> None:
    """A byte now and then, so that no read ever waits for long."""
    handler.send_response(200)
    handler.send_header("content-length", "100000")
    handler.end_headers()
    while not handler.left_within(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def status(code: int, **headers: str) -> Fault:
    """Another HTTP status."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, reply: handler.send(code, {"error": {"message": "SECRET PROMPT"}}, named)


def says(content: Any) -> Fault:
    """Something else than the reply: JSON, or raw bytes."""
    return lambda handler, reply: handler.send(200, content)


def lies(change: Callable[[list[dict[str, Any]]], Any]) -> Fault:
    """The reply with its choices changed; a list that ``change`` returns takes their place."""

    def fault(handler: Handler, reply: Reply) -> None:
        llama = handler.engine.kind == "llamacpp"
        choices = (reply if isinstance(reply, list) else [reply]) if llama else reply["choices"]
        changed = change(choices)
        choices = choices if changed is None else changed
        handler.send(200, choices if llama else {**reply, "choices": choices})

    return fault
