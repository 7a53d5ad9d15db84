"""What a call is handled by: a function of its arguments and of the visit they came with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pilot.embedded.identity import Caller
from pilot.embedded.wire import Envelope, Request


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, and who sent it."""

    request: Request
    caller: Caller


Handler = Callable[[Mapping[str, Any], Visit], Envelope]
