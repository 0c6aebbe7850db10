"""What a server was seen to be able to do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    """What a server was seen to be able to do.

    Attributes:
        model: The name by which it is asked for its model.
        root: What it loaded the model from, where it says so.
        context: The longest sequence, where it says so.
        page: Tokens of a page of its prefix cache; 0 where it reuses every token, or does not say.
        most: Choices that one call may ask for.
        echoes_stop: A reply ends with the token at which it stopped.
        tokenizer_checked: It was asked to tokenise a text, and did as the tokenizer here does.
    """

    model: str
    root: str | None = None
    context: int | None = None
    page: int = 0
    most: int = 1
    echoes_stop: bool = True
    tokenizer_checked: bool = False
