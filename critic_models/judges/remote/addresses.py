"""The address of a judge: ``https://host/path``, or of a model that vLLM serves."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from critic_models.errors import ConfigurationError
from critic_models.judges.remote.classify import ClassifyJudge
from critic_models.judges.remote.http import HttpJudge, check_url
from critic_models.judges.remote.tokens import TokenClassifyJudge
from critic_models.judges.remote.verdicts import VerdictJudge

NAME = re.compile(r"(?:([a-z]+)\+)?https?://")
NUMBER = re.compile(r"[0-9]{1,9}")
NUMBERS = ("label",)
SERVED: dict[str, tuple[type[HttpJudge], str, tuple[str, ...]]] = {
    "classify": (ClassifyJudge, "/classify", ("label", "reads", "tokenizer")),
    "tokens": (TokenClassifyJudge, "/pooling", ("label", "reads", "tokenizer", "over")),
    "verdict": (VerdictJudge, "/v1/completions", ("tokenizer", "template")),
}
"""Kinds of addresses: the judge, vLLM's path, and what may stand behind the question mark."""


def is_address(source: Any) -> bool:
    """Whether a judge's name is the address of an endpoint."""
    found = NAME.match(source) if isinstance(source, str) else None
    return found is not None and (found[1] is None or found[1] in SERVED)


def judge_at(address: str, **options: Any) -> HttpJudge:
    """The judge at an address: ``https://host/path``, or such as ``classify+http://host:8000/model?label=1``.

    Args:
        address: It.
        **options: Of the judge.

    Raises:
        ConfigurationError: It is no address, or an option is not known.
    """
    kind, _, rest = address.partition("+") if address.partition("://")[0].count("+") else ("", "", address)
    check_url(rest)
    judge, parts = HttpJudge, urlsplit(rest)
    if kind:
        judge, path, known = SERVED[kind]
        said: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        wrong = [name for name in NUMBERS if not NUMBER.fullmatch(str(said.get(name, "0")))]
        if set(said) - set(known) or wrong:
            allowed = ", ".join(f"{name}=NUMBER" if name in NUMBERS else f"{name}=..." for name in known)
            raise ConfigurationError(
                f"{kind}+{parts.scheme}://{parts.netloc}: behind ? may stand {allowed}, joined by &"
            )
        numbers = {name: int(said[name]) for name in NUMBERS if name in said}
        options = {"model": parts.path.strip("/"), **said, **numbers, **options}
        parts = parts._replace(path=path, query="")
    options.setdefault("name", address)
    try:
        return judge(urlunsplit(parts), **options)
    except TypeError as error:
        raise ConfigurationError(f"a judge behind HTTP does not know one of {sorted(options)}: {error}") from error
