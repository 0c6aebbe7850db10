"""Base, best-of-N and block beam search, the latter two with each rule of selection."""

from ig_plugins.research.methods.base import Method, register
from ig_plugins.research.methods.blocks import BlockMethod
from ig_plugins.research.methods.context import Context
from ig_plugins.research.methods.rules import RULES, rule

_SAYS = {
    "reward": "the highest reward",
    "lagrangian": "reward - λ·cost",
    "augmented": "reward where z is safe, else -n",
}


@register("base", "one sample of the policy", searches=False)
def base(context: Context) -> Method:
    """One lane, nothing to choose."""
    longest = context.search.max_new_tokens
    return BlockMethod(context, lambda lanes: [0.0] * len(lanes), lanes=1, beams=1, block=longest, judged=False)


def _register(name: str) -> None:
    @register(f"bon-{name}", f"best of N whole answers by {_SAYS[name]}")
    def best_of_n(context: Context) -> Method:
        search = context.search
        return BlockMethod(context, rule(name, context), lanes=search.candidates, beams=1, block=search.max_new_tokens)

    @register(f"beam-{name}", f"block beam search by {_SAYS[name]}")
    def beam(context: Context) -> Method:
        search = context.search
        return BlockMethod(
            context, rule(name, context), lanes=search.candidates, beams=search.beams, block=search.block_tokens
        )


for _name in RULES:
    _register(_name)
