"""The thread of each process that keeps the leases of its turns alive and takes over turns whose worker was lost, and
the one that has young tables analyzed."""

from __future__ import annotations

import functools
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import db
from db import message_requests, statistics, turn_leases
from db.turn_leases import Claim
from nlp.side_by_side import Threads

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
RENEWALS_PER_LEASE = 4
TAKEN_AT_ONCE = 4  # turns of lost workers, beside this process's own
# What cannot be taken now, such as turns of a business that is being deleted, must not hide the rest.
LOOKED_AT_ONCE = 500
FAULTS_IN_A_ROW = 3
FORGET_SECONDS = 300.0
FORGOTTEN_AT_ONCE = 5000
ANALYZE_SECONDS = 2.0

Resume = Callable[[str, str], None]


class Keeper:
    """Starts its thread when told to, once per process: what a fork leaves behind does not count."""

    def __init__(self, database: db.Database, *, lease_s: float, longest_s: float) -> None:
        """`longest_s`: a claim is not kept alive for longer, whatever became of its thread."""
        self._database = database
        self._lease_s, self._longest_s = lease_s, longest_s
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._held: dict[Claim, float] = {}
        self._threads = Threads(TAKEN_AT_ONCE)

    @property
    def owner(self) -> str:
        """This process, as people read it in the table `turns`."""
        return f"{socket.gethostname()}:{os.getpid()}"

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """The claim's lease is renewed until the block ends."""
        with self._lock:
            self._held[claim] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(claim, None)

    def start(self, resume: Resume) -> None:
        """Watch from now on; `resume` is given the (business_id, turn_id) of each turn to take over."""
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
        threading.Thread(target=self._watch, args=[resume], name="keeper", daemon=True).start()
        # A thread of its own: leases must not wait for it.
        threading.Thread(target=self._analyze, name="statistics", daemon=True).start()

    def _watch(self, resume: Resume) -> None:
        renewed = forgot = time.monotonic()
        is_blind = False
        while True:
            time.sleep(SWEEP_SECONDS * random.uniform(0.5, 1.0))
            now = time.monotonic()
            try:
                if now - renewed >= self._lease_s / RENEWALS_PER_LEASE:
                    renewed = now
                    self._renew(now)
                self._sweep(resume)
                if now - forgot >= FORGET_SECONDS:
                    forgot = now
                    message_requests.forget(self._database, FORGOTTEN_AT_ONCE)
                is_blind = False
            except db.DatabaseUnavailable as error:
                if not is_blind:
                    log.warning("turns are not watched while the database is away: %s", error)
                is_blind = True
            except Exception:
                log.exception("watching turns failed")  # the next round may go better; without rounds turns get stuck

    def _analyze(self) -> None:
        while True:
            time.sleep(ANALYZE_SECONDS * random.uniform(0.5, 1.0))
            try:
                statistics.refresh(self._database)
            except db.DatabaseUnavailable as error:
                log.debug("young tables are not analyzed: %s", error)  # the keeper tells of a database that is away
            except Exception:
                log.exception("analyzing young tables failed")

    def _renew(self, now: float) -> None:
        by_business: dict[str, list[Claim]] = {}
        with self._lock:
            for claim, since in self._held.items():
                if now - since < self._longest_s:
                    by_business.setdefault(claim.business_id, []).append(claim)
        faults = 0
        for business_id, claims in random.sample(list(by_business.items()), len(by_business)):
            try:
                turn_leases.renew(self._database, business_id, claims, self._lease_s)
                faults = 0
            except db.DatabaseUnavailable:
                faults += 1
                if faults == FAULTS_IN_A_ROW:
                    raise

    def _sweep(self, resume: Resume) -> None:
        found = turn_leases.abandoned(self._database, LOOKED_AT_ONCE)
        for business_id, turn_id in random.sample(found, len(found)):
            if self._threads.start(functools.partial(resume, business_id, turn_id)) is None:
                return  # all at work: the next round, or another process, takes the rest
