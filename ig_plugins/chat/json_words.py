"""JSON in an answer as whoever reads it as JSON gets it: without escapes."""

import json
import re
from typing import Any

from ig_plugins.chat.rendering import argument_words

_OPENING = re.compile(r"[{\[]")
_HEX = "[0-9a-fA-F]"
_SPELT = re.compile(rf"\\(?:u({_HEX}{{4}})|x({_HEX}{{2}})|U((?:000{_HEX}|0010){_HEX}{{4}}))")
_CONTINUED = re.compile(r"(?<!\\)\\(?:\r\n|[\r\n\x85\u2028\u2029])[ \t]*")  # a string of YAML goes on in another line
_DECODER = json.JSONDecoder(strict=False)  # as lenient as the parsers of frameworks


def json_words(text: str) -> tuple[str, ...]:
    """What stands in the JSON values of a text, in plain words, where escapes make that another text.

    Structured answers are judged as they are written, as any text is, and read by parsers that undo the escapes. Such
    a parser may cut the JSON out of words around it, mend what is no JSON, or read it as YAML: so characters that are
    spelt by number, and lines that a backslash joins, are undone everywhere.

    Args:
        text: An answer.

    Returns:
        All objects and lists that are JSON and have an escape in them, as one text, and all of the answer if it spells
        characters: two texts at most, however many objects a model writes.
    """
    found: list[str] = []
    at = 0
    while text.find("\\", at) >= 0 and (opening := _OPENING.search(text, at)):
        value, end = _value(text, opening.start())
        if value and "\\" in text[opening.start() : end]:
            found.append(argument_words(value))
        at = end
    texts = ["\n".join(found)] if found else []
    plain = _SPELT.sub(lambda spelt: chr(int(spelt[1] or spelt[2] or spelt[3], 16)), _CONTINUED.sub("", text))
    if plain != text:
        texts.append(plain)
    return tuple(_whole_characters(words) for words in texts)


def _whole_characters(text: str) -> str:
    """The text with halves of characters joined; what stays half is no character, and nobody can read it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _value(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins here and where it ends; one character on where there is none."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start + 1
