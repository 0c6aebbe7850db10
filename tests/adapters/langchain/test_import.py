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


def test_without_langchain_core_the_error_says_what_to_install():
    result = run("import sys; sys.modules['langchain_core'] = None; import langchain_inferenceguard")
    assert result.returncode == 1
    assert 'pip install "inferenceguard[langchain]"' in result.stderr.splitlines()[-1]


def test_without_langchain_only_the_middleware_is_missing_and_making_a_model_loads_nothing():
    result = run(
        """
        import sys
        sys.modules["langchain"] = None
        import langchain_inferenceguard as l
        for cls in (l.ChatInferenceGuard, l.InferenceGuardLLM):
            made = cls(model="beaver-7b-v3", temperature=0.5)
            str(made), repr(made)
            assert not made.is_loaded
        for load in ("l.InferenceGuardMiddleware", "__import__('langchain_inferenceguard.middleware')"):
            try:
                eval(load)
            except ImportError as error:
                assert 'pip install "inferenceguard[agents]"' in str(error)
            else:
                raise AssertionError(load)
        """
    )
    assert result.returncode == 0, result.stderr
