"""What the settings say of transfers: for the lanes of a pilot, and those of `pilot copy`."""

from __future__ import annotations

from pathlib import Path

from pilot.staging.lanes.attempt import Limits
from pilot.staging.lanes.lane import LaneSettings
from pilot.staging.lanes.wallet import Rule
from pilot.values.settings import Settings


def lane_settings(settings: Settings) -> LaneSettings:
    """Limits, authorities and proxy."""
    return LaneSettings(
        ca_path=str(Path(settings.ca).absolute()) if settings.ca else None,  # a lane lives in another directory
        http_proxy=settings.http_proxy or None,
        redirects=settings.output_redirects,
        lanes=settings.lanes,
        connect_s=settings.connect_limit,
        limits=Limits(idle_s=settings.idle_limit, slow_bytes_per_s=settings.slow_limit * 1000),
        patience_s=settings.patience,
    )


def credential_rules(settings: Settings, certificate: str) -> list[Rule]:
    """Who gets which credential: hosts by name first, then all storages of the site. Raises UsageError."""
    common = [("token", settings.storage_token), ("proxy", certificate)]
    return [
        *(Rule.parse(text) for text in settings.storage_credentials),
        *(Rule("*", kind, path) for kind, path in common if path),
    ]
