"""An answer and how it was found, as one page: what `inferenceguard trace` writes and ``/ui`` shows."""

from ig_plugins.page.document import Document, Unguarded, load
from ig_plugins.page.render import Playground, page, playground
from ig_plugins.page.unguarded import unguarded

__all__ = ["Document", "Playground", "Unguarded", "load", "page", "playground", "unguarded"]
