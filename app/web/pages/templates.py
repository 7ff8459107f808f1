"""Renders the HTML pages, each of which has a content security policy."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web
from jinja2 import PackageLoader

#: The package with the templates, and with the style sheets and scripts of the console.
PACKAGE: Final = "roomcast.templates"


def set_up(app: web.Application) -> None:
    """Give ``app`` the Jinja environment of all pages. HTML is escaped automatically."""
    environment = aiohttp_jinja2.setup(app, loader=PackageLoader(PACKAGE, ""), trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"default": str}  # the default in a schema may be a date


def render_text(app: web.Application, template: str, context: Mapping[str, Any]) -> str:
    """Return what ``template`` makes of ``context``, for a page that is the same in each response."""
    return aiohttp_jinja2.get_env(app).get_template(template).render(context)


def render(
    request: web.Request,
    template: str,
    context: Mapping[str, Any],
    policy: Iterable[str],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return the page that ``template`` makes of ``context``.

    ``policy`` are the directives of its Content-Security-Policy. In the directives ``{nonce}`` stands for the nonce of
    the response; the template has it in the variable ``nonce``.
    """
    nonce = secrets.token_urlsafe(16)
    response = aiohttp_jinja2.render_template(template, request, {**context, "nonce": nonce}, status=status)
    response.headers.update({**page_headers(policy, nonce=nonce), **(headers or {})})
    return response


def page_headers(policy: Iterable[str], **values: str) -> dict[str, str]:
    """Return the security headers of a page. ``values`` are inserted in the directives of its ``policy``."""
    return {
        "Content-Security-Policy": "; ".join(policy).format(**values),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
