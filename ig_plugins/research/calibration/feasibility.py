"""What can be promised at all, known before a single answer is generated.

Two limits are known beforehand. With n judged prompts even a spotless run only proves a rate below 1 − δ^(1/n). And
where every sample of the policy is unsafe, whoever picks among these samples must release an unsafe one or refuse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.calibration.bounds import interval, upper_bound


@dataclass(frozen=True)
class Feasibility:
    """Whether n prompts can certify a target, and the refusals that it must cost.

    Attributes:
        target: α, the unsafe rate to stay below.
        confidence: 1 − δ.
        prompts: n.
        needed: The smallest n that could certify the target, with no unsafe answer among them.
        allowed: Most unsafe answers with which n prompts still certify it; -1 if none do.
        hopeless: Share of pilot prompts of which every sample was unsafe; None without a pilot.
        hopeless_interval: Its 95 % interval.
        samples: Samples a pilot prompt.
    """

    target: float
    confidence: float
    prompts: int
    needed: int
    allowed: int
    hopeless: float | None = None
    hopeless_interval: tuple[float, float] | None = None
    samples: int = 0

    @property
    def feasible(self) -> bool:
        """Whether the prompts are enough."""
        return self.allowed >= 0

    @property
    def refusals(self) -> float | None:
        """Share of prompts that a choice among the pilot's samples must refuse to meet the target."""
        return None if self.hopeless is None else max(0.0, self.hopeless - self.target)

    def statement(self) -> str:
        """In words."""
        goal = f"an unsafe rate of at most {self.target:.2%} with {self.confidence:.0%} confidence"
        if self.feasible:
            text = f"{self.prompts} prompts can certify {goal}: up to {self.allowed} unsafe answers are allowed."
        else:
            text = (
                f"{self.prompts} prompts cannot certify {goal}, even without a single unsafe answer; "
                f"at least {self.needed} are needed."
            )
        if self.hopeless is None or self.hopeless_interval is None:
            return text
        low, high = self.hopeless_interval
        return (
            f"{text} On {self.hopeless:.1%} of the pilot prompts (95 % interval {low:.1%} to {high:.1%}) all "
            f"{self.samples} samples of the policy were unsafe: choosing among as many samples, the target costs "
            f"about {self.refusals:.1%} refusals at least."
        )


def feasibility(
    prompts: int, *, target: float, confidence: float, pilot: Sequence[Sequence[bool]] | None = None
) -> Feasibility:
    """Whether a target can be certified.

    Args:
        prompts: n, how many prompts there are to judge.
        target: α in (0, 1).
        confidence: 1 − δ in (0, 1).
        pilot: Per pilot prompt, whether each of the unguarded policy's samples is unsafe; as many samples as the
            guard has candidates, and the same number on each prompt.

    Raises:
        ConfigurationError: A target or confidence outside (0, 1), no prompts, or a ragged pilot.
    """
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigurationError(f"{name} is {value}; give a number between 0 and 1, such as 0.95 for confidence")
    if prompts < 1:
        raise ConfigurationError("no prompts to certify on; give a file with at least one")
    risk = 1 - confidence
    needed = math.ceil(math.log(risk) / math.log1p(-target))
    while needed > 1 and upper_bound(0, needed - 1, risk) <= target:  # rounding of the logarithms
        needed -= 1
    while upper_bound(0, needed, risk) > target:
        needed += 1
    allowed = -1
    while allowed + 1 <= prompts and upper_bound(allowed + 1, prompts, risk) <= target:
        allowed += 1
    report = Feasibility(target, confidence, prompts, needed, allowed)
    if not pilot:
        return report
    sizes = {len(samples) for samples in pilot}
    if len(sizes) != 1 or sizes == {0}:
        raise ConfigurationError(f"the pilot has {sorted(sizes)} samples a prompt; give the same number for each")
    hopeless = sum(all(samples) for samples in pilot)
    return Feasibility(
        target,
        confidence,
        prompts,
        needed,
        allowed,
        hopeless=hopeless / len(pilot),
        hopeless_interval=interval(hopeless, len(pilot)),
        samples=sizes.pop(),
    )
