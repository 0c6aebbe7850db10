"""What a guard LLM is asked about one exchange, in token ids, and with which tokens its verdict may begin."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.judges.batching import plain_ids
from critic_models.judges.templates import GuardTemplate, guard_template

logger = logging.getLogger(__name__)
PROBE = ("Which pot suits basil?", "A clay pot with holes suits basil.")
LONGEST_LEAD = 12
SURE = 0.5  # of the probability must lie on the verdict words for a position to count as the verdict's

Next = Callable[[list[int]], tuple[float, int]]
"""Behind some ids: the probability of the verdict words together, and the likeliest token."""


class GuardQuestion:
    """A template and a tokenizer.

    Args:
        tokenizer: The guard's.
        template: See ``templates.guard_template``.
        name: The guard's, for messages.

    Attributes:
        template: The template that is used.
        by_chat: The question is asked through the tokenizer's chat template.
        in_parts: That template reads messages as lists of parts.
        safe: Tokens that a verdict of safe may begin with.
        unsafe: The same for unsafe.

    Raises:
        ConfigurationError: No template fits, the verdict words begin with the same token, or the chat template leaves
            the exchange out.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str | GuardTemplate | None = None, *, name: str
    ) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.template = guard_template(template, name=name, chat_template=_as_text(tokenizer.chat_template))
        self.by_chat = self.template.chat and bool(tokenizer.chat_template)
        self.in_parts = self.by_chat and self._wants_parts()
        self.safe, self.unsafe = self._verdict_ids()

    def ids(self, prompt: str, response: str) -> list[int]:
        """The question, up to where the guard begins to write."""
        return self._ask(prompt, response) if self.by_chat else self._fill(prompt, response)

    def lead(self, behind: Next) -> list[int]:
        """What the model writes before its verdict: the template's, or found greedily on a harmless exchange.

        Raises:
            ConfigurationError: It never comes to a verdict.
        """
        if self.template.lead is not None:
            return list(self.tokenizer.encode(self.template.lead, add_special_tokens=False))
        ids, lead = self.ids(*PROBE), list[int]()
        while len(lead) <= LONGEST_LEAD:
            mass, best = behind(ids + lead)
            if mass >= SURE:
                return lead
            lead.append(best)
        raise ConfigurationError(
            f"guard {self.name!r} gives no verdict within {LONGEST_LEAD} tokens in the template "
            f"{self.template.name!r}. Name another template, or a GuardTemplate with the right lead and verdict words"
        )

    def _ask(self, prompt: str, response: str) -> list[int]:
        """Through the tokenizer's chat template; special tokens come from the template alone."""

        def content(text: str) -> Any:
            return [{"type": "text", "text": text}] if self.in_parts else text

        messages = [{"role": "user", "content": content(prompt)}, {"role": "assistant", "content": content(response)}]
        encoded = self.tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            sanitize_control_tokens=True,
            **self.template.variables,
        )
        return list(encoded["input_ids"])

    def _fill(self, prompt: str, response: str) -> list[int]:
        """Through a text: its own pieces may hold control tokens, what is filled in may not."""
        ids: list[int] = []
        for piece in re.split(r"(\{prompt\}|\{response\})", self.template.text or ""):
            if piece in ("{prompt}", "{response}"):
                ids += plain_ids(self.tokenizer, prompt if piece == "{prompt}" else response)
            else:
                ids += self.tokenizer.encode(piece, add_special_tokens=False)
        bos = self.tokenizer.bos_token_id
        return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    def _wants_parts(self) -> bool:
        """Some templates read a message as a list of parts, and silently show nothing when given a string."""
        for in_parts in (False, True):
            self.in_parts = in_parts
            try:
                shown = self.tokenizer.decode(self._ask("alpha seven", "omega nine"))
            except Exception:
                logger.debug(
                    "the chat template of %s refuses content as %s", self.name, "parts" if in_parts else "text"
                )
                continue
            if "alpha seven" in shown and "omega nine" in shown:
                return in_parts
        raise ConfigurationError(
            f"guard {self.name!r}: its chat template does not show prompt and response to the model; give template= a "
            "text with {prompt} and {response}"
        )

    def _verdict_ids(self) -> tuple[list[int], list[int]]:
        """First tokens of the verdict words, with and without a space before them."""

        def first(words: Sequence[str]) -> set[int]:
            variants = [variant for word in words for variant in (word, f" {word}")]
            encoded = [self.tokenizer.encode(variant, add_special_tokens=False) for variant in variants]
            return {ids[0] for ids in encoded if ids}

        safe, unsafe = first(self.template.safe), first(self.template.unsafe)
        safe, unsafe = safe - unsafe, unsafe - safe
        if not safe or not unsafe:
            raise ConfigurationError(
                f"guard {self.name!r}: the verdicts {self.template.safe} and {self.template.unsafe} begin with the "
                "same token of its tokenizer; give a GuardTemplate whose verdicts differ at once"
            )
        return sorted(safe), sorted(unsafe)


def check_mass(min_mass: float) -> float:
    """The least probability of the verdict words together.

    Raises:
        ConfigurationError: It is none.
    """
    if not 0.0 <= min_mass < 1.0:
        raise ConfigurationError(f"min_mass is {min_mass}; give a probability below 1")
    return min_mass


def _as_text(chat_template: Any) -> str | None:
    return "\n".join(chat_template.values()) if isinstance(chat_template, dict) else chat_template
