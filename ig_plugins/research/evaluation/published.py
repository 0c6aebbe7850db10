"""The paper's own figures (arXiv 2502.01208 v1, Table 2, PKU-SafeRLHF test prompts). Published, not reproduced here."""

from typing import NamedTuple

SOURCE = "arXiv 2502.01208 v1, Table 2 (7B models, PKU-SafeRLHF test prompts); as published, not reproduced here"

# With the real checkpoints at hand and a GPU, this runs the same methods on the same kind of prompts.
COMMAND = (
    "inferenceguard evaluate --model beaver-7b-v3 --prompts pku-safe-rlhf-test.jsonl "
    "--methods base,bon-augmented,beam-augmented,inferenceguard,inferenceguard-critic --candidates 128 --out beaver"
)


class PublishedRow(NamedTuple):
    """One row of the paper's table."""

    policy: str
    method: str
    reward: float
    cost: float
    safety_percent: float
    seconds: float


ROWS = (
    PublishedRow("Alpaca-7B", "base", 6.15, 1.33, 29.47, 1.1),
    PublishedRow("Alpaca-7B", "best-of-N, Lagrangian, N 500, λ 5", 6.04, -1.27, 52.17, 145),
    PublishedRow("Alpaca-7B", "best-of-N, augmented, N 500", 7.78, 0.42, 65.74, 145),
    PublishedRow("Alpaca-7B", "beam, augmented, N 128", 8.29, 0.64, 58.89, 39),
    PublishedRow("Alpaca-7B", "RE-Control", 6.2, 1.33, 29.5, 1.7),
    PublishedRow("Alpaca-7B", "ARGS", 6.74, 1.47, 28.19, 82),
    PublishedRow("Alpaca-7B", "ARGS, Lagrangian", 3.21, -0.85, 75.8, 111),
    PublishedRow("Alpaca-7B", "ARGS, cost model", 0.19, -2.21, 81.6, 78),
    PublishedRow("Alpaca-7B", "InferenceGuard", 7.08, -0.63, 88.14, 65),
    PublishedRow("Alpaca-7B", "InferenceGuard with critic", 6.81, -1.01, 91.04, 71),
    PublishedRow("Beaver-7B-v3", "base", 5.83, -2.89, 75.89, 1.2),
    PublishedRow("Beaver-7B-v3", "best-of-N, augmented, N 200", 9.01, -2.98, 97.76, 58),
    PublishedRow("Beaver-7B-v3", "beam, augmented, N 128", 10.31, -2.94, 97.36, 39),
    PublishedRow("Beaver-7B-v3", "InferenceGuard", 10.26, -2.96, 99.7, 39),
    PublishedRow("Beaver-7B-v3", "InferenceGuard with critic", 10.27, -2.94, 100.0, 39),
)
