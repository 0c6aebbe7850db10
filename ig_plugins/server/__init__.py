"""An HTTP service that speaks the OpenAI chat format, guarded."""

from ig_plugins.server.app import create_app
from ig_plugins.server.limits import Limits
from ig_plugins.server.run import listen, serve

__all__ = ["Limits", "create_app", "listen", "serve"]
