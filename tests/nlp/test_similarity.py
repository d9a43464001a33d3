"""The local score: what ranks first, and at what cost."""

import time

import pytest

from nlp import similarity

STAGES = [
    similarity.Candidate("order_status", "The customer asks where an order is.", "Customer: where is my parcel?"),
    similarity.Candidate("complaint", "Something arrived broken.", "Customer: it is scratched\nAssistant: refund"),
    similarity.Candidate("OpeningHours", "When the shop is open.", ""),
]


def best(message: str) -> str:
    return similarity.rank(message, STAGES)[0][0]


def test_best_candidate_comes_first_with_every_score_in_range() -> None:
    ranked = similarity.rank("Where is my order?", STAGES)
    assert ranked[0][0] == "order_status"
    assert sorted(name for name, _ in ranked) == sorted(stage.name for stage in STAGES)
    assert all(0.0 <= score <= 1.0 for _, score in ranked)


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("opening hours", "OpeningHours"),
        ("WHERE ARE MY PARCELS", "order_status"),
        ("my lamp is scratched", "complaint"),
        ("I have a compliant", "complaint"),
    ],
)
def test_camel_case_plurals_example_lines_and_typing_errors_are_understood(message: str, name: str) -> None:
    assert best(message) == name


def test_assistant_lines_of_examples_do_not_count() -> None:
    assert dict(similarity.rank("refund", STAGES))["complaint"] == 0.0


def test_ties_keep_the_order_given() -> None:
    assert [name for name, _ in similarity.rank("zebra", STAGES)] == [stage.name for stage in STAGES]


def test_same_sentence_as_an_example_scores_nearly_one() -> None:
    assert dict(similarity.rank("where is my parcel?", STAGES))["order_status"] > 0.9


def test_empty_message_and_no_candidates_are_fine() -> None:
    assert similarity.rank("", STAGES)[0][1] == 0.0
    assert similarity.rank("hello", []) == []


@pytest.mark.parametrize(
    ("message", "name"),
    [("Wo ist meine Bestellung?", "bestellung"), ("मेरा ऑर्डर कहाँ है", "hindi"), ("CAFÉ", "cafe")],
)
def test_other_languages_that_part_words_rank_too(message: str, name: str) -> None:
    candidates = [
        similarity.Candidate("other", "Etwas anderes.", ""),
        similarity.Candidate("hindi", "ऑर्डर कहाँ", ""),
        similarity.Candidate("bestellung", "Fragen zu einer Bestellung", ""),
        similarity.Candidate("cafe", "Our café", ""),
    ]
    assert similarity.rank(message, candidates)[0][0] == name


def test_many_candidates_and_a_huge_message_stay_cheap() -> None:
    candidates = [similarity.Candidate(f"topic_{n}", f"About lamp {n} and shade {n % 7}", "") for n in range(77)]
    similarity.rank("warm up", candidates)
    started = time.perf_counter()
    similarity.rank("lampp shaade topik " * 1700, candidates)
    assert time.perf_counter() - started < 0.5
