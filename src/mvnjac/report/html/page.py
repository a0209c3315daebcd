"""The page: one HTML file that contains everything and makes no network requests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from importlib.resources import files

from mvnjac.report.analysis.content import Content
from mvnjac.report.html import sections
from mvnjac.report.html.json_data import data_block
from mvnjac.report.html.markup import Markup, join, tag
from mvnjac.report.html.opening import opening


def page(content: Content) -> str:
    """The complete file."""
    style, script = _asset("report.css"), _asset("report.js")
    title = f"{content.data.title}: the scores of a multivariate normal distribution"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", style),
    )
    panels = sections.panels(content)
    links = [tag("a", heading, href=f"#{name}") for name, heading, _ in panels]
    body = tag(
        "body",
        tag("header", tag("h1", title), opening(content), tag("nav", *links, aria_label="Panels")),
        tag("main", sections.facts(content), *(_panel(*panel) for panel in panels)),
        tag("footer", sections.closing(content)),
        data_block(content),
        tag("script", script),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _panel(name: str, heading: str, parts: list[Markup]) -> Markup:
    return tag("section", join(kept_together([tag("h2", heading), *parts])), id=name)


def kept_together(parts: list[Markup]) -> Iterator[Markup]:
    """The parts of a panel, in which each heading, the text after it and the chart after that are on one page of paper."""
    group: list[Markup] = []
    for part in parts:
        if part.startswith(("<h2", "<h3")):
            yield from group
            group = [part]
        elif not group:
            yield part
        elif part.startswith("<p"):
            group.append(part)
        else:
            drawn = part.startswith(("<figure", '<div class="smalls"')) or 'class="patterns"' in part
            yield tag("div", *group, *([part] if drawn else []), class_="together" if drawn else "together before")
            group = []
            if not drawn:
                yield part
    yield from group


def _policy(script: str) -> str:
    """The content security policy: nothing is loaded, and only the script of this package runs, whatever the data contain."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'"


def _asset(name: str) -> Markup:
    return Markup(files("mvnjac.report.html").joinpath(name).read_text(encoding="utf-8"))
