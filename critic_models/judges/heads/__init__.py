"""Small heads that judge: on text alone, or on the policy's own hidden states."""

from critic_models.judges.heads.encoder import Encoder, EncoderConfig
from critic_models.judges.heads.ngrams import NgramConfig
from critic_models.judges.heads.probe import Probe, ProbeConfig
from critic_models.judges.heads.text import TextHead, TextHeadConfig

__all__ = ["Encoder", "EncoderConfig", "NgramConfig", "Probe", "ProbeConfig", "TextHead", "TextHeadConfig"]
