"""Which slot evaluated which point when: read from the pilot's own JSON log, over all its lives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pilot.values.decoding import LOOSE, decode_json
from pilot.values.errors import Garbled


@dataclass(frozen=True, slots=True)
class Stay:
    """One evaluation in a slot. Seconds are of the pilots' lives, one behind the other: pauses are left out.

    Args:
        clock: Unix seconds when it began.
        ended: None while it runs; the end of its pilot's life, if it was cut off.
        verdict: how it ended; "" while it runs by itself, "cut off" if its pilot ended before it.
    """

    point: str
    slot: int
    device: str
    attempt: int
    clock: float
    began: float
    ended: float | None = None
    verdict: str = ""
    step: int | None = None
    loss: float | None = None


class Timeline:
    """Evaluations, told by the events of the log; more may be read at any time."""

    def __init__(self, log: Path) -> None:
        """``log`` need not be there yet."""
        self._log = log
        self._read = 0
        self._offset = 0.0
        self._life: tuple[float, float] | None = None
        self._running: dict[str, Stay] = {}
        self.ended: list[Stay] = []
        self.lives: list[float] = []

    @property
    def running(self) -> list[Stay]:
        """Evaluations that have not ended, the oldest first."""
        return sorted(self._running.values(), key=lambda one: one.began)

    @property
    def seconds(self) -> float:
        """How long pilots have lived, all together."""
        return self._offset + (self._life[1] - self._life[0] if self._life else 0.0)

    def stays(self) -> list[Stay]:
        """All evaluations, the running ones up to now."""
        return self.ended + [replace(one, ended=self.seconds, verdict="running") for one in self.running]

    def last(self, point: str) -> Stay | None:
        """The newest evaluation of a point."""
        return self._running.get(point) or next((one for one in reversed(self.ended) if one.point == point), None)

    def read(self) -> list[dict[str, Any]]:
        """Read what has come since; these events."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(self._read)
                text = stream.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        found = [event for event in map(_event, whole.splitlines()) if event is not None]
        for event in found:
            self._hear(event)
        return found

    def life_ended(self) -> None:
        """The pilot is gone: what it has not brought to an end was cut off."""
        now = self.seconds
        self.ended += [replace(one, ended=now, verdict="cut off") for one in self.running]
        self._running.clear()
        self._offset, self._life = now, None

    def _hear(self, event: dict[str, Any]) -> None:
        time = float(event["time"])
        if event["event"] == "pilot starts":
            self.life_ended()
            self.lives.append(self._offset)
            self._life = (time, time)
        if self._life is None:
            return
        self._life = (self._life[0], max(time, self._life[1]))
        point = str(event.get("point"))
        now = self.seconds
        if event["event"] == "evaluation started":
            self._running[point] = Stay(
                point,
                int(event.get("slot", 0)),
                str(event.get("device", "")),
                int(event.get("attempt", 1)),
                time,
                now,
            )
        elif (stay := self._running.get(point)) is None:
            return
        elif event["event"] == "evaluation ended":
            loss = event.get("loss", stay.loss)
            verdict = stay.verdict or str(event.get("verdict", "ended"))
            self.ended.append(replace(stay, ended=now, verdict=verdict, loss=loss))
            del self._running[point]
        elif event["event"] == "pruned":
            self._running[point] = replace(stay, verdict="pruned")
        elif event["event"] == "intermediate":
            self._running[point] = replace(stay, step=event.get("step"), loss=event.get("loss"))


def _event(line: bytes) -> dict[str, Any] | None:
    """An event; None for a line that a kill has torn, or that is none."""
    try:
        event = decode_json(line, LOOSE)
    except Garbled:
        return None
    return event if isinstance(event, dict) and "event" in event and "time" in event else None
