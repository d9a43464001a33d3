"""The worker with little patience, so that a test need not have more."""

from __future__ import annotations

from api.worker import Worker


class HastyWorker(Worker):
    """Gives up on a request after half a second."""

    whole_seconds = 0.5
