"""The README as it stands on a package index, where links to files of the repository lead nowhere.

While the project has no public address, such a link becomes the file's name, and a line says where the files are.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

NOTE = "*Files named here, such as `docs/serving.md`, are in the source distribution.*"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)#]*)(?:#[^)]*)?\)")


def rendered(text: str) -> str:
    """Markdown without links to files: their names stay, pictures go."""

    def plain(found: re.Match[str]) -> str:
        picture, words, file = found.groups()
        if picture:
            return ""
        return f"`{file}`" if words == file else f"{words} (`{file}`)"

    title, _, rest = LINK.sub(plain, text).partition("\n")
    return f"{title}\n\n{NOTE}\n{rest}"


class CustomMetadataHook(MetadataHookInterface):
    """Found by hatchling under this name."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Adds the README."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": rendered(text)}
