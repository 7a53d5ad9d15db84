"""A clock that jumps instead of waiting, and lets things happen at moments of its own time."""

import threading

from pilot.values.deadline import Clock


class JumpingClock(Clock):
    """Time passes only while somebody waits, and not beyond ``horizon``: there a wait is a real one."""

    def __init__(self):
        self._now = 1000.0
        self.horizon = self._now
        self._plans = []
        self._lock = threading.RLock()

    def monotonic(self):
        return self._now

    def at(self, seconds, action):
        """Call ``action`` when ``seconds`` have passed from now, and let time pass until well after it."""
        with self._lock:
            self._plans.append((self._now + seconds, action))
            self._plans.sort(key=lambda plan: plan[0])
            self.horizon = max(self.horizon, self._now + seconds + 4000)

    def wait(self, condition, seconds):
        target = None if seconds is None else self._now + seconds
        if target is None or target > self.horizon:
            condition.wait(0.01)
            return
        while self._plans and self._plans[0][0] <= target:
            moment, action = self._plans.pop(0)
            self._now = max(self._now, moment)
            action()
        self._now = max(self._now, target)
