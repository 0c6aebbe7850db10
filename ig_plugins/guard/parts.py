"""What a guard is made of: the policy, the judges with their budgets, and the critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from critic_models.judges import Judge, TokenJudge
from ig_plugins.chat import PromptFormat
from ig_plugins.engine import TreeModel
from ig_plugins.safety import SafetyBudget
from ig_plugins.search import BlockSearch, Capacity, CriticScoring, DirectScoring, Policy, Row, Step, TextVerifier
from ig_plugins.search.follow import Follower, TextFollower, TreeFollower

if TYPE_CHECKING:
    from critic_models.latent import LatentCritic


@dataclass(eq=False)
class Parts:
    """Loaded models, shared by all guards and requests that use them.

    Attributes:
        policy: The guarded model.
        prompt_format: How conversations become its tokens.
        costs: The cost models, by name.
        budgets: Their budgets, unless a request says otherwise.
        reward: Ranks safe answers; None takes the first safe one.
        critic: Foresees safety and reward; None lets the judges score partial texts.
        names: Where each part came from, for identities and certificates.
        judge_trees: Token trees of judges, attached once.
    """

    policy: Policy
    prompt_format: PromptFormat
    costs: Mapping[str, Judge]
    budgets: tuple[SafetyBudget, ...]
    reward: Judge | None = None
    critic: LatentCritic | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    judge_trees: dict[int, TreeModel] = field(default_factory=dict)

    def start_search(self, capacity: Capacity, on_release: Callable[[Row, Step], None]) -> BlockSearch:
        """A search over these parts; see `runtime.Engine`."""
        costs = [self._follower(judge, capacity, cost=index) for index, judge in enumerate(self.costs.values())]
        reward = self._follower(self.reward, capacity) if self.reward else None
        verifier = TextVerifier(list(self.costs.values()))
        scoring: DirectScoring | CriticScoring
        if self.critic is None:
            scoring = DirectScoring(costs, reward, verifier=verifier)
        else:
            detokenizer = self.policy.detokenizer
            scoring = CriticScoring(
                self.critic, costs, reward, verifier=verifier, detokenizer=detokenizer, optimism=self.critic.value_error
            )
        return BlockSearch(self.policy, scoring, capacity=capacity, on_release=on_release)

    def _follower(self, judge: Judge, capacity: Capacity, *, cost: int | None = None) -> Follower:
        if not self.on_tree(judge):
            return TextFollower(judge, cost=cost)
        if id(judge) not in self.judge_trees:
            self.judge_trees[id(judge)] = TreeModel.attach(judge.body)
        whole = self.critic is not None  # with a critic, finalists are read from the released step in one go
        return TreeFollower(
            judge,
            self.judge_trees[id(judge)],
            lanes=capacity.lanes,
            block=capacity.max_new if whole else capacity.block,
            max_new=capacity.max_new,
        )

    def on_tree(self, judge: Judge) -> bool:
        """Whether a judge can read the policy's own tokens: it scores tokens, and the vocabularies are the same."""
        if not isinstance(judge, TokenJudge):
            return False
        return bool(judge.tokenizer.get_vocab() == self.policy.tokenizer.get_vocab())
