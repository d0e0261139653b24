"""What every process of a command does first."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def begin_process() -> None:
    """Logs as BCLS_LOG says; SIGTERM ends the process by an exception, so that what is open is closed."""
    logging.basicConfig(
        level=os.environ.get("BCLS_LOG", "WARNING"), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise SystemExit(128 + number)
