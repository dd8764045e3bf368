"""Serving: one uvicorn process on one socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from service.app import create_app
from service.context import Context
from service.settings import Settings
from supernet.errors import ConfigError

_GRACE_S = 3


def run(settings: Settings, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: port 0 takes any free port.
        on_ready: called once with the URL, when requests are answered.

    Raises:
        ConfigError: the port is in use, the address is not this machine's, or it may not be served without keys.
        RunBusyError: another service is at work in the same data folder.
        StorageError: the data folder cannot be written.
    """
    server, listener, url = _prepare(settings)
    server.on_ready = on_ready or (lambda _url: None)
    server.url = url
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises Ctrl-C again once everything is closed
            server.run(sockets=[listener])
    finally:
        listener.close()
        server.context.engine.stop()


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve in a thread for the length of a `with` block; yields the URL.

    Raises:
        ConfigError, RunBusyError, StorageError: as `run`.
    """
    server, listener, url = _prepare(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=_GRACE_S + 15)
        listener.close()
        server.context.engine.stop()


class _Server(uvicorn.Server):
    on_ready: Callable[[str], None] = staticmethod(lambda _url: None)
    url = ""
    context: Context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.on_ready(self.url)


def _prepare(settings: Settings) -> tuple[_Server, socket.socket, str]:
    settings.check_address()
    listener = _listen(settings)
    try:
        app = create_app(settings)
        context: Context = app.state.context
        context.engine.start()  # here already, so that a busy data folder is an error of the caller's
    except BaseException:
        listener.close()
        raise
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=_GRACE_S, server_header=False)
    server = _Server(config)
    server.context = context
    return server, listener, f"http://{f'[{host}]' if ':' in host else host}:{port}"


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
