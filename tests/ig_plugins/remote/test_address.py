import pytest

from ig_plugins import ConfigurationError, InferenceGuard
from ig_plugins.remote import Address, RemoteOptions, is_remote


@pytest.mark.parametrize(
    ("text", "kind", "base", "model"),
    [
        ("vllm+http://host:8000/org/name", "vllm", "http://host:8000", "org/name"),
        ("llamacpp+http://127.0.0.1:8080", "llamacpp", "http://127.0.0.1:8080", ""),
        ("openai+https://gateway.example/name/", "openai", "https://gateway.example", "name"),
        ("vllm+http://[::1]:8000/a", "vllm", "http://[::1]:8000", "a"),
    ],
)
def test_an_address_names_a_server_and_its_model(text, kind, base, model):
    found = Address.parse(text)
    assert (found.kind, found.base, found.model) == (kind, base, model)
    assert is_remote(text)
    assert str(found) == text.rstrip("/")


@pytest.mark.parametrize(
    "name", ["tiny-beaver", "org/name", "bundled:x", "/a/folder", "http://host/x", None, ("m", "t")]
)
def test_names_of_local_models_are_no_addresses(name):
    assert not is_remote(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vlm+http://host/x", "'vlm' is no kind of server; write vllm.* Did you mean 'vllm'"),
        ("vllm+http://key@host/x", "holds a name or password"),
        ("vllm+http://user:key@host:bad/x", "holds a name or password"),
        ("vllm+http://user:k/key@host/x", "port"),
        ("vllm+http://host/x?token=key@", "without"),
        ("vllm+http://[1/x", "host that is none"),
        ("vllm+http:///x", "must be vllm"),
        ("vllm+http://host/x?y=1", "without"),
        ("vllm+http://host:99999/x", "port"),
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_read(text, said):
    with pytest.raises(ConfigurationError, match=said) as refused:
        InferenceGuard.from_pretrained(text, cost_model="tiny-alpaca")
    assert "key@" not in str(refused.value)


@pytest.mark.parametrize("given", [{"attempts": 0}, {"seed": True}, {"request_seconds": float("inf")}, {"page": -1}])
def test_options_that_are_not_allowed_are_named_with_those_that_are(given):
    with pytest.raises(ConfigurationError, match=f"{next(iter(given))}.*they are seeds, page, most"):
        RemoteOptions.of(given)
