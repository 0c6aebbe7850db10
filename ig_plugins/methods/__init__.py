"""Decoding methods on one engine and one scoring protocol: the baselines, and InferenceGuard in its versions."""

from ig_plugins.methods.base import Answer, Entry, Method, method, methods, register
from ig_plugins.methods.bench import Bench

__all__ = ["Answer", "Bench", "Entry", "Method", "method", "methods", "register"]
