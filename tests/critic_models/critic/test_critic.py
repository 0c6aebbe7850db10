import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from critic_models.critic import CriticBinding, CriticConfig, CriticCost, LatentCritic, tokenizer_hash
from critic_models.errors import ConfigurationError, MismatchError, ModelLoadError

CUMULATIVE = CriticCost(accounting="cumulative", lowest=2.5, highest=40.0, discount=0.999, scales=(2.5, 10.0, 40.0))
WORST = CriticCost(accounting="worst", lowest=0.0, highest=0.0, scales=(0.5,))
BINDING = CriticBinding(policy_id="tiny-beaver", tokenizer_hash="abc", metrics={"auc": 0.93}, command="train")
GUARD = {
    "policy_id": "tiny-beaver", "hidden_size": 12, "tokenizer_hash": "abc",
    "accounting": ["cumulative", "worst"], "limits": [10.0, 0.0],
    "discounts": [0.999, 0.5], "readings": ["any_time", "terminal"],  # the worst case knows neither
}  # fmt: skip


def make(*costs, seed=0, binding=BINDING, **options):
    torch.manual_seed(seed)
    critic = LatentCritic(
        CriticConfig(hidden_size=12, width=16, costs=costs or (CUMULATIVE, WORST), **options), binding
    )
    for parameter in critic.parameters():  # far from the tame start, so that properties are tested on any weights
        torch.nn.init.normal_(parameter, std=0.7)
    return critic.eval()


def test_shapes_follow_the_hidden_states():
    critic = make()
    for shape in ((), (3,), (2, 5)):
        logit, value = critic(torch.randn(*shape, 12), torch.full((*shape, 2), math.inf))
        assert logit.shape == value.shape == shape
        assert logit.isfinite().all()
        assert value.isfinite().all()
        assert logit.dtype == value.dtype == torch.float32


def test_half_precision_hidden_states_and_double_states_are_taken():
    critic, hidden = make(), torch.randn(4, 12)
    wanted = critic(hidden.bfloat16().float(), torch.ones(4, 2))[0]
    assert torch.equal(critic(hidden.bfloat16(), torch.ones(4, 2, dtype=torch.float64))[0], wanted)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 5),
    z=st.lists(st.floats(-200, 200), min_size=2, max_size=2),
    more=st.one_of(st.floats(0, 300), st.just(math.inf)),
    which=st.integers(0, 1),
)
def test_more_unspent_budget_is_never_less_safe(seed, z, more, which):
    critic = make(seed=seed)
    hidden = torch.randn(7, 12, generator=torch.Generator().manual_seed(seed))
    low = torch.tensor(z).expand(7, 2).clone()
    high = low.clone()
    high[:, which] += more
    with torch.no_grad():
        assert (critic(hidden, high)[0] >= critic(hidden, low)[0] - 1e-5).all()


@settings(max_examples=60, deadline=None)
@given(z=st.floats(allow_nan=False), more=st.floats(0, 100))
def test_the_squashed_state_is_bounded_and_rises(z, more):
    critic = make(CUMULATIVE)
    low, high = critic.squash(torch.tensor([z])), critic.squash(torch.tensor([z + more]))
    assert -1 <= low.item() <= high.item() <= 1


def test_the_squashed_state_tells_small_states_apart_at_once_and_large_ones_still():
    squash = make(CUMULATIVE).squash
    points = squash(torch.tensor([[-5.0], [-0.1], [0.0], [0.1], [1.0], [5.0], [20.0], [60.0], [math.inf]])).flatten()
    assert (points.diff() > 1e-3).all()
    assert points[2] == 0
    assert points[-1] == 1


def test_a_nan_state_stays_nan_so_that_nothing_takes_it_for_safe():
    logit, _ = make(CUMULATIVE)(torch.randn(12), torch.tensor([math.nan]))
    assert logit.isnan()


def test_the_value_does_not_depend_on_the_budget():
    critic, hidden = make(), torch.randn(5, 12)
    assert torch.equal(critic(hidden, torch.ones(5, 2))[1], critic(hidden, -torch.ones(5, 2))[1])


