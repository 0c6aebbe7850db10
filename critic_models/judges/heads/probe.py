"""A probe: a linear head on the policy's own hidden states after its first layers, a score for every token.

What tells an unsafe answer is the mean of its tokens' scores, not any single one: the last state of an answer knows the
next token and loses earlier ones (measured on SmolLM2, layer 16, prompts never seen: AUC 0.79 for the mean, 0.65 for
the last). A mean above a threshold θ is a sum of (score - θ) above 0, so a cost probe is a cost model with the paper's
cumulative accounting: a token costs its score less θ, and the budget is what an answer may exceed it by.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic_models.critic import tokenizer_hash
from critic_models.errors import ConfigurationError, MismatchError
from critic_models.hub import local_folder, read_tensors
from critic_models.judges.batching import ModelJudge, Row, plain_ids
from critic_models.judges.heads.text import check_kind, checked, read_head
from critic_models.judges.protocol import Kind
from critic_models.safety.budget import Accounting

CHAT = "chat"
ALONE = "{prompt}{response}"  # for base models: the text goes on
NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")  # what transformers calls the final one
ALIKE = 0.95  # least cosine of the two states; a policy in 8 or 4 bit is the same policy
CHECKED = 16  # tokens that are read to tell a policy from another


class ProbeConfig(BaseModel):
    """What config.json of a probe says.

    Attributes:
        architectures: Tells the folder from other judges' folders.
        version: Of the format; a change that old readers would misread raises it.
        kind: A cost. On the tree a reward is the last token's score, and the last state is not what tells.
        policy_id: The policy that it reads, as the user named it.
        tokenizer_hash: Of that policy's tokenizer.
        hidden_size: H.
        layer: It reads the states after so many layers, through the policy's final norm.
        template: How prompt and response become the policy's text: ``chat`` for the tokenizer's template, or a text
            with ``{prompt}`` and ``{response}``.
        threshold: θ of a cost; the mean of an answer's raw scores should not be above it.
        limit: Of the cumulative budget.
        rule: How the threshold was set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architectures: tuple[Literal["InferenceGuardProbe"]] = ("InferenceGuardProbe",)
    version: Literal[1] = 1
    kind: Literal["cost"] = "cost"
    policy_id: str
    tokenizer_hash: str
    hidden_size: int = Field(gt=0)
    layer: int = Field(gt=0)
    template: str = CHAT
    threshold: float = 0.0
    limit: float = Field(default=0.0, ge=0.0)
    rule: str = "probability one half"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that go with it."""
        return {"weight": (self.hidden_size,), "bias": (1,), "check": (self.hidden_size,)}


class Probe(ModelJudge):
    """A token judge whose body is the policy's own first layers, the same tensors and no copy of them.

    It follows the policy's tokens on a tree, so that a block costs ``layer`` of the policy's layers, or nothing where
    that is all of them and the search has their states in hand. Read by text, it costs the sum over the response so
    far, as the tree's accounting has it.

    Args:
        config: What it reads.
        tensors: As ``config.shapes()``.
        policy: The policy itself, a causal language model or its body, and the policy's tokenizer.
        **options: ``name``, ``batch_size``, ``max_tokens``, as every model judge.

    Raises:
        MismatchError: Another policy than its own.
        ModelLoadError: Tensors that do not fit the config, or are not finite.
    """

    default_accounting: Accounting = "cumulative"

    def __init__(
        self,
        config: ProbeConfig,
        tensors: dict[str, Tensor],
        *,
        policy: tuple[Any, PreTrainedTokenizerBase],
        **options: Any,
    ) -> None:
        model, tokenizer = policy
        name = options.get("name") or "probe"
        check_policy(config, model, tokenizer, source=name)
        super().__init__(first_layers(model, config.layer), tokenizer, **{**options, "name": name})
        self.config = config
        self.tensors = {
            key: t.to(self.model.device) for key, t in checked(tensors, config.shapes(), source=name).items()
        }
        self._check_states(name)
        self.policy = model
        self.default_limit = config.limit

    @property
    def body(self) -> PreTrainedModel:
        """The policy's first layers; see ``TokenJudge``."""
        return self.model

    def reads_last_states(self, policy: Any) -> bool:
        """Whether it reads this policy's states after the last layer, which whoever samples has in hand."""
        return policy is self.policy and self.config.layer == policy.get_decoder().config.num_hidden_layers

    def score_hidden(self, hidden: Tensor) -> Tensor:
        """(..., H) states to (...) float32 scores; not checked for NaN."""
        return self.raw_hidden(hidden) - self.config.threshold

    def raw_hidden(self, hidden: Tensor) -> Tensor:
        """The linear scores (...); their mean over an answer is the log-odds of unsafe."""
        return hidden.float() @ self.tensors["weight"].to(hidden.device) + self.tensors["bias"].to(hidden.device)

    def score_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) right-padded ids and mask to (B, T) float32 scores, in one plain forward."""
        hidden = self.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.score_hidden(hidden)

    def encode(self, prompt: str, response: str, *, finished: bool) -> Row:
        """The conversation as the policy writes it, its end token included where the answer is complete.

        The response's tokens are marked by the type 1.
        """
        head = prompt_ids(self.tokenizer, self.config.template, prompt)
        tail = plain_ids(self.tokenizer, response)
        if finished and self.tokenizer.eos_token_id is not None:
            tail.append(self.tokenizer.eos_token_id)
        return {"input_ids": [*head, *tail], "token_type_ids": [0] * len(head) + [1] * len(tail)}

    def read(self, ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
        """The sum of the scores of each row's response, (B,)."""
        return (self.score_tokens(ids, mask) * extra["token_type_ids"]).sum(dim=1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and head.safetensors; the policy is not part of it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = json.dumps(self.config.model_dump(mode="json"), indent=2)
        (folder / "config.json").write_text(written + "\n", encoding="utf-8")
        save_file({k: t.cpu().contiguous() for k, t in self.tensors.items()}, folder / "head.safetensors")

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        policy: tuple[Any, PreTrainedTokenizerBase] | None,
        kind: Kind | None = None,
        name: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> "Probe":
        """Loads a probe onto its policy.

        Raises:
            ModelLoadError: Not a probe of a known version, or broken weights.
            MismatchError: Another policy than its own.
            ConfigurationError: No policy was given.
        """
        folder = local_folder(path_or_id, revision=revision)
        config = read_head(ProbeConfig, folder, source=str(path_or_id))
        check_kind(config.kind, kind, source=str(path_or_id))
        if policy is None:
            raise ConfigurationError(
                f"{path_or_id} is a probe on the hidden states of {config.policy_id!r} and cannot read text without "
                "it: name it as the cost or reward model of a guard with that policy, or give "
                "load_judge(..., policy=(model, tokenizer))"
            )
        return cls(config, read_tensors(folder), policy=policy, name=name or str(path_or_id), **options)

    def _check_states(self, source: str) -> None:
        found = known_state(self.model)
        likeness = float(cosine_similarity(found, self.tensors["check"].to(found.device), dim=0))
        if not likeness >= ALIKE:
            raise MismatchError(
                f"{source} was trained on the hidden states of {self.config.policy_id!r}; this policy has the same "
                f"tokenizer and other weights (likeness {likeness:.2f} of at least {ALIKE}). Use its own policy, or "
                "train a probe for this one: inferenceguard train-judge --kind probe --model ..."
            )


def check_policy(config: ProbeConfig, model: Any, tokenizer: PreTrainedTokenizerBase, *, source: str) -> None:
    """Refuses a policy that cannot be the one that a probe was trained for, before anything is run.

    Raises:
        MismatchError: Names both sides of everything that differs.
    """
    body = model.config.get_text_config()
    sides = [
        ("hidden size", config.hidden_size, body.hidden_size),
        ("layers", f"at least {config.layer}", max(body.num_hidden_layers, 0)),
        ("tokenizer", config.tokenizer_hash, tokenizer_hash(tokenizer)),
    ]
    differ = [
        f"{what} {mine} and {found}"
        for what, mine, found in sides
        if (config.layer > found if what == "layers" else mine != found)
    ]
    if differ:
        raise MismatchError(
            f"{source} is a probe on {config.policy_id!r}, not on this policy (the probe's and the policy's "
            f"{'; '.join(differ)}). Use its own policy, or train one for this: "
            "inferenceguard train-judge --kind probe --model ..."
        )


def first_layers(model: Any, layers: int) -> PreTrainedModel:
    """The body of a decoder cut off after its first layers, final norm included; all modules are the model's own.

    Args:
        model: A causal language model, or its body.
        layers: How many to keep.

    Raises:
        ConfigurationError: More layers than there are, or an anatomy without one list of layers.
    """
    body = model.get_decoder()
    config = copy.deepcopy(body.config)
    stacks = [
        name
        for name, child in body.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers
    ]
    if len(stacks) != 1:
        raise ConfigurationError(f"{type(body).__name__} has no single list of decoder layers that a probe could cut")
    if not 0 < layers <= config.num_hidden_layers:
        raise ConfigurationError(f"layer is {layers}; {type(body).__name__} has 1 to {config.num_hidden_layers}")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    with torch.device("meta"):
        cut = type(body)(config)
    for name, child in body.named_children():
        setattr(cut, name, nn.ModuleList(child[:layers]) if name == stacks[0] else child)
    return cut.eval()


def normed_states(body: Any, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """The states (B, T, H) that ``first_layers`` would give, for several of the body's layers in one forward.

    Raises:
        ConfigurationError: An intermediate layer of a body whose final norm goes by no known name.
    """
    norm = next((getattr(body, name) for name in NORMS if hasattr(body, name)), None)
    last = body.config.num_hidden_layers
    if norm is None and set(layers) != {last}:
        raise ConfigurationError(f"{type(body).__name__} has no final norm under {', '.join(NORMS)}; use layer {last}")
    states = body(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
    return {layer: states[layer] if layer == last or norm is None else norm(states[layer]) for layer in layers}


@torch.inference_mode()
def known_state(body: Any) -> Tensor:
    """The last state (H,) of a fixed row of ids, by which a policy is told from another one of its shape."""
    ids = torch.arange(3, 3 + CHECKED, device=body.device).remainder(body.config.vocab_size).unsqueeze(0)
    return body(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()  # type: ignore[no-any-return]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: str, prompt: str) -> list[int]:
    """The policy's prompt up to where its answer begins.

    Raises:
        ConfigurationError: ``chat`` without a chat template, or a text without both places.
    """
    if template == CHAT:
        if not tokenizer.chat_template:
            raise ConfigurationError("template is 'chat', but the policy's tokenizer has no chat template")
        messages = [{"role": "user", "content": prompt}]
        encoded = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True, sanitize_control_tokens=True
        )
        return list(encoded["input_ids"])
    before, found, after = template.partition("{response}")
    if not found or after or before.count("{prompt}") != 1:
        raise ConfigurationError(f"template is {template!r}; it must hold {{prompt}} once and end with {{response}}")
    return plain_ids(tokenizer, before.replace("{prompt}", prompt), special=True)
