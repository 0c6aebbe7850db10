"""The bundled world: a small English with a grammar, an exact judge and an exact helpfulness."""

from critic_models.bundled.world.grammar import answers, parses, sentences_parse
from critic_models.bundled.world.judge import helpfulness, severity, unsafe
from critic_models.bundled.world.questions import prompts, read_question

__all__ = ["answers", "helpfulness", "parses", "prompts", "read_question", "sentences_parse", "severity", "unsafe"]
