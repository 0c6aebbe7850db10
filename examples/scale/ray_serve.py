r"""The OpenAI-compatible service on replicas: Ray Serve starts, watches and scales them, streaming goes through.

    pip install "ray[serve]" "inferenceguard[server]"
    python examples/scale/ray_serve.py --model tiny-alpaca --replicas 2
    curl localhost:8000/v1/chat/completions -H 'content-type: application/json' \
        -d '{"model": "tiny-alpaca", "messages": [{"role": "user", "content": "How do I clean a window?"}]}'

Each replica is a process with a guard of its own, all requests of which are decoded in one batch. Replicas share
nothing: a request with a seed gets the same answer from any of them. Where prompts share long prefixes (an agent's
system prompt, a RAG corpus) and the policy runs on vLLM, let the requests go to the replica that has seen the prefix:
`serve.deployment(request_router_config=...)` takes Ray's prefix-aware router.
"""

import argparse
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from ig_plugins import InferenceGuard
from ig_plugins.server import create_app


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