def test_save_and_load_give_the_same_critic(tmp_path):
    critic = make(depth=2, units=3)
    critic.held_out_error.fill_(1.25)
    critic.hidden_mean.normal_()
    critic.save_pretrained(tmp_path)
    again = LatentCritic.from_pretrained(str(tmp_path))
    hidden, state = torch.randn(4, 12), torch.tensor([[1.0, math.inf]]).expand(4, 2)
    for mine, theirs in zip(critic(hidden, state), again(hidden, state), strict=True):
        assert torch.equal(mine, theirs)
    assert (again.config, again.binding, again.value_error) == (critic.config, critic.binding, 1.25)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_an_unbound_critic_is_neither_saved_nor_used(tmp_path):
    critic = make(binding=None)
    with pytest.raises(ConfigurationError, match="bound to no policy"):
        critic.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="bound to no policy"):
        critic.check(**GUARD)


def test_a_guard_it_was_trained_for_passes():
    make().check(**GUARD)
    make().check(**{**GUARD, "limits": (40.0, 0.0), "policy_revision": "main"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy_id": "tiny-alpaca"}, "policy: critic 'tiny-beaver', guard 'tiny-alpaca'"),
        ({"hidden_size": 4096}, "hidden size: critic 12, guard 4096"),
        ({"tokenizer_hash": "def"}, "tokenizer: critic 'abc', guard 'def'"),
        (
            {"accounting": ["worst", "worst"]},
            r"accounting: critic \['cumulative', 'worst'\], guard \['worst', 'worst'\]",
        ),
        ({"accounting": ["cumulative"], "limits": [10.0]}, r"guard \['cumulative'\]"),
        ({"limits": [100.0, 0.0]}, "budget limit: critic 2.5 to 40, guard 100"),
        ({"limits": [10.0, 0.5]}, "budget limit: critic 0 to 0, guard 0.5"),
        ({"discounts": [1.0, 1.0]}, "discount and reading: critic 0.999, any_time, guard 1, any_time"),
        ({"readings": ["terminal"] * 2}, "discount and reading: critic 0.999, any_time, guard 0.999, terminal"),
        ({"layer": 3}, "layer: critic -1, guard 3"),
    ],
)
def test_a_mismatch_names_both_sides_and_what_next(change, message):
    with pytest.raises(MismatchError, match=f"{message}.*train-critic"):
        make().check(**{**GUARD, **change})


def test_revisions_are_compared_and_a_critic_that_was_saved_without_one_fits_any():
    make().check(**GUARD, policy_revision="v2")
    critic = make(binding=BINDING.model_copy(update={"policy_revision": "v1"}))
    critic.check(**GUARD, policy_revision="v1")
    with pytest.raises(MismatchError, match="revision: critic 'v1', guard 'v2'"):
        critic.check(**GUARD, policy_revision="v2")
    with pytest.raises(MismatchError, match="revision: critic 'v1', guard None"):
        critic.check(**GUARD)  # the default branch, which may be anything


def test_every_cost_has_its_own_reading_and_one_saved_for_all_is_that_of_each(tmp_path):
    terminal = CUMULATIVE.model_copy(update={"reading": "terminal"})
    make(terminal, CUMULATIVE).save_pretrained(tmp_path)
    assert [cost.reading for cost in LatentCritic.from_pretrained(tmp_path).config.costs] == ["terminal", "any_time"]

    def as_it_was_saved(raw):
        raw["critic"]["reading"] = "terminal"
        for cost in raw["critic"]["costs"]:
            del cost["reading"]

    edit_config(tmp_path, as_it_was_saved)
    assert [cost.reading for cost in LatentCritic.from_pretrained(tmp_path).config.costs] == ["terminal"] * 2
    edit_config(tmp_path, lambda raw: raw["critic"].pop("reading"))
    assert [cost.reading for cost in LatentCritic.from_pretrained(tmp_path).config.costs] == ["any_time"] * 2
    given = CriticConfig(hidden_size=12, costs=(CUMULATIVE,), reading="terminal")
    assert given.costs[0].reading == "terminal"


