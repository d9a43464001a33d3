"""The server of the file's rows."""

from __future__ import annotations

import json
import urllib.request

from bench import rows


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def test_rows_of_the_turn_are_answered_and_each_call_is_remembered_as_it_was_sent() -> None:
    with rows.RowsServer() as server:
        url = server.url("Repair shop", "Ask/Price")
        server.begin([{"price": "20"}])
        assert get(f"{url}?speed=&item=red%20%26%20blue&item=a%2Bb") == [{"price": "20"}]
        told = (("item", "a+b"), ("item", "red & blue"), ("speed", ""))
        assert server.end() == (rows.Request("/Repair shop/Ask/Price", told),)
        assert get(url) == []
        server.begin([])
        assert len(server.end()) == 1, "a call between two turns counts for the later one"
        assert server.end() == ()
