"""The same calls without a fault, and what they give; type checkers must have nothing to say."""

from typing_extensions import assert_type

from inferenceguard import GuardResult, InferenceGuard, SafetyBudget
from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM

guard = InferenceGuard.from_pretrained("tiny-beaver", budget=SafetyBudget(limit=3.0), stop="\n", schedule=[8, 4])
assert_type(guard.generate("x", candidates=4), GuardResult)
assert_type(guard.generate(["x", "y"], temperature=0.0, budget=[1.0]), list[GuardResult])
assert_type(guard.generate(["x"], return_exceptions=True), list[GuardResult | Exception])
guard.with_options(on_block="raise", seed=None, narrow_candidates=2)
InferenceGuardLLM(model="tiny-beaver", candidates=3, max_lag=0, stop=["\n"], raw_prompt=True)
ChatInferenceGuard(model="tiny-beaver", selection="hedged", retry_penalty=1.0, max_tokens=5, streaming=True)
guard.stream("x", max_new_tokens=3)


async def ask() -> None:
    assert_type(await guard.agenerate("x", seed=1), GuardResult)
    assert_type(await guard.agenerate(["x"]), list[GuardResult])
    assert_type(await guard.agenerate(["x"], return_exceptions=True), list[GuardResult | Exception])
