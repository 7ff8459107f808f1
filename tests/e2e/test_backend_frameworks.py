"""The examples of docs/backends.md and of the migration pages: real frameworks that publish to a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docs_pages import snippet
from python_client import run_python
from serving import KEY, Serve, connect, url

from roomcast_client import AsyncRoomcast

DJANGO = """
import json, sys
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["testserver"], ROOT_URLCONF="site_urls", USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "tasks"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
)
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.urls import path
from tasks import views

sys.modules["site_urls"] = type(sys)("site_urls")
sys.modules["site_urls"].urlpatterns = [path("tasks", views.create_task), path("token", views.token)]
call_command("migrate", run_syncdb=True, verbosity=0)
client = Client()
client.force_login(User.objects.create_user("alice", id=12345))
client.post("/tasks", {"title": "A"})
try:
    with transaction.atomic():
        client.post("/tasks", {"title": "rolled back"})
        raise LookupError
except LookupError:
    pass
views.roomcast.publish = lambda *args, **options: 1 / 0
assert client.post("/tasks", {"title": "not announced"}).status_code == 200
assert views.Task.objects.count() == 2
print(client.get("/token").json()["token"])
"""
MODEL = """
from django.db import models

class Task(models.Model):
    title = models.CharField(max_length=100)
"""
FASTAPI = """
import asyncio, httpx

async def main():
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            for _ in range(2):
                assert (await client.post("/tasks/1", params={"title": "A"})).json() == {"id": 1}
            print((await client.get("/token")).json()["token"])

asyncio.run(main())
"""
FLASK = """
client = app.test_client()
for _ in range(2):
    assert client.post("/tasks/1", data={"title": "A"}).json == {"id": 1}
assert client.post("/tasks/2", data={"title": "A"}, headers={}).json == {"id": 2}
roomcast = Roomcast("http://127.0.0.1:1", "key", retries=Retries(deadline=0))
assert client.post("/tasks/3", data={"title": "not announced"}).json == {"id": 3}
print(client.get("/token").json["token"])
"""
CELERY = """
announce.app.conf.task_always_eager = True
args = ("task.created", "project:123", {"task_id": 1, "title": "A"})
attempts = []
publish = roomcast.publish
def fail_first(*args, **options):
    id = publish(*args, **options)
    attempts.append(id)
    if len(attempts) == 1:
        raise Unreachable("The answer was lost.")
roomcast.publish = fail_first
announce.apply(args, task_id="one").get()
announce.apply(args, task_id="one").get()
assert len(attempts) == 3 and len(set(attempts)) == 1
"""


async def titles(server: Any) -> list[str]:
    """Return the titles of the tasks that were announced."""
    async with AsyncRoomcast(url(server, ""), KEY) as client:
        return [event["data"]["title"] for event in (await client.history("project:123")).events]


async def accepts(server: Any, token: str) -> None:
    """Connect with a token of the application, and join the room."""
    async with connect(server, token=token.strip()) as alice:
        assert (alice.welcome["data"]["user_id"], alice.welcome["data"]["username"]) == (12345, "alice")
        await alice.join("project:123")


async def test_django(serve: Serve, tmp_path: Path) -> None:
    """An event follows the commit. A rollback announces nothing, and a failed publish does not fail the request."""
    server = await serve()
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, text in (
        ("__init__.py", ""),
        ("models.py", MODEL),
        ("realtime.py", snippet("realtime.py of Django").replace("http://localhost:8000", url(server, ""))),
        ("views.py", snippet("views.py of Django")),
    ):
        (tasks / name).write_text(text)
    folder = f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.insert(0, {str(tmp_path)!r})\n"
    await accepts(server, await run_python(server, folder + DJANGO))
    assert await titles(server) == ["A"]


async def test_fastapi(serve: Serve) -> None:
    """The background task publishes once for each key."""
    server = await serve()
    await accepts(server, await run_python(server, snippet("with FastAPI") + FASTAPI))
    assert await titles(server) == ["A"]


async def test_flask(serve: Serve) -> None:
    """The request publishes, and succeeds without roomcast."""
    server = await serve()
    await accepts(server, await run_python(server, snippet("with Flask") + FLASK))
    assert await titles(server) == ["A", "A"]


async def test_celery(serve: Serve) -> None:
    """A task that is retried and one that is delivered twice publish once."""
    server = await serve()
    await run_python(server, snippet("a task of Celery") + CELERY)
    assert await titles(server) == ["A"]


@pytest.mark.parametrize(
    "source",
    [snippet("after Django Channels"), snippet("after Socket.IO"), snippet("after Pusher")],
    ids=["Django Channels", "Socket.IO", "Pusher"],
)
async def test_the_code_after_a_migration(source: str, serve: Serve) -> None:
    """The lines that replace those of the other system publish what their page states."""
    server = await serve()
    async with connect(server, 12345, "alice", rooms=["project:123"]) as alice:
        await alice.join("project:123")
        printed = await run_python(server, source)
        assert (await alice.recv_type("task.created"))["data"] == {"task_id": 790, "title": "Try it"}
    assert json.loads(printed) == ["alice"]
