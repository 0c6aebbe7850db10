"""Six misspelt names and wrong values, each in a line of its own; `test_misspelt` has type checkers read this."""

from inferenceguard import InferenceGuard
from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM

guard = InferenceGuard.from_pretrained("tiny-beaver", temperature=0.5, on_block="raise")

guard.generate("x", candiates=4)  # fault: name
guard.generate(["x", "y"], temperature="hot")  # fault: value
guard.with_options(on_block="rase")  # fault: value
InferenceGuardLLM(model="tiny-beaver", candidats=3)  # fault: name
ChatInferenceGuard(model="tiny-beaver", selection="bets")  # fault: value
guard.stream("x", max_tokns=3)  # fault: name
