"""A comparison as a page in one file: pictures, errors, levels, weights and code, without any network."""

from __future__ import annotations

import html
import json
import re
from importlib import resources

from ..support.errors import ConfigurationError
from .comparison import PAGE, Comparison
from .page_data import page_data
from .page_tables import about_list, cell_table, picture_grid

__all__ = ["page", "plotly_javascript"]


@PAGE.provide
def page(comparison: Comparison) -> str:
    """The page's HTML, about 5 MB: plotly's JavaScript is inlined.

    Raises:
        ConfigurationError: plotly is not installed.
    """
    plotly = plotly_javascript()
    files = resources.files(__package__).joinpath("data")
    texts = {name: files.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")}
    # "</" ends a script in HTML, also inside of a text
    data = json.dumps(page_data(comparison), allow_nan=False).replace("</", "<\\/")
    remarks = "".join(f"<p class='remark'>{html.escape(remark)}</p>" for remark in comparison.remarks)
    if comparison.interrupted:
        remarks += "<p class='remark'>The comparison was interrupted. The cells with a number are complete.</p>"
    parts = {
        "$title$": "model calls" if comparison.unit == "calls" else comparison.unit,
        "$style$": texts["page.css"],
        "$plotly$": plotly,
        "$script$": texts["page.js"],
        "$remarks$": remarks,
        "$grid$": picture_grid(comparison),
        "$cells$": cell_table(comparison),
        "$about$": about_list(comparison),
        "$data$": data,
    }
    # in one pass, so that no name of a sampler is taken for a place of the template
    return re.sub(r"\$[a-z]+\$", lambda place: parts[place[0]], texts["page.html"])


def plotly_javascript() -> str:
    """plotly's JavaScript, from its package.

    Raises:
        ConfigurationError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ConfigurationError(
            "plotly is not installed", where="page", suggestion="pip install 'noise-scheduler-sampling-system[report]'"
        ) from None
    script: str = get_plotlyjs()
    return script
