"""Queue and storage data that point to this very server (panda-protocol.md section 11)."""

from __future__ import annotations

from typing import Any

QUEUE = "LOCAL"
STORAGE = "LOCAL_STORE"
ACTIVITIES = ("pr", "pw", "pl", "read_lan", "write_lan", "r", "w", "default")


def queue_data(name: str, timefloor_min: int) -> dict[str, Any]:
    """What a pilot asks about a queue: online, without limits, everything in our own store."""
    return {
        "name": name,
        "nickname": name,
        "panda_resource": name,
        "atlas_site": name,
        "cloud": "LOCAL",
        "state": "ACTIVE",
        "status": "online",
        "type": "unified",
        "resource_type": "cloud",
        "timefloor": timefloor_min,
        "maxtime": 0,
        "maxrss": 0,
        "maxwdir": 0,
        "maxinputsize": 0,
        "corecount": 0,
        "copytools": {"https": {"setup": ""}},
        "acopytools": {activity: ["https"] for activity in ACTIVITIES},
        "astorages": {activity: [STORAGE] for activity in ACTIVITIES},
        "container_type": "",
        "container_options": "",
        "catchall": "no_token_renewal",
        "environ": "",
        "appdir": "",
        "allow_lan": True,
        "allow_wan": True,
        "direct_access_lan": False,
        "direct_access_wan": False,
        "params": {},
    }


def storage_data(base: str) -> dict[str, Any]:
    """The one storage there is; ``base`` is this server's URL as the caller reached it, with its slash."""
    protocol = {"endpoint": base, "path": "/store/", "flavour": "WEBDAV"}
    return {
        STORAGE: {
            "id": 1,
            "name": STORAGE,
            "rse": STORAGE,
            "type": "DISK",
            "token": "",
            "state": "ACTIVE",
            "site": QUEUE,
            "is_deterministic": True,
            "arprotocols": {activity: [protocol] for activity in ACTIVITIES},
            "rprotocols": {},
            "resource": {},
        }
    }
