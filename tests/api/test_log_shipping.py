"""The log on its way to ELK: everything arrives once, whatever the other side does; and nobody ever waits for it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api import logs, metrics
from api.log_shipping import Limits, Shipper
from api.log_targets import Target
from tests.api import gunicorn_server
from tests.conftest import Client
from tests.nlp import model_server, web_server
from tests.nlp.model_server import Behaviour, Handler
from tests.waiting import until

QUICK = Limits(batch_seconds=0.02, first_pause_seconds=0.01, call_seconds=2.0, give_up_seconds=20.0)
TAKEN = model_server.answers({"errors": False})


@pytest.fixture
def elk() -> Iterator[web_server.Server]:
    """Elasticsearch or Logstash, as far as a client can see."""
    with web_server.running() as server:
        yield server


@contextmanager
def _shipping(server: web_server.Server, limits: Limits = QUICK, **target: Any) -> Iterator[Shipper]:
    shipper = Shipper(Target(f"http://{server.host}", **target), limits)
    try:
        yield shipper
    finally:
        shipper.close(0.2)


def _offer(shipper: Shipper, *numbers: int) -> None:
    for number in numbers:
        shipper.offer(json.dumps({"number": number}))


def _bulk(body: bytes) -> list[tuple[str, int]]:
    """The ids and numbers of one call to Elasticsearch."""
    lines = [json.loads(line) for line in body.decode().splitlines()]
    actions, documents = lines[::2], lines[1::2]
    assert [list(action) for action in actions] == [["create"]] * len(documents)
    return [(action["create"]["_id"], document["number"]) for action, document in zip(actions, documents, strict=True)]


def _numbers(server: web_server.Server) -> list[int]:
    return [number for seen in server.seen for _, number in _bulk(seen.body)]


def _dropped() -> float:
    return sum(sample.value for sample in next(iter(metrics.LOGS_DROPPED.collect())).samples[:1])


def test_elasticsearch_gets_batches_of_documents_with_ids(elk: web_server.Server) -> None:
    elk.plays(TAKEN)
    limits = replace(QUICK, batch_seconds=60.0)
    with _shipping(elk, limits, index="logs-shop", authorization="ApiKey abc") as shipper:
        _offer(shipper, *range(1000))
        until(lambda: len(elk.seen) == 2)
    assert _numbers(elk) == list(range(1000))
    assert [len(_bulk(seen.body)) for seen in elk.seen] == [500, 500]
    assert len({line_id for seen in elk.seen for line_id, _ in _bulk(seen.body)}) == 1000
    assert {seen.path for seen in elk.seen} == {"/logs-shop/_bulk?filter_path=errors,items.*.status"}
    [told] = {(seen.method, seen.headers["content-type"], seen.headers["authorization"]) for seen in elk.seen}
    assert told == ("POST", "application/x-ndjson", "ApiKey abc")


def test_logstash_gets_arrays(elk: web_server.Server) -> None:
    elk.plays(model_server.answers(b"ok"))
    with _shipping(elk, format="logstash") as shipper:
        _offer(shipper, *range(700))
        until(lambda: sum(len(json.loads(seen.body)) for seen in elk.seen) == 700)
    assert [line["number"] for seen in elk.seen for line in json.loads(seen.body)] == list(range(700))
    assert {(seen.path, seen.headers["content-type"]) for seen in elk.seen} == {("/", "application/json")}
    assert "authorization" not in elk.seen[0].headers


def test_a_batch_is_bounded_in_size_but_one_long_line_still_travels(elk: web_server.Server) -> None:
    elk.plays(TAKEN)
    with _shipping(elk, replace(QUICK, batch_size=1000)) as shipper:
        for number in range(20):
            shipper.offer(json.dumps({"number": number, "padding": "x" * (5000 if number == 7 else 200)}))
        until(lambda: len(_numbers(elk)) == 20)
    assert _numbers(elk) == list(range(20))
    assert max(len(_bulk(seen.body)) for seen in elk.seen) <= 4


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_what_passes_is_tried_again_and_nothing_is_lost_or_new(elk: web_server.Server, status: int) -> None:
    before = _dropped()
    elk.plays(*[model_server.fails(status)] * 3, TAKEN)
    with _shipping(elk) as shipper:
        _offer(shipper, *range(10))
        until(lambda: len(elk.seen) == 4)
        _offer(shipper, 10)
        until(lambda: len(elk.seen) == 5)
    first, *repeats = [_bulk(seen.body) for seen in elk.seen[:4]]
    assert repeats == [first] * 3, "a repeat has the same ids, so that it adds nothing"
    assert [number for _, number in _bulk(elk.seen[4].body)] == [10]
    assert _dropped() == before


@pytest.mark.parametrize("behaviour", [model_server.resets, model_server.cuts, model_server.answers(b"<html>")])
def test_an_answer_that_is_lost_or_foreign_is_no_answer(elk: web_server.Server, behaviour: Behaviour) -> None:
    before = _dropped()
    elk.plays(behaviour, TAKEN)
    with _shipping(elk) as shipper:
        _offer(shipper, 1)
        until(lambda: len(elk.seen) == 2)
    assert (_numbers(elk), _dropped()) == ([1, 1], before)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 302])
def test_a_refusal_is_final_counted_and_blocks_nobody(elk: web_server.Server, status: int) -> None:
    before = _dropped()
    elk.plays(model_server.answers(b"{}", status), TAKEN)
    with _shipping(elk) as shipper:
        _offer(shipper, 1, 2)
        until(lambda: _dropped() - before == 2)
        _offer(shipper, 3)
        until(lambda: len(elk.seen) == 2)
    assert [number for _, number in _bulk(elk.seen[1].body)] == [3]


def test_elasticsearch_tells_of_each_line_what_became_of_it(elk: web_server.Server) -> None:
    before = _dropped()
    items = [{"create": {"status": status}} for status in (201, 429, 409, 400, 503)]
    elk.plays(model_server.answers({"errors": True, "items": items}), TAKEN)
    with _shipping(elk) as shipper:
        _offer(shipper, *range(5))
        until(lambda: len(elk.seen) == 2)
    first, second = (_bulk(seen.body) for seen in elk.seen)
    assert second == [first[1], first[4]]
    assert _dropped() - before == 1


def test_a_server_that_asks_for_rest_gets_it(elk: web_server.Server) -> None:
    came: list[float] = []

    def busy(handler: Handler) -> None:
        came.append(time.monotonic())
        handler.send(503, b"", Retry_After="1")

    def taken(handler: Handler) -> None:
        came.append(time.monotonic())
        TAKEN(handler)

    elk.plays(busy, taken)
    with _shipping(elk) as shipper:
        _offer(shipper, 1)
        until(lambda: len(came) == 2)
    assert came[1] - came[0] >= 1


def test_a_line_is_taken_or_dropped_at_once_while_the_other_side_hangs(elk: web_server.Server) -> None:
    before = _dropped()
    elk.plays(model_server.hangs)
    limits = replace(QUICK, queue_lines=100, call_seconds=30.0)
    with _shipping(elk, limits) as shipper:
        _offer(shipper, 0)
        until(lambda: len(elk.seen) == 1)
        slowest = 0.0
        for number in range(1, 301):
            started = time.thread_time()
            _offer(shipper, number)
            slowest = max(slowest, time.thread_time() - started)
        assert _dropped() - before == 200
    assert slowest < 0.5, "of its own time; to wait for the other side would take 30 s"


def test_the_queue_is_bounded_in_bytes_too(elk: web_server.Server) -> None:
    before = _dropped()
    elk.plays(model_server.hangs)
    with _shipping(elk, replace(QUICK, queue_size=1000, call_seconds=30.0)) as shipper:
        _offer(shipper, 0)
        until(lambda: len(elk.seen) == 1)
        for _ in range(10):
            shipper.offer("x" * 300)
        assert _dropped() - before == 7


def test_a_server_that_cannot_prove_its_name_gets_nothing(tmp_path: Path) -> None:
    before = _dropped()
    untrusted, _ = web_server.certificate(tmp_path, "elk.example")
    with web_server.running(untrusted) as impostor:
        shipper = Shipper(Target(f"https://{impostor.host}"), replace(QUICK, give_up_seconds=0.1))
        _offer(shipper, 1)
        until(lambda: _dropped() - before == 1)
        shipper.close(0.2)
        assert impostor.seen == []


def test_drops_are_told_on_stdout_once_in_a_while_and_not_shipped(
    elk: web_server.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    elk.plays(model_server.answers(b"{}", 401))
    shipper = Shipper(Target(f"http://{elk.host}"), QUICK)
    logs.configure("INFO", shipper)
    for number in range(5):
        before = len(elk.seen)
        logging.getLogger("icmp.test").info("line", extra={"number": number})
        until(lambda seen=before: len(elk.seen) > seen)  # type: ignore[misc]
    logs.configure("WARNING")  # closes the shipper
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    notes = [line for line in told if line["source"] == "icmp.log_shipping"]
    assert 1 <= len(notes) <= 2
    assert (notes[0]["message"], notes[0]["reason"]) == ("log lines were not shipped", "status 401")
    assert sum(note["dropped"] for note in notes) == 5
    assert _numbers(elk) == list(range(5))


def test_the_end_sends_what_waits(elk: web_server.Server) -> None:
    elk.plays(TAKEN)
    shipper = Shipper(Target(f"http://{elk.host}"), replace(QUICK, batch_seconds=60.0))
    _offer(shipper, *range(1300))
    shipper.close()
    assert _numbers(elk) == list(range(1300))


def test_the_end_does_not_wait_for_a_side_that_is_down_and_counts_what_is_left(elk: web_server.Server) -> None:
    before, running = _dropped(), set(threading.enumerate())
    elk.plays(model_server.hangs)
    shipper = Shipper(Target(f"http://{elk.host}"), replace(QUICK, call_seconds=60.0))
    _offer(shipper, 0)
    until(lambda: len(elk.seen) == 1)
    _offer(shipper, *range(1, 21))
    ending = threading.Thread(target=shipper.close, args=(0.2,))
    ending.start()
    ending.join(20)
    assert not ending.is_alive()
    assert _dropped() - before == 21
    _offer(shipper, 21)
    assert _dropped() - before == 22
    elk.released.set()
    [thread] = [each for each in set(threading.enumerate()) - running if each.name == "log-shipping"]
    thread.join(20)
    assert _dropped() - before == 22, "what was in hand is not counted once more when its call fails at last"


def test_lines_that_cannot_be_brought_for_too_long_are_given_up(elk: web_server.Server) -> None:
    before = _dropped()
    elk.plays(model_server.fails(503))
    with _shipping(elk, replace(QUICK, give_up_seconds=0.1)) as shipper:
        _offer(shipper, 1)
        until(lambda: _dropped() - before == 1)
        elk.plays(TAKEN)
        _offer(shipper, 2)
        until(lambda: _numbers(elk) == [2])


def test_gunicorns_master_and_workers_ship_all_their_lines_until_the_end(
    elk: web_server.Server, database_url: str, tmp_path: Path
) -> None:
    elk.plays(model_server.fails(503), TAKEN)
    with gunicorn_server.running(
        tmp_path, database_url, WEB_CONCURRENCY="2", LOG_HTTP_URL=f"http://{elk.host}"
    ) as served:
        statuses = [Client(served.port).get("/").status for _ in range(300)]
    assert statuses == [200] * 300
    here = served.log.read_text(encoding="utf-8").splitlines()
    there = {line for seen in elk.seen for line in seen.body.decode().splitlines()[1::2]}
    assert sum('"icmp.request"' in line for line in there) == 300
    # What gunicorn says before the settings are read goes to stdout alone.
    assert [line for line in here if line not in there and "Starting gunicorn" not in line] == []
    assert any("Shutting down" in line for line in there)


def test_requests_are_answered_while_the_other_side_is_ill(
    elk: web_server.Server, database_url: str, tmp_path: Path
) -> None:
    elk.plays(model_server.resets, model_server.fails(500), model_server.hangs)
    with gunicorn_server.running(tmp_path, database_url, LOG_HTTP_URL=f"http://{elk.host}") as served:
        until(lambda: len(elk.seen) >= 3)
        assert [Client(served.port).get("/").status for _ in range(100)] == [200] * 100
    assert sum(line["source"] == "icmp.request" for line in served.lines()) == 100
