"""What a producer says, and when it gives up, while no rank serves it: none answers, or those that do refuse its key.

Whoever has mistyped an address or forgotten a key sees it in the log within seconds, long before the producer ends.
"""

import logging
from collections.abc import Sequence

from penstock.producer.config import ProduceConfig

_log = logging.getLogger(__name__)

_REFUSED_S = 60.0
"""How long a producer that no rank lets in goes on: its key may have been sent before it was allowed."""
_TOLD_S = 60.0
"""How often it says so."""
_ALONE_S = 10.0
"""How long no rank may answer before it says that it waits."""


class Complaints:
    """Watches whether any rank talks with a producer, and says why none does.

    Args:
        config: the producer's settings.
        now: the time, in seconds on the monotonic clock, as everywhere here.
    """

    def __init__(self, config: ProduceConfig, now: float) -> None:
        self._config = config
        self._connected_at = now
        self._refused_since: float | None = None
        """Since when ranks refuse this producer's key and none serves it."""
        self.told_at: dict[str, float] = {}
        """When each refusal was last said."""
        self._said_alone_at = float("-inf")
        """When it last said that no rank answers."""

    def tick(self, now: float, refusals: Sequence[tuple[str, bool]], connected: bool) -> str:
        """Say what there is to say; returns why the producer must end, empty where it need not.

        Args:
            now: the time.
            refusals: as `ProducerSockets.refusals`.
            connected: whether any rank talks.
        """
        if connected:
            self._connected_at = now
        why = self._watch_refusals(now, refusals, connected)
        self._say_alone(now)
        return why

    def starved(self, now: float) -> str:
        """Why a producer that no rank talks with has waited for long enough; empty where it has not."""
        waited_s = now - self._connected_at
        if waited_s <= self._config.trainer_timeout_s:
            return ""
        if self.told_at:
            return f"no trainer for {waited_s:.0f} s: {next(reversed(self.told_at))}"
        return (
            f"no trainer at {self._config.connect} for {waited_s:.0f} s; start one "
            "(accelerate launch consumer --config NAME), or give its address with --connect"
        )

    def _watch_refusals(self, now: float, refusals: Sequence[tuple[str, bool]], connected: bool) -> str:
        """Say which rank refuses this producer, and give up where none serves it and it has been so for long."""
        for why, _ in refusals:
            if now - self.told_at.get(why, float("-inf")) >= _TOLD_S:
                self.told_at[why] = now
                _log.warning("not let in: %s", why)
        refused = {why for why, _ in refusals}
        self.told_at = {why: at for why, at in self.told_at.items() if why in refused}
        sure = [why for why, is_sure in refusals if is_sure]
        if not sure or connected:
            self._refused_since = None
            return ""
        self._refused_since = now if self._refused_since is None else self._refused_since
        return sure[0] if now - self._refused_since >= min(_REFUSED_S, self._config.trainer_timeout_s) else ""

    def _say_alone(self, now: float) -> None:
        """Say that no rank answers: whoever has mistyped an address need not wait for `trainer_timeout_s` to see it."""
        alone_s = now - self._connected_at
        if alone_s < _ALONE_S or self.told_at or now - self._said_alone_at < _TOLD_S:
            return
        self._said_alone_at = now
        _log.info(
            "no trainer answers at %s (for %.0f s); dials on for %g s at most (--trainer-timeout-s)",
            self._config.connect,
            alone_s,
            self._config.trainer_timeout_s,
        )
