import sys

import pytest

from critic_models.errors import ConfigurationError
from critic_models.judges import CallableJudge, load_judge
from critic_models.judges.named import is_function_name

SOURCE = """
WORDS = "knife"

def unsafe(prompts, responses):
    return [float(WORDS in text) for text in responses]

class Own:
    name, default_accounting, default_limit, default_discount = "own", "worst", 0.5, 1.0

    def score(self, prompts, responses, *, finished=None):
        return [0.25] * len(responses)

own = Own()
"""


@pytest.fixture
def judges_file(tmp_path, monkeypatch):
    path = tmp_path / "my_judges.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("my_judges", None)


def test_a_function_is_found_by_module_and_by_file(judges_file):
    for name in ("my_judges:unsafe", f"{judges_file}:unsafe"):
        judge = load_judge(name, kind="cost", name=name)
        assert isinstance(judge, CallableJudge)
        assert judge.name == name
        assert judge.score(["a", "b"], ["a knife", "a spoon"]) == [1.0, 0.0]


def test_an_object_with_the_protocol_keeps_its_own_limit(judges_file):
    judge = load_judge(f"{judges_file}:own", kind="cost")
    assert (judge.name, judge.default_limit, judge.score(["p"], ["r"])) == ("own", 0.5, [0.25])


def test_names_of_other_things_are_not_taken_for_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert not any(
        map(is_function_name, ["org/model", "org/model:file.gguf", "beaver-7b-v3:paper", "a:b", "C:/models"])
    )
    assert is_function_name("package.module:function")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:unsafe", r"no module 'no_such_module' can be imported; check the spelling, PYTHONPATH, or"),
        ("my_judges:saef", "there is no saef; it defines Own, unsafe"),
        ("my_judges:WORDS", "is a text, not a function"),
        ("nowhere/judges.py:unsafe", r"no file at nowhere.judges\.py"),
    ],
)
def test_what_is_wrong_is_named(name, message, judges_file):
    with pytest.raises(ConfigurationError, match=message):
        load_judge(name, kind="cost")


def test_code_that_fails_while_it_is_read_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("raise ValueError('no licence')")
    with pytest.raises(ConfigurationError, match="failed with ValueError: no licence"):
        load_judge(f"{tmp_path / 'broken.py'}:f", kind="cost")
