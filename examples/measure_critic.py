"""How good a bundled critic is on topics that it has never met: ``python examples/measure_critic.py tiny-beaver``.

Samples answers of the policy to held-out prompts about held-out topics, 144 prompts with 16 answers each as the card
has for topics that the critic knows, and prints its figures there. ``--write`` puts them into its config and card.
"""

import argparse
import json
import tempfile
from pathlib import Path

from critic_models import bundled
from critic_models.bundled.critic_prompts import critic_prompts
from critic_models.critic import LatentCritic
from critic_models.training.card import write_card
from ig_plugins import InferenceGuard
from ig_plugins.research.rollouts import RolloutConfig, measure_critic


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", choices=["tiny-beaver", "tiny-alpaca"])
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=144)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    folder = bundled.path(f"{options.policy}-critic")
    critic = LatentCritic.from_pretrained(folder)
    guard = InferenceGuard.from_pretrained(options.policy, critic=False)
    prompts = critic_prompts("test")[: options.prompts]
    with tempfile.TemporaryDirectory() as kept:
        metrics = measure_critic(
            guard, critic, prompts, Path(kept), rollouts=RolloutConfig(responses=options.responses, batch=16)
        )
    rows = {**metrics["positions"], "any_budget": metrics["any_budget"]}
    names = ("count", "safe_share", "auc", "calibration_error", "value_r2")
    shown = {place: {name: row[name] for name in names} for place, row in rows.items()}
    print(json.dumps({**shown, "value_error": metrics["value_error"]}, indent=2))
    if options.write and critic.binding is not None:
        known = {**critic.binding.metrics, "unseen_topics": metrics}
        critic.binding = critic.binding.model_copy(update={"metrics": known})
        critic.save_pretrained(folder)
        write_card(critic, known, folder)


if __name__ == "__main__":
    main()
