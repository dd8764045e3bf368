"""Everything about the service that an operator may choose, read from arguments or `ONCEFORALL_*` variables."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from supernet.errors import ConfigError

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Settings(BaseSettings):
    """Settings of one service; frozen.

    Attributes:
        data_dir: folder of the caches and, unless the next two say otherwise, of the database and the artefacts; made
            when absent.
        database_url: ``postgresql://user:password@host/name`` for several processes; None: SQLite in `data_dir`.
        artifact_url: ``s3://bucket/prefix`` (server and keys by the AWS_* variables), or ``file:///folder``; None: a
            folder in `data_dir`.
        host: address to listen on. On a loopback address a key is optional, on any other one required.
        port: TCP port; 0 for any free one.
        public: ask nobody for a key, whatever the address: for a service behind a proxy that does.
        allowed_hosts: names by which the service is addressed, as the Host header has them without a port, separated by
            commas; "*": any. Empty: where no key is asked for, the names and addresses of this machine, because a page
            of a stranger can make a name of its own resolve to it; elsewhere any.
        max_body_bytes: cap on a JSON body.
        max_table_bytes: cap on an uploaded latency table.
        max_upload_bytes: cap on an uploaded run, all files together.
        max_weights_bytes: cap on the weights that a pruning run is asked for with.
        max_uploads: runs and weights that are uploaded at a time; one more answers 429.
        max_active_jobs: jobs that may wait or run; one more answers 429.
        max_event_streams: open event streams, and requests that wait for a job; one more answers 429.
        max_requests: requests that are served at a time; one more answers 429. Two cores need a second for so many, and
            a flood waits no longer.
        max_wait_s: cap on `Prefer: wait`, seconds.
        body_timeout_s: seconds that a body may take, besides a second for each `body_bytes_per_s`.
        body_bytes_per_s: how slowly a body may come, bytes a second.
        requests_per_minute: of one key, where the key has no cap of its own; counted by each API process.
        key_active_jobs: jobs of one key that may wait or run, where the key has no cap of its own.
        job_workers: jobs that run at a time, each in its own child process; 0: this process does none, and hosts that
            run `onceforall worker` do them.
        job_threads: torch threads of a child process. Measured on a busy two-core host: two wait for each
            other and take 20 times as long as one.
        job_timeout_s: seconds after which a job's child process is killed.
        job_memory_bytes: address space of a child process.
        prune_workers: pruning runs that go on at a time, each in a child process of its own beside those of
            `job_workers`; 0: this host does none.
        prune_timeout_s: seconds after which a pruning run's child process is killed; asked for again, the run goes on
            from where it was.
        prune_max_epochs: cap on the epochs of a pruning run.
        prune_max_resolution: cap on the side of a pruned network's input, pixels.
        prune_max_params: cap on the parameters of a network to prune.
        data_sets: folder of data sets that pruning runs may name besides the digits. In it, `cifar10` and
            `fashion-mnist` hold these sets' own files, and any other folder a folder of images a class. None: no more.
        search_population, search_generations: size of a request's evolutionary search.
        front_population, front_generations: size of the search for a front.
        log_format: "json": one object a line; "console": words; "auto": words where standard error is a terminal.
        log_level: least important lines that are written.
        min_free_bytes: /readyz refuses when less is free in the data folder, or in the artefacts' folder.
        ready_store_s: seconds for which /readyz remembers that a file could be written to the artefact store.
        retain_days: age in days at which finished subnets are forgotten, with their files; None: never. The same
            request makes them anew.
        max_store_bytes: cap on the files of all subnets; the oldest are forgotten first; None: no cap.
        stop_grace_s: seconds that running requests have to end after SIGTERM; then they are cut.
    """

    model_config = SettingsConfigDict(env_prefix="ONCEFORALL_", frozen=True, extra="forbid")

    data_dir: Path = Path("onceforall-data")
    database_url: str | None = None
    artifact_url: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public: bool = False
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    max_body_bytes: int = Field(default=256 * KiB, gt=0)
    max_table_bytes: int = Field(default=4 * MiB, gt=0)
    max_upload_bytes: int = Field(default=2 * GiB, gt=0)
    max_weights_bytes: int = Field(default=512 * MiB, gt=0)
    max_uploads: int = Field(default=4, gt=0)
    max_active_jobs: int = Field(default=64, gt=0)
    max_event_streams: int = Field(default=64, gt=0)
    max_requests: int = Field(default=256, gt=0)
    max_wait_s: float = Field(default=30.0, ge=0, le=600)
    body_timeout_s: float = Field(default=10.0, gt=0)
    body_bytes_per_s: int = Field(default=64 * KiB, gt=0)
    requests_per_minute: int = Field(default=6000, gt=0)
    key_active_jobs: int = Field(default=16, gt=0)
    job_workers: int = Field(default=1, ge=0, le=64)
    job_threads: int = Field(default=1, gt=0, le=256)
    job_timeout_s: float = Field(default=600.0, gt=0)
    job_memory_bytes: int = Field(default=16 * GiB, gt=0)
    prune_workers: int = Field(default=1, ge=0, le=64)
    prune_timeout_s: float = Field(default=14400.0, gt=0)
    prune_max_epochs: int = Field(default=100, ge=1)
    prune_max_resolution: int = Field(default=256, ge=8)
    prune_max_params: int = Field(default=200_000_000, ge=1)
    data_sets: Path | None = None
    search_population: int = Field(default=100, ge=4, le=100_000)
    search_generations: int = Field(default=500, ge=1)
    front_population: int = Field(default=500, ge=4, le=100_000)
    front_generations: int = Field(default=100, ge=1)
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    min_free_bytes: int = Field(default=512 * MiB, ge=0)
    ready_store_s: float = Field(default=5.0, ge=0)
    retain_days: float | None = Field(default=None, gt=0)
    max_store_bytes: int | None = Field(default=None, ge=0)
    stop_grace_s: int = Field(default=10, ge=1, le=3600)

    @field_validator("database_url")
    @classmethod
    def _a_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(sqlite:///|postgres(ql)?(\+psycopg)?://)", value):
            raise ValueError("allowed: postgresql://user:password@host/name, sqlite:////absolute/file")
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",") if name.strip()]
        if isinstance(value, list | tuple):
            strange = [name for name in value if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+|\*", str(name))]
            if strange:
                raise ValueError(
                    f"{strange[0]!r} is no name; allowed: names without ports, such as cut.example.org, or *"
                )
            return tuple(str(name).lower() for name in value)
        return value

    @property
    def resolved_database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        if self.database_url is None:
            return f"sqlite:///{self.data_dir.resolve() / 'service.sqlite'}"
        return re.sub(r"^postgres(ql)?(\+psycopg)?://", "postgresql+psycopg://", self.database_url)

    @property
    def resolved_artifact_url(self) -> str:
        """URL of the artefact store, as `service.storage.artifacts.open_artifacts` takes it."""
        return self.artifact_url or (self.data_dir.resolve() / "artifacts").as_uri()

    @property
    def embedded(self) -> bool:
        """Whether the database is a file, so that one service at a time works on it."""
        return self.resolved_database_url.startswith("sqlite")

    @property
    def cache_dir(self) -> Path:
        """Folder of what can be made again: materialised runs, uploads under way."""
        return self.data_dir.resolve() / "cache"

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def keys_required(self) -> bool:
        """Whether a request without a key is refused."""
        return not self.loopback and not self.public

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names in the Host header that are answered; None: any."""
        if self.allowed_hosts:
            return None if "*" in self.allowed_hosts else frozenset((*_LOCAL, *self.allowed_hosts))
        return None if self.keys_required else frozenset((*_LOCAL, self.host.lower()))


def load_settings(**chosen: object) -> Settings:
    """Settings from arguments (None: not given), then the environment, then the defaults.

    Raises:
        ConfigError: values that are not allowed; every fault is named in the one message.
    """
    try:
        return Settings(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}" for fault in error.errors()]
        raise ConfigError(f"settings: {'; '.join(faults)}; allowed: {', '.join(Settings.model_fields)}") from None
