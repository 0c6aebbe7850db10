"""A simulated fleet: requests a second against replicas, with random and with prefix-affine routing.

    python examples/scale/fleet.py

A replica is one H100 with a 7B policy and two 7B judges. Its numbers are those that `make device` measured
(docs/performance.md): a step of the policy takes what its weights take to be read until its lanes fill the arithmetic
units, prefills and judges take arithmetic. Requests arrive at random (Poisson), and share one of some long prefixes,
such as an agent's system prompt or a RAG corpus; a replica that holds the prefix does not compute it again.
"""

import heapq
import random
from collections import OrderedDict
from dataclasses import dataclass, field

STEP = 9.2e-3  # seconds of a step of 16 lanes; measured
LANES_FULL = 300  # lanes from which on a step takes arithmetic rather than memory; peak rate over bandwidth
FLOPS = 2e14  # a second, of prefills and judges; measured: 1.3e14 at N = 16 and 2.1e14 at N = 64
FLOPS_TOKEN = 2 * 6.7e9
JUDGES, N, K, ANSWER, OWN = 2, 16, 4, 128, 128  # OWN: a request's own tokens, behind the prefix
PREFIX, PREFIXES, HELD = 3000, 40, 8  # tokens of a prefix, prefixes in use, and held by a replica (1.5 GB each)


@dataclass
class Replica:
    """Requests in one batch: every round takes each of them a token further, and a share of its arithmetic.

    Attributes:
        rounds: That were done since the start.
        ends: The round at which each request ends, its number, and its seconds of arithmetic a round; a heap.
        arithmetic: Seconds of arithmetic in a round, of all requests.
        held: Prefixes whose keys and values are in memory, the oldest first.
        time: Until which it was advanced.
    """

    rounds: float = 0.0
    ends: list[tuple[float, int, float]] = field(default_factory=list)
    arithmetic: float = 0.0
    held: OrderedDict[int, None] = field(default_factory=OrderedDict)
    time: float = 0.0

    @property
    def active(self) -> int:
        """Requests."""
        return len(self.ends)

    @property
    def round(self) -> float:
        """Seconds: one step for all, which reads the weights once, and everybody's prefill and judging."""
        return STEP * max(1.0, self.active * N / LANES_FULL) + self.arithmetic

    def next_end(self) -> float:
        """When the next request ends, if none comes."""
        return self.time + (self.ends[0][0] - self.rounds) * self.round if self.ends else float("inf")

    def advance(self, now: float) -> None:
        """Let time pass in which nothing ends."""
        self.rounds += (now - self.time) / self.round
        self.time = now

    def add(self, number: int, prefix: int, *, critic: bool) -> None:
        """Take a request."""
        new = OWN + (0 if prefix in self.held else PREFIX)
        self.held[prefix] = None
        self.held.move_to_end(prefix)
        while len(self.held) > HELD:
            self.held.popitem(last=False)
        judged = new + (K if critic else N) * ANSWER
        share = (new + JUDGES * judged) * FLOPS_TOKEN / FLOPS / ANSWER
        heapq.heappush(self.ends, (self.rounds + ANSWER, number, share))
        self.arithmetic += share

    def end(self) -> int:
        """Let the next request end; its number."""
        _, number, share = heapq.heappop(self.ends)
        self.arithmetic = self.arithmetic - share if self.ends else 0.0
        return number


def simulate(rate: float, replicas: int, *, affine: bool, critic: bool, requests: int = 4000) -> tuple[float, float]:
    """Median and 95th percentile of the seconds of a request.

    Args:
        rate: Requests a second.
        replicas: Of them.
        affine: Whether a prefix goes to a replica of its own, unless that one has twice the mean's requests.
        critic: Whether a critic foresees blocks.
        requests: How many are simulated.
    """
    draw, fleet = random.Random(0), [Replica() for _ in range(replicas)]
    begun: dict[int, float] = {}
    took: list[float] = []
    now = 0.0
    for number in range(requests):
        now += draw.expovariate(rate)
        for replica in fleet:
            while (end := replica.next_end()) <= now:
                replica.advance(end)
                took.append(end - begun[replica.end()])
            replica.advance(now)
        prefix = draw.randrange(PREFIXES)
        mean = sum(each.active for each in fleet) / replicas
        chosen = fleet[prefix % replicas] if affine else draw.choice(fleet)
        if affine and chosen.active > 2 * mean + 2:
            chosen = min(fleet, key=lambda each: each.active)
        begun[number] = now
        chosen.add(number, prefix, critic=critic)
        if chosen.active > 200:
            return float("inf"), float("inf")
    took.sort()
    return took[len(took) // 2], took[len(took) * 95 // 100]


def main() -> None:
    """Print seconds of a request by requests a second and replicas."""
    print("requests/s a replica | replicas | routing | direct: median, 95 % | with critic: median, 95 %")
    for rate in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0):
        for replicas in (2, 8):
            for affine in (False, True):
                found = [simulate(rate * replicas, replicas, affine=affine, critic=critic) for critic in (False, True)]
                cells = " | ".join(
                    "overloaded" if late == float("inf") else f"{median:.1f}, {late:.1f}" for median, late in found
                )
                print(f"{rate} | {replicas} | {'affine' if affine else 'random'} | {cells}")


if __name__ == "__main__":
    main()
