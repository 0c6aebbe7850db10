"""An HTTP service that speaks the OpenAI chat format, guarded."""

from ig_plugins.server.app import create_app

__all__ = ["create_app"]
