"""``/ui``: a page on which an operator asks the guard and sees how it answers. It shows text that did not pass.

So it is there only where the operator says so, and where strangers cannot come in: see `check_reach`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from critic_models.safety import SafetyBudget
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.page import Document, Playground, playground, unguarded
from ig_plugins.page.render import Offer, Slider
from ig_plugins.server.answering import results, unless_gone
from ig_plugins.server.desk import Desk
from ig_plugins.server.errors import INVALID, problem, response
from ig_plugins.server.gate import Visit
from ig_plugins.server.limits import Limits

ASK = "/ui/trace"


class Question(BaseModel):
    """What the page asks.

    Attributes:
        prompt: Of the user.
        model: Who is asked; the first one by default.
        budget: The first cost model's limit.
        candidates, beams, block_tokens, tries: N, K, d and M.
        seed: None draws one.
        beside: The unguarded answer is wanted as well.
        answers, streams, counts: See `Asked`; the page is shown one whole answer.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    answers: ClassVar[int] = 1
    streams: ClassVar[bool] = False
    counts: ClassVar[bool] = False

    prompt: str = Field(min_length=1)
    model: str | None = None
    budget: float | None = None
    candidates: int | None = None
    beams: int | None = None
    block_tokens: int | None = None
    tries: int | None = None
    seed: int | None = None
    beside: bool = True

    def prompts(self) -> list[str]:
        """The question alone."""
        return [self.prompt]

    def options(self, budgets: Sequence[SafetyBudget]) -> dict[str, Any]:
        """Options of a call.

        Raises:
            ConfigurationError: The budget is looser than the service's own.
        """
        chosen = self.model_dump(exclude={"prompt", "model", "beside", "budget"}, exclude_none=True)
        if self.budget is not None:
            if not self.budget <= budgets[0].limit:
                raise ConfigurationError(f"budget is {self.budget}; give at most {budgets[0].limit}, the service's own")
            chosen["budget"] = [self.budget, *budgets[1:]]
        return {**chosen, "on_block": "refuse", "trace": True}


def check_reach(host: str, *, keyed: bool) -> None:
    """Refuses to offer the page to whoever can reach the machine.

    Raises:
        ConfigurationError: The service listens beyond this machine and needs no key.
    """
    try:
        near = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = False
    if not near and not keyed:
        raise ConfigurationError(
            f"--ui shows text that did not pass, and --host {host} can be reached by others; give --api-keys, or "
            "leave --host at 127.0.0.1"
        )


def add_ui(app: FastAPI, desk: Desk, *, keyed: bool) -> None:
    """Adds the page to a service.

    Args:
        app: The service.
        desk: Reads questions and lets them in, as all requests.
        keyed: Requests need an API key. The page itself needs none, and holds nothing.
    """
    offers = tuple(Offer(model=each.name, sliders=_sliders(each.guard, desk.limits)) for each in desk.models.served)
    shown = playground(Playground(ask=ASK, keyed=keyed, offers=offers))
    safe = {
        "content-security-policy": f"{shown.policy}; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }

    @app.get("/ui", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(shown.html, headers=safe)

    @app.post(ASK, include_in_schema=False)
    async def trace(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            # Other pages in the same browser may send forms here without being asked whether they may.
            return response(415, problem(INVALID, "send JSON, as content type application/json"))
        visit = desk.gate.enter()
        try:
            raw = await request.body()
            document = await unless_gone(request, _answered(desk, visit, raw))
        finally:
            visit.abandon()
            visit.close()
        content = document.model_dump_json().encode()
        return Response(content, media_type="application/json", headers={"cache-control": "no-store"})


async def _answered(desk: Desk, visit: Visit, raw: bytes) -> Document:
    """The guarded answer, then the unguarded one."""
    order = await desk.admitted(visit, raw, Question)
    question, served, guard = order.asked, order.served, order.served.guard
    (result,) = await results(order)
    if not question.beside:
        return Document(model=served.name, result=result)
    options = {
        **question.options(guard.options.budgets),
        "seed": guard.numbered(result.seed),
        "timeout": desk.limits.seconds(None),
    }
    plain = await asyncio.to_thread(guard.request, question.prompt, **options)
    visit.abandon = plain.cancelled.set
    beside = await asyncio.to_thread(unguarded, guard.components, plain)
    return Document(model=served.name, result=result, unguarded=beside)


def _sliders(guard: InferenceGuard, limits: Limits) -> tuple[Slider, ...]:
    """What may be chosen: within the operator's ceilings, and what the guard itself asks for."""
    search, own = guard.search, guard.options.budgets[0]
    cumulative = own.accounting == "cumulative"  # whose limit must be above 0
    least = own.limit / 50 if cumulative else own.limit - 2 * max(1.0, abs(own.limit))
    budget = Slider(
        name="budget",
        label="Budget of an answer",
        least=least,
        most=own.limit,
        step=(own.limit - least) / 49,
        value=own.limit,
    )
    whole = {
        "candidates": ("N: lanes sampled a block", max(limits.candidates, search.candidates)),
        "beams": ("K: lanes that go on", max(limits.beams, search.beams)),
        "block_tokens": ("d: tokens of a block", max(limits.block_tokens, search.block_tokens)),
        "tries": ("M: tries of a block", max(limits.tries, search.tries)),
    }
    chosen = [
        Slider(name=name, label=label, least=1, most=most, step=1, value=getattr(search, name))
        for name, (label, most) in whole.items()
    ]
    return (budget, *chosen)
