"""Small heads that judge: on text alone, or on the policy's own hidden states."""

from critic_models.heads.encoder import Encoder, EncoderConfig
from critic_models.heads.ngrams import NgramConfig
from critic_models.heads.probe import Probe, ProbeConfig
from critic_models.heads.text import TextHead, TextHeadConfig

__all__ = ["Encoder", "EncoderConfig", "NgramConfig", "Probe", "ProbeConfig", "TextHead", "TextHeadConfig"]
