"""What can be imported, with and without the frameworks."""

import subprocess
import sys
import textwrap

import pytest

import langchain_inferenceguard


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)


def test_the_public_names_are_there():
    for name in langchain_inferenceguard.__all__:
        assert getattr(langchain_inferenceguard, name)
    assert langchain_inferenceguard.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="Gard"):
        _ = langchain_inferenceguard.Gard


@pytest.mark.parametrize(
    ("missing", "statement", "extra"),
    [
        ("langchain_core", "import langchain_inferenceguard", "inferenceguard[langchain]"),
        ("langchain", "from langchain_inferenceguard import InferenceGuardMiddleware", "inferenceguard[agents]"),
        ("langchain", "import langchain_inferenceguard.middleware", "inferenceguard[agents]"),
    ],
)
def test_a_missing_framework_is_named_with_the_command_that_installs_it(missing, statement, extra):
    result = run(f"import sys; sys.modules[{missing!r}] = None; {statement}")
    assert result.returncode == 1
    assert f'pip install "{extra}"' in result.stderr.splitlines()[-1]


def test_the_models_need_no_langchain_but_its_core():
    result = run(
        "import sys; sys.modules['langchain'] = None; import langchain_inferenceguard as l; l.ChatInferenceGuard()"
    )
    assert result.returncode == 0, result.stderr


def test_making_a_model_loads_nothing():
    result = run(
        """
        import sys
        import langchain_inferenceguard as l
        for cls in (l.ChatInferenceGuard, l.InferenceGuardLLM):
            made = cls(model="beaver-7b-v3", temperature=0.5)
            assert not made.is_loaded
            str(made), repr(made)
            assert not made.is_loaded
        """
    )
    assert result.returncode == 0, result.stderr
