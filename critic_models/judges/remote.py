"""Judges behind HTTP: any endpoint that speaks a small JSON form, and classifiers that vLLM serves.

The form, posted to the judge's URL, for up to ``batch_size`` pairs at a time::

    {"prompts": ["...", ...], "responses": ["...", ...], "finished": [true, false, ...]}

and the reply, one finite number a response::

    {"scores": [-1.2, ...]}

Whatever else comes back is a `JudgeError`, and no text leaves on one.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx

from critic_models.api_key import bearer
from critic_models.errors import ConfigurationError, JudgeError
from critic_models.judges.protocol import check_pairs, check_scores
from critic_models.safety.budget import Accounting

NAME = re.compile(r"(classify\+)?https?://")
KEY_ENV = "INFERENCEGUARD_JUDGE_KEY"
REPLY_BYTES = 2**20  # beside what a pair's scores may take


def is_address(source: Any) -> bool:
    """Whether a judge's name is the address of an endpoint."""
    return isinstance(source, str) and NAME.match(source) is not None


def judge_at(address: str, **options: Any) -> HttpJudge:
    """The judge at an address: ``https://host/path``, or ``classify+http://host:8000/model?label=1``.

    Args:
        address: It.
        **options: Of the judge.

    Raises:
        ConfigurationError: It is no address, or an option is not known.
    """
    kind, parts = (HttpJudge, urlsplit(address))
    if address.startswith("classify+"):
        parts = urlsplit(address.removeprefix("classify+"))
        said = dict(parse_qsl(parts.query))
        if set(said) - {"label", "reads"} or not said.get("label", "0").isdigit():
            raise ConfigurationError(f"{address!r}: behind ? may stand label=NUMBER and reads=response or pair")
        options = {**options, "model": parts.path.strip("/"), "label": int(said.get("label", 1))}
        options["reads"] = said.get("reads", "response")
        kind, parts = ClassifyJudge, parts._replace(path="/classify", query="")
    if not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ConfigurationError(
            "the address of a judge must be http://host:port/path, without # and without a key, which belongs into "
            f"the environment ({KEY_ENV})"
        )
    options.setdefault("name", address)
    try:
        return kind(urlunsplit(parts), **options)
    except TypeError as error:
        raise ConfigurationError(f"a judge behind HTTP does not know one of {sorted(options)}: {error}") from error


