"""What a guard is made of: the policy, the judges with their budgets, and the critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from critic_models.judges import Judge, TokenJudge
from critic_models.judges.heads import Probe
from critic_models.safety import SafetyBudget
from ig_plugins.chat import PromptFormat
from ig_plugins.engine import TreeModel
from ig_plugins.search import BlockSearch, Capacity, CriticScoring, DirectScoring, Policy, Row
from ig_plugins.search.scoring.judge_session import Call, JudgeSession, TextJudgeSession, TreeJudgeSession
from ig_plugins.search.scoring.state_session import StateJudgeSession

if TYPE_CHECKING:
    from critic_models.critic import LatentCritic


@dataclass(eq=False)
class Components:
    """Loaded models, shared by all guards and requests that use them.

    Attributes:
        policy: The guarded model.
        prompt_format: How conversations become its tokens.
        costs: The cost models, by name.
        budgets: Their budgets, unless a request says otherwise.
        reward: Ranks safe answers; None for fair draws among them.
        critic: Foresees safety and reward; None lets the judges score partial texts.
        names: Where each part came from, for identities and certificates.
        recipe: What `InferenceGuard.from_pretrained` was asked to load; None for parts that were put together.
        judge_trees: The judges' models on token trees, by the judge's id; None where it reads text.
    """

    policy: Policy
    prompt_format: PromptFormat
    costs: Mapping[str, Judge]
    budgets: tuple[SafetyBudget, ...]
    reward: Judge | None = None
    critic: LatentCritic | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    recipe: Mapping[str, Any] | None = None
    judge_trees: dict[int, TreeModel | None] = field(default_factory=dict)
    _plain: dict[str, Components] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for judge in self.judges:
            self.judge_tree(judge)

    @property
    def remote(self) -> bool:
        """Whether a server samples; see `runtime.Engine`."""
        return self.policy.remote

    @property
    def judges(self) -> list[Judge]:
        """The cost models, then the reward model."""
        return [*self.costs.values(), *([self.reward] if self.reward else [])]

    @property
    def context(self) -> int | None:
        """The longest sequence that the policy and all judges on its tokens can read; None for no limit."""
        trees = [self.policy.tree, *(tree for judge in self.judges if (tree := self.judge_tree(judge)))]
        return min((tree.context for tree in trees if tree.context is not None), default=None)

    @property
    def context_note(self) -> str:
        """Why the context ends where it does, if that is not the models' own end; see `TreeModel.context_note`."""
        trees = [self.policy.tree, *(tree for judge in self.judges if (tree := self.judge_tree(judge)))]
        return next((tree.context_note for tree in trees if tree.context == self.context), "")

    def start_search(self, capacity: Capacity, *, on_release: Callable[[Row, str], None], call: Call) -> BlockSearch:
        """A search over these parts; see `runtime.Engine`."""
        costs, reward = self.judge_sessions(capacity, call=call)
        if self.critic is None:  # with one, few lanes are read
            costs = [self._sharing(session) for session in costs]
        scoring: DirectScoring | CriticScoring
        if self.critic is None:
            scoring = DirectScoring(costs, reward)
        else:
            scoring = CriticScoring(self.critic, costs, reward, optimism=self.critic.value_error)
        keep = any(isinstance(session, StateJudgeSession) for session in costs)
        return BlockSearch(self.policy, scoring, capacity=capacity, on_release=on_release, keep_states=keep)

    def _sharing(self, session: JudgeSession) -> JudgeSession:
        """The session of a probe that reads the policy's last states, which the search has in hand; else as it is."""
        if not isinstance(session, TreeJudgeSession) or not isinstance(judge := session.judge, Probe):
            return session
        shared = judge.reads_last_states(self.policy.engine.body.model)
        return StateJudgeSession(session.judge) if shared else session

    def judge_sessions(
        self, capacity: Capacity, *, call: Call | None = None
    ) -> tuple[list[JudgeSession], JudgeSession | None]:
        """Fresh sessions of the cost models, in order, and of the reward model; ``call`` asks judges of texts."""
        costs = [self._judge_session(judge, capacity, call=call) for judge in self.costs.values()]
        return costs, self._judge_session(self.reward, capacity, call=call) if self.reward else None

    def serving(self, budgets: Sequence[SafetyBudget]) -> Components:
        """These parts, or the same without the critic where it was not trained for such budgets.

        The search is then as safe and slower; a critic's guess about a budget that it never met is worth nothing.
        """
        if self.critic is None or serves(self.critic, budgets):
            return self
        # One for all, and no lock, which a fork could leave locked.
        return self._plain.get("plain") or self._plain.setdefault("plain", replace(self, critic=None))

    def judge_tree(self, judge: Judge) -> TreeModel | None:
        """The judge's model on token trees, attached once; None for judges that read text.

        A judge can read the policy's own tokens if it scores tokens and both vocabularies are the same.
        """
        if id(judge) not in self.judge_trees:
            tree = None
            if isinstance(judge, TokenJudge) and judge.tokenizer.get_vocab() == self.policy.tokenizer.get_vocab():
                tree = TreeModel.attach(judge.body)
            self.judge_trees[id(judge)] = tree
        return self.judge_trees[id(judge)]

    def _judge_session(self, judge: Judge, capacity: Capacity, *, call: Call | None = None) -> JudgeSession:
        tree = self.judge_tree(judge)
        if tree is None or not isinstance(judge, TokenJudge):
            return TextJudgeSession(judge, call=call)
        # With a critic, finalists are read from the released step in one go.
        block = capacity.block if self.critic is None else capacity.max_new
        return TreeJudgeSession(judge, tree, lanes=capacity.lanes, block=block, max_new=capacity.max_new)


def serves(critic: LatentCritic, budgets: Sequence[SafetyBudget]) -> bool:
    """Whether a critic was trained for these budgets, counted like this; one that states no costs serves all."""
    costs = getattr(getattr(critic, "config", None), "costs", ())
    if not costs:
        return True
    return len(costs) == len(budgets) and all(
        cost.serves(budget.limit)
        and cost.counts(accounting=budget.accounting, discount=budget.discount, reading=budget.reading)
        for cost, budget in zip(costs, budgets, strict=True)
    )
