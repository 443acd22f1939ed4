"""The tables. SQL is the truth about every study, job and result.

A *study* is what a client registered: *images* by address. A *job* is the order to score all images
of a study once; its *items* have the state of each image within that job. A *result* belongs to an
instance and a model, not to a job, and exists once: a task that is delivered twice adds none.

An *instance* is an object as its header describes it. A *campaign* scores a frozen selection of
instances again. *Feedback* is what a reader said of a finding. A *delivery* sends one event of the
outbox to one destination. The *audit* says who did what; its rows cannot be changed.
"""

from hilum.db.tables.campaigns import campaign_items as campaign_items
from hilum.db.tables.campaigns import campaigns as campaigns
from hilum.db.tables.campaigns import index_runs as index_runs
from hilum.db.tables.campaigns import promotions as promotions
from hilum.db.tables.campaigns import workers as workers
from hilum.db.tables.columns import FIRST_PIPELINE as FIRST_PIPELINE
from hilum.db.tables.columns import UtcDateTime as UtcDateTime
from hilum.db.tables.columns import metadata as metadata
from hilum.db.tables.feedback import feedback as feedback
from hilum.db.tables.records import api_keys as api_keys
from hilum.db.tables.records import audit as audit
from hilum.db.tables.records import instances as instances
from hilum.db.tables.results import findings as findings
from hilum.db.tables.results import models as models
from hilum.db.tables.results import results as results
from hilum.db.tables.results import serving as serving
from hilum.db.tables.work import deliveries as deliveries
from hilum.db.tables.work import idempotency_keys as idempotency_keys
from hilum.db.tables.work import images as images
from hilum.db.tables.work import items as items
from hilum.db.tables.work import jobs as jobs
from hilum.db.tables.work import outbox as outbox
from hilum.db.tables.work import studies as studies
from hilum.db.tables.work import tenants as tenants