class HttpJudge:
    """A judge that is asked over HTTP. As a cost, a score above ``limit`` is unsafe.

    Args:
        url: Where pairs are posted.
        name: Shown in results.
        version: What stands there, in its owner's words; without one no certificate speaks of it.
        seconds: That one call may take; the guard's ``judge_timeout`` holds as well.
        batch_size: Pairs of one HTTP request.
        limit: The limit d unless the budget says otherwise.
        accounting: How its cost is counted unless the budget says otherwise.
        key_env: The environment variable with the key, sent as ``Authorization: Bearer``.
    """

    default_discount = 1.0

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        version: str | None = None,
        seconds: float = 30.0,
        batch_size: int = 64,
        limit: float = 0.0,
        accounting: Accounting = "worst",
        key_env: str = KEY_ENV,
    ) -> None:
        if not 0 < seconds < float("inf") or batch_size < 1:
            raise ConfigurationError(f"seconds is {seconds} and batch_size {batch_size}; give positive numbers")
        bearer(key_env)  # refused before the first answer
        self.url, self.name, self.version = url, name or url, version
        self.seconds, self.batch_size, self.key_env = seconds, batch_size, key_env
        self.default_limit, self.default_accounting = limit, accounting
        self._client: httpx.Client | None = None
        self._process = 0

        def what_stands_there() -> None:
            """A local function is known to nobody else, as is what an address leads to; see `identity_parts`."""

        self._unknown = what_stands_there

    def identity_parts(self) -> dict[str, Any]:
        """What tells this judge from others; see ``critic_models.identity``."""
        known = {"batch_size": self.batch_size, "class": type(self).__name__}
        return {**known, "version": self.version} if self.version else {**known, "behind": self._unknown}

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, finished: Sequence[bool] | None = None
    ) -> list[float]:
        """See ``Judge.score``."""
        check_pairs(prompts, responses, judge=self.name)
        ends = [False] * len(responses) if finished is None else list(finished)
        deadline, scores = time.monotonic() + self.seconds, []
        for at in range(0, len(responses), self.batch_size):
            part = slice(at, at + self.batch_size)
            reply = self._post(self.body(prompts[part], responses[part], ends[part]), deadline)
            scores += check_scores(self.read(reply), count=len(responses[part]), judge=self.name)
        return scores

    def body(self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool]) -> dict[str, Any]:
        """What is posted for some pairs."""
        return {"prompts": list(prompts), "responses": list(responses), "finished": list(finished)}

    def read(self, reply: Any) -> Any:
        """The scores of a reply, not checked yet.

        Raises:
            JudgeError: It has none.
        """
        if not isinstance(reply, Mapping) or not isinstance(reply.get("scores"), list):
            raise JudgeError(f'judge {self.name!r} gave no {{"scores": [...]}}; no text is released without a verdict')
        return reply["scores"]

    def _post(self, body: dict[str, Any], deadline: float) -> Any:
        """The reply as JSON. What httpx raises holds the request, and with it the texts, so it is no cause of ours."""
        failed, content = "", bytearray()
        try:
            with self._pool().stream("POST", self.url, json=body, headers=bearer(self.key_env)) as response:
                if response.status_code != 200:
                    failed = f"gave status {response.status_code}"
                for part in response.iter_bytes():
                    content += part
                    if time.monotonic() > deadline:
                        failed = f"took longer than {self.seconds:.3g} s"
                    if len(content) > REPLY_BYTES:
                        failed = "gave a reply that is far too long"
                    if failed:
                        break
        except ConfigurationError as error:
            failed = f"cannot be asked: {error}"
        except httpx.TimeoutException:
            failed = f"took longer than {self.seconds:.3g} s"
        except httpx.HTTPError as error:
            failed = f"cannot be reached or hung up ({type(error).__name__})"
        if not failed:
            try:
                return json.loads(bytes(content))
            except (ValueError, RecursionError):
                failed = "gave a reply that is no JSON"
        raise JudgeError(f"judge {self.name!r} {failed}; no text is released without a verdict")

    def _pool(self) -> httpx.Client:
        """This process's connections; a forked child opens its own."""
        if self._client is None or self._process != os.getpid():
            self._client, self._process = httpx.Client(timeout=self.seconds), os.getpid()
        return self._client


class ClassifyJudge(HttpJudge):
    """A sequence classifier behind vLLM's ``/classify``: the probability of one label, with the limit 0.5.

    Args:
        url: Of ``/classify``.
        model: As vLLM names it; empty for the only one.
        label: The index of the unsafe label (cost) or the good one (reward); 0 of a model with a single output.
        reads: The ``response`` alone, or prompt and response as a ``pair`` of lines.
        **options: As `HttpJudge`.
    """

    def __init__(self, url: str, *, model: str = "", label: int = 1, reads: str = "response", **options: Any) -> None:
        super().__init__(url, **{"limit": 0.5, **options})
        if reads not in ("response", "pair"):
            raise ConfigurationError(f"reads is {reads!r}; allowed are 'response' and 'pair'")
        self.model, self.label, self.reads = model, label, reads

    def identity_parts(self) -> dict[str, Any]:
        """See `HttpJudge`."""
        return {**super().identity_parts(), "model": self.model, "label": self.label, "reads": self.reads}

    def body(self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool]) -> dict[str, Any]:
        """See `HttpJudge`."""
        pairs = zip(prompts, responses, strict=True)
        texts = list(responses) if self.reads == "response" else [f"{prompt}\n{response}" for prompt, response in pairs]
        return {"input": texts, **({"model": self.model} if self.model else {})}

    def read(self, reply: Any) -> Any:
        """See `HttpJudge`."""
        found = reply.get("data") if isinstance(reply, Mapping) else None
        if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
            raise JudgeError(f"judge {self.name!r} gave no list of classes; no text is released without a verdict")
        if [each.get("index") for each in found] != list(range(len(found))):
            raise JudgeError(f"judge {self.name!r} gave classes in another order than it was asked for")
        return [self._probability(each.get("probs")) for each in found]

    def _probability(self, probs: Any) -> Any:
        if not isinstance(probs, list) or not self.label < len(probs):
            count = len(probs) if isinstance(probs, list) else 0
            raise JudgeError(f"judge {self.name!r} gave {count} classes, and the label is {self.label}; see ?label=")
        return probs[self.label]
