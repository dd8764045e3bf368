"""Everything about the service that an operator may choose, read from arguments or `ONCEFORALL_*` variables."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from supernet.errors import ConfigError

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB


class Settings(BaseSettings):
    """Settings of one service; frozen.

    Attributes:
        data_dir: folder of the caches and, unless the next two say otherwise, of the database and the artefacts; made
            when absent.
        database_url: ``postgresql://user:password@host/name`` for several processes; None: SQLite in `data_dir`.
        artifact_url: ``s3://bucket/prefix`` (server and keys by the AWS_* variables), or ``file:///folder``; None: a
            folder in `data_dir`.
        host: address to listen on. Without keys only a loopback address is served, unless `public` is set.
        port: TCP port; 0 for any free one.
        public: whether an address that other machines can reach may be served without keys.
        max_body_bytes: cap on a JSON body.
        max_table_bytes: cap on an uploaded latency table.
        max_upload_bytes: cap on an uploaded run, all files together.
        max_active_jobs: jobs that may wait or run; one more answers 429.
        max_event_streams: open event streams; one more answers 429.
        job_workers: jobs that run at a time, each in its own child process; 0: this process does none, and hosts that
            run `onceforall worker` do them.
        job_threads: torch threads of a child process. Measured on a busy two-core host: two wait for each
            other and take 20 times as long as one.
        job_timeout_s: seconds after which a job's child process is killed.
        job_memory_bytes: address space of a child process.
        search_population, search_generations: size of a request's evolutionary search.
        log_format: "json": one object a line; "console": words; "auto": words where standard error is a terminal.
        log_level: least important lines that are written.
    """

    model_config = SettingsConfigDict(env_prefix="ONCEFORALL_", frozen=True, extra="forbid")

    data_dir: Path = Path("onceforall-data")
    database_url: str | None = None
    artifact_url: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public: bool = False
    max_body_bytes: int = Field(default=256 * KiB, gt=0)
    max_table_bytes: int = Field(default=4 * MiB, gt=0)
    max_upload_bytes: int = Field(default=2 * GiB, gt=0)
    max_active_jobs: int = Field(default=64, gt=0)
    max_event_streams: int = Field(default=64, gt=0)
    job_workers: int = Field(default=1, ge=0, le=64)
    job_threads: int = Field(default=1, gt=0, le=256)
    job_timeout_s: float = Field(default=600.0, gt=0)
    job_memory_bytes: int = Field(default=16 * GiB, gt=0)
    search_population: int = Field(default=100, ge=4, le=100_000)
    search_generations: int = Field(default=500, ge=1)
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("database_url")
    @classmethod
    def _a_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(sqlite:///|postgres(ql)?(\+psycopg)?://)", value):
            raise ValueError("allowed: postgresql://user:password@host/name, sqlite:////absolute/file")
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

    def check_address(self) -> None:
        """Refuse an address that other machines can reach, unless `public` is set.

        Raises:
            ConfigError: the address is not a loopback address.
        """
        try:
            loopback = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            loopback = False
        if not loopback and not self.public:
            raise ConfigError(
                f"host {self.host!r} can be reached by other machines, and this service asks nobody for a key; allowed:"
                " 127.0.0.1, ::1, localhost; set ONCEFORALL_PUBLIC=true if a firewall or a proxy guards it"
            )


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
