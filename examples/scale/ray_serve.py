r"""The OpenAI-compatible service on replicas: Ray Serve starts, watches and scales them, streaming goes through.

    pip install "ray[serve]" "inferenceguard[server]"
    python examples/scale/ray_serve.py --model tiny-alpaca --replicas 2
    curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \
        -d '{"model": "tiny-alpaca", "messages": [{"role": "user", "content": "How do I clean a window?"}]}'

Each replica is a process with a guard of its own, all requests of which are decoded in one batch. Replicas share
nothing: a request with a seed gets the same answer from any of them. A request goes to the replica that has the fewest,
since a block costs little more with eight requests than with six. Where prompts share long prefixes (an agent's system
prompt, a RAG corpus) and the policy runs on vLLM, let the requests go to the replica that has seen the prefix instead:
`request_router_config` takes Ray's prefix-aware router.
"""

import argparse
import random
import weakref
from collections import Counter
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from ig_plugins import InferenceGuard
from ig_plugins.server import create_app


class FewestRequests(RequestRouter):
    """Sends a request to the replica that has the fewest of those that this proxy sent.

    Ray's own router asks replicas for their counts, or remembers what they last said, for ten seconds. Of requests that
    come together it sends several to one replica before it hears of the first. This one counts when it chooses.
    """

    def initialize_state(self, **options: Any) -> None:
        """Ray's constructor for routers."""
        # By request: its replica, and until that has taken it the request itself. Ray says nothing of those that are
        # cancelled before: the object tells, or is gone.
        self._sent: dict[str, tuple[ReplicaID, weakref.ref[PendingRequest] | None]] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All replicas, the one with the fewest requests first; Ray takes the first that has room."""
        if pending_request is not None:
            self._sent.pop(pending_request.metadata.internal_request_id, None)  # it is tried again
        for request_id, (_, waiting) in list(self._sent.items()):  # callbacks may come from another thread
            if waiting is not None and ((request := waiting()) is None or request.future.cancelled()):
                self._sent.pop(request_id, None)
        counts = Counter(replica_id for replica_id, _ in list(self._sent.values()))
        ranked = sorted(candidate_replicas, key=lambda each: (counts[each.replica_id], random.random()))
        if pending_request is not None and ranked:
            entry = ranked[0].replica_id, weakref.ref(pending_request)
            self._sent[pending_request.metadata.internal_request_id] = entry
        return [[replica] for replica in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """A replica has taken it, of which `on_request_completed` may have told already."""
        if (request_id := pending_request.metadata.internal_request_id) in self._sent:
            self._sent[request_id] = replica_id, None

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It has ended, well or not; one that another replica refused is about to be sent elsewhere."""
        if self._sent.get(internal_request_id, (None,))[0] == replica_id:
            self._sent.pop(internal_request_id, None)


def application(model: str, *, replicas: int, most: int | None = None) -> Any:
    """What `serve.run` takes.

    Args:
        model: A preset, a checkpoint or a folder.
        replicas: At first.
        most: Up to so many under load; the same number all the time where it is None.
    """

    def build() -> FastAPI:
        """Runs in each replica: the whole service, limits and all."""
        import torch

        torch.set_num_threads(1)
        return create_app(InferenceGuard.from_pretrained(model))

    @serve.deployment(
        name="inferenceguard",
        num_replicas=None if most else replicas,
        autoscaling_config={
            "min_replicas": replicas,
            "max_replicas": most,
            "target_ongoing_requests": 8,  # a batch that is worth its step
            "upscale_delay_s": 10,
            "downscale_delay_s": 300,  # weights take long to load
        }
        if most
        else None,
        max_ongoing_requests=32,
        request_router_config=RequestRouterConfig(request_router_class=FewestRequests),
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=60,  # answers that are under way end
    )
    @serve.ingress(build)
    class Guarded:
        """A replica."""

    return Guarded.bind()


def start(model: str, *, replicas: int, most: int | None = None) -> DeploymentHandle:
    """Serve on port 8000, or on that of `serve.start`, and return when all replicas are ready."""
    return serve.run(application(model, replicas=replicas, most=most), name="inferenceguard", route_prefix="/")


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-alpaca")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--most", type=int, help="scale up to so many")
    options = parser.parse_args()
    serve.run(
        application(options.model, replicas=options.replicas, most=options.most),
        name="inferenceguard", route_prefix="/", blocking=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
