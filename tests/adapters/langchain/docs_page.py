"""Runs the code of docs/langchain.md as ``tests.adapters.llama_index_.docs_page`` does for the other page.

python -m tests.adapters.langchain.docs_page     # writes the outputs of today's models into the page
"""

from pathlib import Path

from tests.adapters.llama_index_.docs_page import refreshed

PAGE = Path(__file__).parents[3] / "docs" / "langchain.md"

if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text()))
