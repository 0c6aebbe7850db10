"""The files under examples/deploy say what the service knows: settings, metrics, paths."""

import json
import re
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient

from ig_plugins.server import create_app
from ig_plugins.server.config import read
from tests.kit.guards import MARKER, make_guard

DEPLOY = Path(__file__).parents[3] / "examples" / "deploy"


def test_the_configuration_is_served():
    config = read(DEPLOY / "guard.toml")
    assert list(config.models) == ["tiny-beaver"]
    for table in config.models.values():
        table.check()
    commented = re.sub(r"(?m)^# (?=[\[\w]+.*[\]=])", "", (DEPLOY / "guard.toml").read_text())
    assert "[models.mine]" in commented


def test_the_dashboard_asks_for_series_that_there_are():
    pytest.importorskip("prometheus_client")
    guards = {"good": make_guard(), "bad": make_guard({f"{MARKER}.": 1.0})}
    client = TestClient(create_app(guards))
    for model in guards:
        client.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": "x"}]})
    told = client.get("/metrics").text
    there = {re.split(r"[{ ]", line)[0] for line in told.splitlines() if not line.startswith("#")}
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    names = set(re.findall(r"\b(?:inferenceguard|process)_\w+", asked))
    assert len(names) >= 15
    assert names <= there
    labels = {name for part in re.findall(r"by \(([^)]*)\)", asked) for name in part.split(", ")}
    assert all(f"{label}=" in told for label in labels)


def test_compose_mounts_files_that_there_are_and_stops_after_the_drain():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file(), source
    server = compose["services"]["inferenceguard"]
    drain = read(DEPLOY / "guard.toml").limits.drain_seconds
    assert int(server["stop_grace_period"].rstrip("s")) > drain
    unit = (DEPLOY / "inferenceguard.service").read_text()
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > drain
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["inferenceguard:8000"]
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert all((DEPLOY.parents[1] / name).exists() for line in copied for name in line.split())
