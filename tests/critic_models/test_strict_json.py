"""A document that two readers could understand otherwise is none."""

import pytest

from critic_models.strict_json import loads


def test_what_can_be_read_in_one_way_is_read():
    assert loads('{"a": [1, -0.0, 1e3, "ü"], "b": {"a": null}}'.encode()) == {
        "a": [1, -0.0, 1e3, "ü"],
        "b": {"a": None},
    }


@pytest.mark.parametrize(
    "content",
    [
        b'{"scores": [1.0], "scores": [-1.0]}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b"[" * 100_000,
        b"1" * 5000,
        b'["\xff"]',
        '["ü"]'.encode("latin-1"),
        "[1]".encode("utf-16"),
        b"\xef\xbb\xbf[1]",
        b"[1] [2]",
        b"",
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(ValueError):  # noqa: PT011
        loads(content)
