"""What every process of a command does first."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def begin_process(name: str = "") -> None:
    """Logs as BCLS_LOG says; SIGTERM ends the process by an exception, so that what is open is closed.

    Args:
        name: of this process, where it is one of several that share a log.
    """
    line, before = "%(asctime)s %(levelname)s %(name)s %(message)s", name.replace("%", "%%")
    logging.basicConfig(level=os.environ.get("BCLS_LOG", "WARNING"), format=f"{before}: {line}" if name else line)
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise SystemExit(128 + number)
