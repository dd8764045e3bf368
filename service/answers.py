"""What becomes one stored network, and what is known about it: subnet requests and pruning runs alike.

An equal spec is the same request, the same job and the same network. A job that failed or was cancelled is started
anew when somebody asks again. Formats that a network lacks are made by its job if that is submitted now, otherwise by
one of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.orm import Session

from service import exports
from service.callers import Caller, submit
from service.context import Context
from service.domain import Job, JobState, SubnetRecord
from service.errors import NotFoundError
from service.storage import jobs, subnets


class Asked(Protocol):
    """A subnet request or a pruning run."""

    @property
    def id(self) -> str:
        """Digest of its spec; also the id of its job."""

    @property
    def subnet_id(self) -> str | None:
        """The network, once it is there."""


Request = TypeVar("Request", bound=Asked)


@dataclass(frozen=True)
class Answer(Generic[Request]):
    """What is known about a request.

    Attributes:
        request: the request.
        job: what is under way for it, or what made the network.
        subnet: the network, once it is there.
        lacking: formats that were asked for and are not there yet.
    """

    request: Request
    job: Job | None
    subnet: SubnetRecord | None
    lacking: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is there."""
        return self.subnet is not None and not self.lacking

    @property
    def ended(self) -> bool:
        """Whether nothing is under way."""
        return self.job is None or self.job.state.is_final

    @property
    def job_id(self) -> str:
        """Id of the job that the answer waits for."""
        return self.request.id if self.job is None else self.job.id


@dataclass(frozen=True)
class Kind(Generic[Request]):
    """A kind of request.

    Attributes:
        name: what one is called in messages.
        address: where one is asked for.
        job: kind of its jobs.
        get: row of that id.
        add: inserts a row.
    """

    name: str
    address: str
    job: str
    get: Callable[[Session, str], Request | None]
    add: Callable[[Session, Request], None]

    def ask(
        self,
        context: Context,
        caller: Caller,
        request: Request,
        formats: Collection[str],
        check: Callable[[], None],
        before_adding: Callable[[Session], None] = lambda _session: None,
    ) -> Answer[Request]:
        """The network of a request, or the job that makes it.

        Args:
            context: of the service.
            caller: who asks.
            request: what for, as it is to be stored if it is new.
            formats: those that are wanted.
            check: refuses what cannot be done; called for what is not under way or there already.
            before_adding: looks, in the transaction that stores the request, at what may have changed since.

        Raises:
            FaultsError: a format cannot be made here.
            BusyError: too many jobs wait or run already.
        """
        exports.require(formats, "body.formats")
        known = self.find(context, request.id, formats)
        if known is not None and known.subnet is not None:
            return _with_formats(context, caller, known)
        wanted = exports.MADE_ON_DEMAND.keys() & set(formats)
        if known is not None and not known.ended:
            if not wanted:
                return known
            with context.database.session(exclusive=True) as session:
                subnets.want_formats(session, request.id, wanted)
        else:
            check()
            with context.database.session(exclusive=True) as session:
                before_adding(session)
                stored = self.get(session, request.id)
                if stored is None:
                    self.add(session, request)
                    session.flush()
                subnets.want_formats(session, request.id, wanted)
                if stored is None or stored.subnet_id is None:
                    submit(context, session, caller, self.job, request.id, {"request": request.id})
        answer = self.find(context, request.id, formats)
        assert answer is not None
        if answer.subnet is not None:  # made meanwhile, perhaps without looking once more what is wanted
            return _with_formats(context, caller, answer)
        return answer

    def find(self, context: Context, request_id: str, formats: Collection[str] = ()) -> Answer[Request] | None:
        """What is known about a request; None when nobody asked for it.

        Args:
            context: of the service.
            request_id: the request.
            formats: those that are wanted.
        """
        with context.database.session() as session:
            request = self.get(session, request_id)
            if request is None:
                return None
            subnet = None if request.subnet_id is None else subnets.get_subnet(session, request.subnet_id)
            lacking = () if subnet is None else exports.lacking(subnet, formats)
            return Answer(request, jobs.get(session, request_id), subnet, lacking)

    def show(self, context: Context, request_id: str) -> Answer[Request]:
        """What is known about a request that somebody made.

        Raises:
            NotFoundError: nobody did.
        """
        answer = self.find(context, request_id)
        if answer is None:
            raise NotFoundError(f"no {self.name} {request_id!r}; POST it to {self.address}")
        return answer

    def again(self, context: Context, before: Answer[Request], formats: Collection[str]) -> Answer[Request]:
        """The answer now; it keeps the job that was waited for, so that a failed one can be told."""
        answer = self.find(context, before.request.id, formats)
        assert answer is not None
        if before.job is None or before.job.id == before.request.id or answer.complete:
            return answer
        return _with_job(context, answer, before.job.id)


def state_of(context: Context, job_id: str) -> JobState | None:
    """Where a job stands; None when there is none."""
    with context.database.session() as session:
        job = jobs.get(session, job_id)
    return None if job is None else job.state


def _with_formats(context: Context, caller: Caller, known: Answer[Any]) -> Answer[Any]:
    assert known.subnet is not None
    if not known.lacking:
        return known
    return _with_job(context, known, exports.start(context, caller, known.subnet, known.lacking))


def _with_job(context: Context, answer: Answer[Any], job_id: str) -> Answer[Any]:
    """An answer that tells of another job: the one that makes its formats."""
    with context.database.session() as session:
        return replace(answer, job=jobs.get(session, job_id))
