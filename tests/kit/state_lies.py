"""Hidden states that are not the block's: what a server may say instead of the honest reply, by kind of server."""

import base64

import numpy as np


def vectors(change):
    """llama.cpp's reply with its table of states changed."""
    return lambda reply: [{"index": 0, "embedding": change(reply[0]["embedding"])}]


def kept(**fields):
    """vLLM's reply with fields of every lane changed."""

    def change(reply):
        for read in reply["reads"]:
            for lane in read["lanes"]:
                lane.update({name: value(lane[name]) if callable(value) else value for name, value in fields.items()})
        return reply

    return change


def encoded(numbers):
    return base64.b64encode(np.array(numbers, dtype="<f4").tobytes()).decode()


LIES = {
    "llamacpp": {
        "a state too few": vectors(lambda rows: rows[1:]),
        "a state too many": vectors(lambda rows: [*rows, rows[0]]),
        "one for all tokens": vectors(lambda rows: rows[:1]),
        "another width": vectors(lambda rows: [row[:-1] for row in rows]),
        "ragged": vectors(lambda rows: [rows[0][:-1], *rows[1:]]),
        "not finite": vectors(lambda rows: [[float("nan")] * len(row) for row in rows]),
        "infinite": vectors(lambda rows: [*rows[:-1], [1e39] * len(rows[0])]),
        "texts": vectors(lambda rows: [[str(each) for each in row] for row in rows]),
        "nothing in it": vectors(lambda rows: [[None] * len(row) for row in rows]),
        "empty rows": vectors(lambda rows: [[] for _ in rows]),
        "no table": vectors(lambda rows: None),
        "of two sequences": lambda reply: reply * 2,
        "no list": lambda reply: {"embedding": 3},
    },
    "vllm": {
        "of another request": lambda reply: {"reads": [{**each, "key": "k"} for each in reply["reads"]]},
        "expired": lambda reply: {"reads": [{**each, "lanes": None} for each in reply["reads"]]},
        "a lane too few": lambda reply: {"reads": [{**each, "lanes": each["lanes"][1:]} for each in reply["reads"]]},
        "lanes that are texts": lambda reply: {"reads": [{**each, "lanes": ["a"] * 8} for each in reply["reads"]]},
        "the same lane twice": kept(index=0),
        "of too few tokens": kept(tokens=2),
        "of more tokens": kept(tokens=lambda count: count + 1),
        "of no count": kept(tokens=None),
        "of a true count": kept(tokens=True),
        "broken": kept(broken="speculative decoding"),
        "not finite": kept(last=encoded([np.nan] * 128)),
        "infinite": kept(total=encoded([np.inf] * 128)),
        "another width": kept(last=encoded([0.0] * 127)),
        "half a number": kept(last=base64.b64encode(b"abcdefg").decode()),
        "no base64": kept(total="a state"),
        "no text": kept(total=[1.0]),
        "no reads": lambda reply: {},
        "no object": lambda reply: [],
        "null": lambda reply: None,
    },
}
