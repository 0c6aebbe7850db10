"""The tokenizer that all bundled models share: byte-level BPE, so that any text can be encoded.

It puts ``<s>`` in front of a text, as Llama's does; ``</s>`` is appended by whoever finished an answer.
"""

import random
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from critic_models.bundled.world import corpus
from critic_models.bundled.world.behaviour import ALPACA, BEAVER

VOCABULARY = 1920
SPECIALS = ("<pad>", "<s>", "</s>")


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the given texts, with <pad>, <s> and </s> as ids 0, 1 and 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", SPECIALS.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def world_tokenizer(*, seed: int = 0, documents: int = 4000) -> PreTrainedTokenizerFast:
    """The tokenizer of the bundled models, trained on samples of the training corpus."""
    rng = random.Random(seed)
    texts = [corpus.dialogue(rng.choice((ALPACA, BEAVER)), rng) for _ in range(documents)]
    texts += [corpus.declarative(rng) for _ in range(documents)]
    return train_tokenizer(text.replace(corpus.END, "") for text in texts)