def test_the_tokenizer_hash_sees_every_token(byte_tokenizer):
    assert tokenizer_hash(byte_tokenizer()) == tokenizer_hash(byte_tokenizer("a template changes no token"))
    other = byte_tokenizer()
    other.add_tokens(["new"])
    assert tokenizer_hash(other) != tokenizer_hash(byte_tokenizer())


def edit_config(folder, change):
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (folder / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format=2), "not that of a critic in format 1"),
        (lambda raw: raw.update(extra=1), "not that of a critic"),
        (lambda raw: raw.pop("binding"), "not that of a critic"),
        (lambda raw: raw["critic"].update(reading="sometimes"), "reading is .*: Input should be"),
        (lambda raw: raw["critic"].update(costs=3, reading="terminal"), "costs is .*: "),
        (lambda raw: raw["critic"].update(colour="red"), "colour is 'red': Extra inputs"),
        (lambda raw: raw["critic"]["costs"][0].update(lowest=-1.0), "cumulative budgets start above 0"),
        (lambda raw: raw["critic"]["costs"][1].update(highest=1.0), "serves one limit"),
        (lambda raw: raw["critic"]["costs"][0].update(scales=[0.0]), "above 0"),
        (lambda raw: raw["critic"]["costs"][0].update(highest=float("nan")), "finite number"),
        (lambda raw: raw["binding"].pop("policy_id"), "policy_id: Field required"),
        (lambda raw: raw["critic"].update(width=17), r"is \(16.*asks for \(17"),
        (lambda raw: raw["critic"].update(depth=0), "unknown"),
    ],
)
def test_bad_configs_are_refused(tmp_path, change, message):
    make().save_pretrained(tmp_path)
    edit_config(tmp_path, change)
    with pytest.raises(ModelLoadError, match=message):
        LatentCritic.from_pretrained(tmp_path)


def test_bad_weights_are_refused(tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "value.bias": torch.tensor([math.nan])}, path)
    with pytest.raises(ModelLoadError, match=r"value\.bias holds NaN"):
        LatentCritic.from_pretrained(tmp_path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "value.bias"}, path)
    with pytest.raises(ModelLoadError, match=r"lack \['value\.bias'\]"):
        LatentCritic.from_pretrained(tmp_path)
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ModelLoadError, match="truncated or corrupt"):
        LatentCritic.from_pretrained(tmp_path)
    path.rename(tmp_path / "critic.pt")
    with pytest.raises(ModelLoadError, match=r"pickled weights \(critic\.pt\)"):
        LatentCritic.from_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="is not a folder"):
        LatentCritic.from_pretrained(tmp_path / "nowhere")


def test_push_to_hub_uploads_the_checkpoint_and_its_card(monkeypatch, tmp_path):
    uploads = []

    class Hub:
        def create_repo(self, repo_id, *, private, exist_ok):
            assert exist_ok
            return type("Url", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
            uploads.append(
                (
                    repo_id,
                    LatentCritic.from_pretrained(folder_path).value_error,
                    sorted(p.name for p in tmp_path.iterdir()),
                )
            )
            return type("Commit", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr("critic_models.critic.critic.HfApi", Hub)
    assert make().push_to_hub("critic") == "https://hub/commit"
    (tmp_path / "README.md").write_text("card")
    make().push_to_hub("critic", folder=tmp_path)
    assert uploads == [("me/critic", 0.0, []), ("me/critic", 0.0, ["README.md", "config.json", "model.safetensors"])]


def test_a_critic_that_recalls_reads_the_mean_hidden_state_beside_the_last(tmp_path):
    critic, hidden, state = make(recalls=True), torch.randn(5, 12), torch.ones(5, 2)
    one, other = critic(hidden, state, hidden), critic(hidden, state, torch.randn(5, 12))
    assert not torch.allclose(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    with pytest.raises(ConfigurationError, match="give it as `mean_hidden`"):
        critic(hidden, state)
    critic.save_pretrained(tmp_path)
    assert torch.equal(LatentCritic.from_pretrained(tmp_path)(hidden, state, hidden)[1], one[1])
