"""Decoding methods on one engine and one scoring protocol: the baselines, and InferenceGuard in its versions."""

from ig_plugins.research.methods.base import Answer, Entry, Method, method, methods, register
from ig_plugins.research.methods.context import Context

__all__ = ["Answer", "Context", "Entry", "Method", "method", "methods", "register"]
