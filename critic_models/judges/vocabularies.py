"""The tokenizer of a judge's checkpoint."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from critic_models.errors import ModelLoadError

VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


def read_tokenizer(folder: Path, *, source: str) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer.

    Raises:
        ModelLoadError: There is none; transformers alone would make an empty one up for some families.
    """
    advice = "A judge reads text: put tokenizer.json and tokenizer_config.json beside its config.json"
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        raise ModelLoadError(f"{source} has no tokenizer. {advice}")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(f"{source}: its tokenizer does not load ({type(error).__name__}). {advice}") from error
