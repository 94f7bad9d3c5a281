"""Renderer of the HTML pages from the templates of this folder."""

from __future__ import annotations

from pathlib import Path


def page(template: str, **values: object) -> str:
    """Renders a page; every value is escaped, and a missing one is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
