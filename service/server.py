"""Serving: one uvicorn process on one socket."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from service import logs
from service.app import create_app
from service.context import Context
from service.protocol import CappedProtocol
from service.settings import Settings
from supernet.errors import ConfigError

_SWITCH_S = 0.0005
"""A tenth of Python's own."""


def run(settings: Settings, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; logs go to standard error.

    Args:
        settings: port 0 takes any free port.
        on_ready: called once with the URL, when requests are answered.

    Raises:
        ConfigError: the port is in use, the address is not this machine's, or is unknown.
        RunBusyError: another service is at work in the same data folder.
        StorageError: the data folder cannot be written.
    """
    logs.configure(settings)
    _end_on_sigterm()
    # Every request passes between the event loop and a thread, and each passage may wait so long for the interpreter's
    # lock. Measured with a thousand requests at once on two cores: 0.9 to 1.0 s to the last answer, not 1.8 s.
    sys.setswitchinterval(_SWITCH_S)
    server, listener, url = prepare(settings)
    # What an upload spools lies where there is room for it: /tmp is memory on many systems, and in our containers.
    tempfile.tempdir = str(server.context.folder.temporary())
    server.on_ready = on_ready or (lambda _url: None)
    server.url = url
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises Ctrl-C again once everything is closed
            server.run(sockets=[listener])
    finally:
        listener.close()
        server.context.stop()


class Server(uvicorn.Server):
    """uvicorn with a call when it is ready.

    Attributes:
        on_ready: called once with the URL, when requests are answered.
        url: of the service.
        context: of the service; stop it when the server has ended.
    """

    on_ready: Callable[[str], None] = staticmethod(lambda _url: None)
    url = ""
    context: Context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer requests."""
        await super().startup(sockets=sockets)
        if self.started:
            gc.collect()
            gc.freeze()  # looking through what lives as long as the process stalled it: p99 of 174 ms instead of 71
            self.on_ready(self.url)


def prepare(settings: Settings) -> tuple[Server, socket.socket, str]:
    """A server that has its data folder, its running jobs and its address, and answers nothing yet.

    Returns:
        The server, the socket to run it on (close it afterwards), and the URL.

    Raises:
        ConfigError, RunBusyError, StorageError: as `run`.
    """
    listener = _listen(settings)
    try:
        app = create_app(settings)
        context: Context = app.state.context
        context.start()  # here already, so that a busy data folder is an error of the caller's
    except BaseException:
        listener.close()
        raise
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        http=CappedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.stop_grace_s,
        server_header=False,
    )
    server = Server(config)
    server.context = context
    app.state.stopping = lambda: server.should_exit
    return server, listener, f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _end_on_sigterm() -> None:
    """SIGTERM is an order and not a failure: exit status 0, whether it comes before, while or after uvicorn listens."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _listen(settings: Settings) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot serve at {settings.host}:{settings.port}: {reason.lower()}; end the program that uses the port,"
            " or choose another with --port (0 for any free one)"
        ) from None
    return listener
