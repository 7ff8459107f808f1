"""The metrics by room type. The types are those that plugins declare, so clients cannot add labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ...gateway.delivery import Delivery
from ...room_options import PERSONAL

_LABEL: Final = "room_type"


def room_metrics(delivery: Delivery) -> Iterator[Metric]:
    """Yield the metrics. Each type begins with 0, so that rates include its first event. 0.1 µs for each room."""
    types = delivery.types.by_name.values()
    messages = CounterMetricFamily(
        "roomcast_messages",
        "Commands of plugins that clients sent in rooms of this type, without those refused for their room.",
        labels=[_LABEL],
    )
    deliveries = CounterMetricFamily(
        "roomcast_room_deliveries",
        "Events written to members of rooms of this type, without live events.",
        labels=[_LABEL],
    )
    drops = CounterMetricFamily(
        "roomcast_room_drops",
        "Memberships in rooms of this type that ended because the client was too slow (slow_member), and deliveries of "
        "live events that were left out (live_event).",
        labels=[_LABEL, "reason"],
    )
    members = GaugeMetricFamily(
        "roomcast_room_members", "Memberships on this node in rooms of this type.", labels=[_LABEL]
    )
    present: Counter[str] = Counter()
    for room in delivery.rooms.values():
        present[room.type.name] += len(room.members)
    for type in types:
        is_personal = type.name == PERSONAL
        messages.add_metric([type.name], type.messages)
        deliveries.add_metric([type.name], delivery.personal_deliveries if is_personal else type.deliveries)
        drops.add_metric([type.name, "slow_member"], type.slow_members)
        drops.add_metric([type.name, "live_event"], type.live_drops)
        if not is_personal:
            members.add_metric([type.name], present[type.name])
    yield from (messages, deliveries, drops, members)
