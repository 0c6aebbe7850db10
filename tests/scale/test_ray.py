"""The examples for Ray, on a real local Ray: ``pip install "ray[serve,data]"``, then ``pytest -m slow tests/scale``."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="ray is not installed")

from critic_models.bundled import world  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples" / "scale"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def prompts(count):
    texts = world.prompts("test", "benign")[: count // 2] + world.prompts("test", "sensitive")[: count - count // 2]
    return [{"id": str(number), "prompt": text} for number, text in enumerate(texts)]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(folder, name, *options):
    command = [sys.executable, str(EXAMPLES / "ray_data.py"), "prompts.jsonl", f"{name}.jsonl", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answers(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["text"], row["blocked"]) for row in rows}  # costs differ in their last digits


def workers():
    found = subprocess.run(["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def test_answers_do_not_depend_on_the_partition_nor_on_a_worker_that_dies(tmp_path):
    rows = prompts(40)
    written(tmp_path / "prompts.jsonl", rows)
    assert start(tmp_path, "one", "--workers", "1", "--batch", "16").wait() == 0
    run = start(tmp_path, "two", "--workers", "2", "--batch", "5")
    while not (alive := workers()):
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.2)
    time.sleep(2)
    os.kill(alive[0], signal.SIGKILL)
    run.communicate()
    one, two = answers(tmp_path / "one.jsonl"), answers(tmp_path / "two.jsonl")
    assert set(one) == {row["id"] for row in rows}
    assert one == two


def test_a_run_that_was_stopped_goes_on_with_what_has_no_answer(tmp_path):
    sys.path.insert(0, str(EXAMPLES))
    import ray_data

    rows = prompts(4)
    written(tmp_path / "prompts.jsonl", rows)
    done = tmp_path / "answers.jsonl"
    done.write_text(json.dumps({"id": "1", "text": "..."}) + '\n{"id": "2", "te')
    assert [row["id"] for row in ray_data.unanswered(tmp_path / "prompts.jsonl", done)] == ["0", "2", "3"]
    assert done.read_text().endswith("}\n")


def test_replicas_answer_alike_and_stream():
    import httpx
    from ray import serve

    sys.path.insert(0, str(EXAMPLES))
    import ray_serve

    def ask(row):
        body = {"model": "tiny-alpaca", "seed": 5, "messages": [{"role": "user", "content": row["prompt"]}]}
        reply = httpx.post("http://127.0.0.1:8000/v1/chat/completions", json=body, timeout=300).json()
        return reply["choices"][0]["message"]

    ray.init(num_cpus=3, log_to_driver=False)
    try:
        found = []
        for replicas in (1, 2):
            ray_serve.start("tiny-alpaca", replicas=replicas)
            with ThreadPoolExecutor(8) as pool:
                found.append(list(pool.map(ask, prompts(8))))
            assert httpx.get("http://127.0.0.1:8000/health").json() == {"status": "ok"}
            serve.delete("inferenceguard")
        assert found[0] == found[1]
    finally:
        serve.shutdown()
        ray.shutdown()
