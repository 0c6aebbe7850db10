"""Guard LLMs as judges: the probability of "unsafe" at the verdict token, never a match on generated text."""

import inspect
import logging
import re
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.judges.batching import ModelJudge, Row, plain_ids
from critic_models.judges.templates import GuardTemplate, guard_template

logger = logging.getLogger(__name__)
PROBE = ("Which pot suits basil?", "A clay pot with holes suits basil.")
LONGEST_LEAD = 12
SURE = 0.5  # of the probability must lie on the verdict words for a position to count as the verdict's


class GuardJudge(ModelJudge):
    """A causal language model that was trained to answer safe or unsafe, Yes or No.

    The score is p(unsafe) / (p(safe) + p(unsafe)) at the token where the verdict stands, with the limit 0.5. Where
    both together are less likely than ``min_mass``, the model answers something else, and that counts as unsafe.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        template: See ``templates.guard_template``.
        min_mass: Least probability of the verdict words together.
        **options: ``name``, ``batch_size``, ``max_tokens``, as every model judge.

    Raises:
        ConfigurationError: No template fits, the verdict words begin with the same token, the chat template leaves the
            exchange out, or the model never comes to a verdict.
    """

    default_limit = 0.5

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | GuardTemplate | None = None,
        min_mass: float = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, **options)
        if not 0.0 <= min_mass < 1.0:
            raise ConfigurationError(f"min_mass is {min_mass}; give a probability below 1")
        self.template = guard_template(template, name=self.name, chat_template=_as_text(tokenizer.chat_template))
        self.min_mass = min_mass
        self.by_chat = self.template.chat and bool(tokenizer.chat_template)
        self.in_parts = self.by_chat and self._wants_parts()
        self.safe, self.unsafe = self._verdict_ids()
        lead = self.template.lead
        self.lead: list[int] = []
        self.lead = self._find_lead() if lead is None else list(tokenizer.encode(lead, add_special_tokens=False))

    def encode(self, prompt: str, response: str, *, finished: bool) -> Row:
        """The question about one exchange, up to where the verdict stands."""
        ids = self._ask(prompt, response) if self.by_chat else self._fill(prompt, response)
        return {"input_ids": ids + self.lead}

    def read(self, ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
        """The relative probability of unsafe, (B,)."""
        safe, unsafe = self._verdict_logs(ids, mask)
        unreadable = torch.logaddexp(safe, unsafe).exp() < self.min_mass
        if bool(unreadable.any()):
            logger.warning("%d verdicts of %s are unreadable and count as unsafe", int(unreadable.sum()), self.name)
        return torch.where(unreadable, torch.ones_like(safe), (unsafe - safe).sigmoid())

    def _verdict_logs(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the safe and the unsafe words at each row's last token, each (B,)."""
        last = mask.sum(dim=1) - 1
        places, row = torch.unique(last, return_inverse=True)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:  # B x few x V instead of B x T x V
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=places).logits
        else:
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, places]
        logs = logits[torch.arange(len(ids)), row.to(logits.device)].to(torch.float32).log_softmax(dim=-1)
        return logs[:, self.safe].logsumexp(dim=-1), logs[:, self.unsafe].logsumexp(dim=-1)

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

        def first(words: tuple[str, ...]) -> set[int]:
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

    @torch.inference_mode()
    def _find_lead(self) -> list[int]:
        """What the model writes before its verdict, found greedily on a harmless exchange."""
        ids = self.encode(*PROBE, finished=True)["input_ids"]
        lead: list[int] = []
        while len(lead) <= LONGEST_LEAD:
            row = torch.tensor([ids + lead], device=self.model.device)
            logs = self.model(input_ids=row, use_cache=False).logits[0, -1].to(torch.float32).log_softmax(dim=-1)
            if float(logs[self.safe + self.unsafe].exp().sum()) >= SURE:
                return lead
            lead.append(int(logs.argmax()))
        raise ConfigurationError(
            f"guard {self.name!r} gives no verdict within {LONGEST_LEAD} tokens in the template "
            f"{self.template.name!r}. Name another template, or a GuardTemplate with the right lead and verdict words"
        )


def _as_text(chat_template: Any) -> str | None:
    return "\n".join(chat_template.values()) if isinstance(chat_template, dict) else chat_template
