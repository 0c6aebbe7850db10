"""The look of every picture, drawn without pyplot: no global state and no display is involved."""

from __future__ import annotations

from typing import Any

from ig_plugins.errors import ConfigurationError


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            "plots need matplotlib, which is not installed; run: pip install 'inferenceguard[evaluation]'"
        ) from error
    return Figure(figsize=(width, height), facecolor="white")


def plain(axes: Any) -> None:
    """Axes with a light grid behind the data, and no frame above and to the right."""
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
