"""The service keeps to its own description, whatever is sent: schemathesis over its OpenAPI schema."""

import json

import pytest
from hypothesis import HealthCheck, Phase, settings

from ig_plugins.server import Limits, create_app
from tests.kit.guards import make_guard

schemathesis = pytest.importorskip("schemathesis")

from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
APP = create_app(make_guard({"Hello.": 1.0}, search={"max_new_tokens": 16}), limits=Limits(timeout=20, max_tokens=64))
described = schemathesis.openapi.from_asgi("/openapi.json", APP)


@described.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
def test_whatever_is_sent_is_answered_as_described(case):
    answer = case.call_and_validate(checks=CHECKS, timeout=60)
    if answer.status_code >= 400 and case.operation.path.startswith("/v1"):
        assert set(json.loads(answer.content)["error"]) == {"type", "message", "param", "code"}
