"""Judges behind HTTP: any endpoint that speaks a small JSON form.

The form, posted to the judge's URL, for up to ``batch_size`` pairs at a time::

    {"prompts": ["...", ...], "responses": ["...", ...], "finished": [true, false, ...]}

and the reply, one finite number a response::

    {"scores": [-1.2, ...]}

Whatever else comes back is a `JudgeError`, and no text leaves on one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from critic_models import strict_json
from critic_models.api_key import bearer
from critic_models.errors import ConfigurationError, JudgeError
from critic_models.exchange import NoReplyError, Wire
from critic_models.http_loop import loop
from critic_models.judges.protocol import check_pairs, check_scores
from critic_models.safety.budget import Accounting

KEY_ENV = "INFERENCEGUARD_JUDGE_KEY"
REPLY_BYTES = 2**20  # beside what a pair's scores may take


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
        check_url(url)
        bearer(key_env)  # refused before the first answer
        self.url, self.name, self.version = url, name or url, version
        self.seconds, self.batch_size, self.key_env = seconds, batch_size, key_env
        self.default_limit, self.default_accounting = limit, accounting
        # Scores do not say whose they are, so that no connection is used twice, see `Wire`.
        self._wire = Wire(connect_seconds=seconds, keep=False)

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
            found = self.ask(prompts[part], responses[part], ends[part], deadline=deadline)
            scores += check_scores(found, count=len(responses[part]), judge=self.name)
        return scores

    def ask(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool], *, deadline: float
    ) -> Any:
        """The scores of some pairs, not checked yet, by one HTTP request.

        Raises:
            JudgeError: There are none.
        """
        body = {"prompts": list(prompts), "responses": list(responses), "finished": list(finished)}
        reply = self.post(body, deadline=deadline)
        if not isinstance(reply, Mapping) or not isinstance(reply.get("scores"), list):
            raise JudgeError(f'judge {self.name!r} gave no {{"scores": [...]}}; no text is released without a verdict')
        if any(isinstance(each, bool) for each in reply["scores"]):
            raise JudgeError(f"judge {self.name!r} gave true or false as a score; a verdict is a number")
        return reply["scores"]

    def post(self, body: dict[str, Any], *, deadline: float, most_bytes: int = REPLY_BYTES) -> Any:
        """The reply as JSON.

        Raises:
            JudgeError: There is none.
        """
        failed = ""
        try:
            wanted = self._wire.exchange(
                self.url,
                body,
                headers=bearer(self.key_env),
                seconds=max(0.0, deadline - time.monotonic()),
                most_bytes=most_bytes,
            )
            reply = loop.run(wanted)
        except ConfigurationError as error:
            failed = f"cannot be asked: {error}"
        except NoReplyError as error:
            failed = {
                "late": f"took longer than {self.seconds:.3g} s",
                "unreachable": f"cannot be reached or hung up ({error})",
                "malformed": f"gave a reply that is not used: {error}",
                "unusable": f"cannot be asked ({error}); see its address, the texts, and the environment's proxies",
            }[error.why]
        if not failed and reply.status != 200:
            failed = f"gave status {reply.status}"
        if not failed:
            try:
                return strict_json.loads(reply.content)
            except ValueError:
                failed = "gave a reply that is no JSON"
        raise JudgeError(f"judge {self.name!r} {failed}; no text is released without a verdict")


def check_url(url: str) -> None:
    """Refuses what is no address, and a key inside one, which results, logs and certificates would show.

    Raises:
        ConfigurationError: The message does not quote the address.
    """
    try:
        parts = urlsplit(url)
        wrong = parts.port == 0 or not parts.hostname or "@" in parts.netloc or bool(parts.fragment)
    except ValueError:
        wrong = True
    if wrong:
        raise ConfigurationError(
            "the address of a judge must be http://host:port/path, without # and without a key, which belongs into "
            f"the environment ({KEY_ENV})"
        )
