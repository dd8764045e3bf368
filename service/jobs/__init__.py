"""Jobs: work that outlives a request.

Every job is a row of the `jobs` table, which is what users see, and a dbos workflow in the same database, which is how
it reaches a host: `DbosJobEngine.submit` writes both in the caller's transaction. A job host (`service.jobs.host`, a
process of its own on the machine of the service or on any other) takes workflows off the queue; its `JobRunner` hands
each to a warm child process that can be killed.

A row and a workflow belong together by the row's submission number. Whoever puts a job back into the queue (its host
has died or stops, its run was cancelled and asked for again) counts the number up and starts a new workflow. Every
change to a running job names the number and the host, so a host that comes back to life after its job has moved changes
nothing.
"""

from service.jobs.engine import DbosJobEngine, JobEngine
from service.jobs.runner import MAX_ATTEMPTS

__all__ = ["MAX_ATTEMPTS", "DbosJobEngine", "JobEngine"]
