"""Tests of the snippets of ``docs/testing.md``, which run in processes of their own, as a plugin author runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs_pages import snippet
from shell import shell

PYTEST = (
    "python -m pytest -q -W error -p no:cacheprovider"
    " -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function"
)
PLUGINS = """

import pytest
from roomcast_deploy import deploy


@pytest.fixture
def roomcast_plugins():
    return [deploy]
"""

DJANGO_PROJECT = """
import json
from urllib.request import Request, urlopen

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="x",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import User


def ship(request):
    user = User.objects.create_user("ci")
    body = {"type": "deploy.finished", "room": "environment:prod", "data": {"version": request.POST["version"]}}
    headers = {"Authorization": f"Bearer {settings.ROOMCAST_API_KEY}", "Content-Type": "application/json"}
    url = f"{settings.ROOMCAST_URL}/api/v1/events"
    with urlopen(Request(url, json.dumps(body | {"sender": user.username}).encode(), headers)) as response:
        return HttpResponse(response.read())


urlpatterns = [path("ship/", ship)]

if __name__ == "__main__":
    execute_from_command_line()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the plugin of the plugins page and the ``conftest.py`` of the testing page."""
    (tmp_path / "roomcast_deploy.py").write_text(snippet("a complete plugin"))
    (tmp_path / "conftest.py").write_text(snippet("conftest of a plugin") + PLUGINS)
    return tmp_path


def test_the_test_with_a_clock_passes(project: Path) -> None:
    """It needs no real time."""
    (project / "test_clock.py").write_text('ROOM = "environment:prod"\n\n' + snippet("a test with a clock"))
    assert re.search("1 passed", shell(PYTEST, project))


def test_the_test_of_a_handler_passes(project: Path) -> None:
    """It needs no server."""
    (project / "test_handler.py").write_text(snippet("a test of a handler"))
    assert re.search("2 passed", shell(PYTEST, project))


def test_the_test_of_a_hook_passes(project: Path) -> None:
    """It needs no server."""
    (project / "test_hook.py").write_text(snippet("a test of a hook"))
    assert re.search("2 passed", shell(PYTEST, project))


def test_the_test_with_unittest_passes(project: Path) -> None:
    """It runs with ``python -m unittest``, and with pytest."""
    (project / "test_rollback.py").write_text(snippet("a test with unittest"))
    shell("python -W error -m unittest test_rollback", project)
    assert re.search("1 passed", shell(PYTEST, project))


@pytest.mark.parametrize("case", ["TestCase", "TransactionTestCase", "LiveServerTestCase"])
def test_the_test_with_django_passes(project: Path, case: str) -> None:
    """Django's own test runner runs it, with a database, in each kind of test case."""
    pytest.importorskip("django")  # in the extra test
    (project / "manage.py").write_text(DJANGO_PROJECT)
    test = snippet("a test with Django").replace("TestCase", case)
    (project / "test_ship.py").write_text(test)
    shell("python -W error manage.py test --noinput", project)
