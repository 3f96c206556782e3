"""What each of several processes does every second: it notes how busy it is, and ends if the first process has died."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from contextlib import suppress

from convstore.server.service_metrics import ServiceMetrics
from convstore.store.async_store import AsyncStore
from convstore.store.store_load import measure_load

_logger = logging.getLogger(__name__)

_SECONDS = 1.0


async def watch_process(metrics: ServiceMetrics, store: AsyncStore) -> None:
    """Note the load every second, so that each process can tell all of it; end with the first process.

    Without its first process, nothing would end a worker or start it again, and it would hold the port.
    """
    first = multiprocessing.parent_process()
    while first is None or first.is_alive():
        with suppress(OSError, ValueError):  # the disk is full: it must go on watching
            metrics.set_load(measure_load(store))
        await asyncio.sleep(_SECONDS)
    _logger.warning("the first process of the service has died: this one ends too")
    os.kill(os.getpid(), signal.SIGTERM)
