"""A signal that arrives while processes work together waits until they can all act on it."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class HeldSignal:
    """Notes SIGTERM in place of the handler that was there, which can be called later.

    Lightning's own handler waits for the same handler in the other processes. In the middle of an audit, where only
    one of them has got the signal, that would be a wait for ever.

    Attributes:
        received: Whether the signal came since :meth:`hold`.

    >>> import os
    >>> calls = []
    >>> before = signal.signal(signal.SIGTERM, lambda *_: calls.append("handled"))
    >>> held = HeldSignal()
    >>> held.hold()
    >>> os.kill(os.getpid(), signal.SIGTERM)
    >>> held.received, calls
    (True, [])
    >>> held.act()
    >>> held.release()
    >>> held.received, calls
    (False, ['handled'])
    >>> _ = signal.signal(signal.SIGTERM, before)
    """

    def __init__(self) -> None:
        self.received = False
        self._handler: Callable[[int, FrameType | None], Any] | None = None

    def hold(self) -> None:
        """Begin to note. Where nobody handles the signal it ends the process as before."""
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self._handler = handler
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self.received = True

    def act(self) -> None:
        """Call the handler that was there, whether or not the signal came to this process."""
        if self._handler is not None:
            self._handler(signal.SIGTERM, None)

    def release(self) -> None:
        """Put the handler back, and forget what came."""
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        self._handler, self.received = None, False
