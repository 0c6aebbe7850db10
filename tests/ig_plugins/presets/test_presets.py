"""Every preset loads, says under which licence, and is found or missed by name with a useful message."""

import pytest

from critic_models.safety import SafetyBudget
from ig_plugins import presets
from ig_plugins.errors import ConfigurationError
from ig_plugins.presets import Checkpoint, Installed, find_installed, read

GOOD = """
name = "mine"
description = "My own."
[policy]
source = "some/policy"
licence = "MIT"
[cost]
source = "some/cost"
licence = "MIT"
[reward]
source = "some/reward"
licence = "MIT"
"""


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_loads_and_is_complete(name):
    preset = presets.preset(name)
    assert preset.name == name
    assert preset.description.endswith(".")
    parts = [preset.policy, *preset.costs, *([preset.reward] if preset.reward else []), *preset.variants.values()]
    parts += [preset.critic] if preset.critic else []
    assert all(part.licence for part in parts)
    assert all(part.source.startswith("bundled:") or part.source.count("/") == 1 for part in parts)
    if name == "smollm2-135m":
        words, probe = (cost.budget for cost in preset.costs)
        assert words == SafetyBudget(accounting="worst", limit=0.264, discount=1.0)
        assert probe == "own"  # the probe belongs to this policy, and is saved with the threshold for it
        assert preset.prompt_format == "chat_template"
    else:
        assert preset.cost.budget == SafetyBudget(limit=10.0, discount=0.999)  # the paper's
        assert preset.prompt_format == "beaver"
    for variant in preset.variants:
        other = presets.preset(f"{name}:{variant}")
        assert other.reward == preset.variants[variant]
        assert (other.policy, other.cost) == (preset.policy, preset.cost)


def test_the_names_that_are_promised():
    assert {"tiny-alpaca", "tiny-beaver", "alpaca-7b", "beaver-7b-v3"} <= set(presets.names())
    assert presets.names()[0].startswith("tiny-")


def test_no_such_preset_or_variant():
    with pytest.raises(ConfigurationError, match=r"no preset 'beaver'; there are tiny-alpaca, tiny-beaver, alpaca-7b"):
        presets.preset("beaver")
    with pytest.raises(ConfigurationError, match=r"'beaver-7b-v3' has no variant 'papre'; its variants: paper"):
        presets.preset("beaver-7b-v3:papre")
    with pytest.raises(ConfigurationError, match=r"'tiny-beaver' has no variant 'x'; its variants: none"):
        presets.preset("tiny-beaver:x")


def test_a_preset_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert read(path).search.candidates == 16
    for text, message in [
        (GOOD + 'colour = "red"', "reward.colour is 'red': Extra inputs are not permitted"),
        (GOOD.replace('licence = "MIT"', "", 1), "policy.licence: Field required"),
        (GOOD + "[search]\nbeams = 99", "beams is 99 and candidates 16"),
        (GOOD.replace("[cost]", "[cost]\nbudget = { limit = -1 }"), "cumulative budget limit is -1"),
        ("name = ", "is not TOML"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            read(path)
    with pytest.raises(ConfigurationError, match=r"cannot read the preset .*nowhere.toml: No such file"):
        read(tmp_path / "nowhere.toml")


def test_a_checkpoint_inside_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('a package of weights is never imported')")
    checkpoint = Checkpoint(
        source="org/name",
        licence="MIT",
        installed=Installed(requirement="some-weights==1.0", file="some_weights/weights/tiny.gguf"),
    )
    assert find_installed(checkpoint) is None
    monkeypatch.syspath_prepend(tmp_path)
    assert find_installed(checkpoint) is None  # the package is there, its file is not
    (package / "weights").mkdir()
    (package / "weights" / "tiny.gguf").write_text("")
    assert find_installed(checkpoint) == package / "weights" / "tiny.gguf"
    assert find_installed(Checkpoint(source="org/name", licence="MIT")) is None


def test_several_cost_models_in_one_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + '[[more_costs]]\nsource = "some/other"\nlicence = "MIT"\nbudget = "own"\n')
    assert [cost.source for cost in read(path).costs] == ["some/cost", "some/other"]
    assert [cost.budget for cost in read(path).costs] == [SafetyBudget(), "own"]
