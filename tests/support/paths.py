"""The paths of the repository's folders."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
#: The folders of the repository, and the packages that they are installed as.
PACKAGES = {
    "app": "roomcast",
    "plugins": "roomcast.plugins",
    "templates": "roomcast.templates",
    "static": "roomcast.static",
}


def link_package(folder: Path) -> Path:
    """Lay out the package ``roomcast`` in ``folder`` with links; return ``folder``.

    For mypy, which cannot follow an editable install.
    """
    package = folder / "roomcast"
    package.mkdir(parents=True)
    for path in (ROOT / "app").iterdir():
        (package / path.name).symlink_to(path)
    for name in PACKAGES:
        if name != "app":
            (package / name).symlink_to(ROOT / name)
    return folder
