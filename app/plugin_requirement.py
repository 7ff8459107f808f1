"""The versions of roomcast that a plugin requires: ``Plugin("deploy", requires="roomcast>=0.2,<1")``."""

from __future__ import annotations

from importlib.metadata import version

from packaging.requirements import InvalidRequirement, Requirement

from .errors import PluginError


def check_requirement(plugin: str, requires: str) -> None:
    """Raise ``PluginError`` unless this version of roomcast fulfils ``requires``, a requirement as in PEP 508.

    It is checked as the plugin is created, before the plugin uses anything that this version may lack.
    """
    try:
        requirement = Requirement(requires)
    except (InvalidRequirement, TypeError, AttributeError):
        raise _malformed(plugin, requires) from None
    has_more = requirement.extras or requirement.url or requirement.marker
    if requirement.name != "roomcast" or has_more or not requirement.specifier:
        raise _malformed(plugin, requires)
    found = version("roomcast")
    if not requirement.specifier.contains(found, prereleases=True):
        raise PluginError(
            f"plugin {plugin!r} requires {requires}, but this is roomcast {found}; install another version of one "
            f"of them, for example with `pip install '{requires}'`"
        )


def _malformed(plugin: str, requires: object) -> PluginError:
    return PluginError(f"plugin {plugin!r} has requires={requires!r}; it must be versions like 'roomcast>=0.2,<1'")
