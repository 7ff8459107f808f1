"""Presence webhooks: tell a backend when a user comes online and goes offline, once in the cluster."""

import asyncio
import logging
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout
from roomcast import Plugin, Service, setting

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebhookSettings:
    """The variables are ``PRESENCE_WEBHOOKS_URL``, ``…_TOKEN`` and ``…_ATTEMPTS``."""

    url: str = setting("URL that receives a POST for each change")
    token: str = setting("Bearer token for this URL", secret=True)
    attempts: int = setting("How often a request is tried", default=5, minimum=1)


presence_webhooks = Plugin("presence_webhooks", settings=WebhookSettings)


@presence_webhooks.lifespan
async def open_session(service: Service[WebhookSettings]):
    """Keep connections to the backend."""
    headers = {"Authorization": f"Bearer {service.settings.token}"}
    async with ClientSession(headers=headers, timeout=ClientTimeout(10)) as session:
        service.state.session = session
        yield


async def post(service: Service[WebhookSettings], user_id: int | str) -> None:
    """Send the current state of the user, and repeat that after a failure: a late request tells the truth too."""
    for attempt in range(service.settings.attempts):
        body = {"user_id": user_id, "online": await service.is_online(user_id)}
        try:
            async with service.state.session.post(service.settings.url, json=body) as response:
                response.raise_for_status()
            return
        except (ClientError, TimeoutError) as error:
            log.warning("the presence of user %s was not delivered: %s", user_id, error)
            await asyncio.sleep(0.1 * 2**attempt)


@presence_webhooks.on_online
@presence_webhooks.on_offline
async def tell(service: Service[WebhookSettings], user_id: int | str) -> None:
    """Send in a task, because a hook has only ``HANDLER_TIMEOUT``."""
    service.spawn(post(service, user_id))
