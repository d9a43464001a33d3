"""The long run by hand: `make fuzz CASES=20000 SEED=1`, against the app as gunicorn serves it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from api import openapi
from api.settings import from_environment
from app import create_app
from db import embedded, migrate
from tests.api import gunicorn_server
from tests.conftest import ENVIRONMENT
from tests.fuzz.engine import Fuzz

# The bucket of logins would otherwise be empty after ten requests.
GENEROUS = {"RATE_LIMIT_LOGIN_BURST": "1000000", "RATE_LIMIT_LOGIN_PER_MINUTE": "1000000"}


def main() -> int:
    """Round after round, each with the next seed, until there were enough cases; 1 when a fault was found."""
    chosen = _arguments()
    statuses: Counter[int] = Counter()
    faults: dict[str, str] = {}
    reached: set[str] = set()
    started, seed = time.monotonic(), chosen.seed
    with tempfile.TemporaryDirectory(prefix="icmp-fuzz-") as folder, embedded.running(Path(folder) / "pg") as url:
        migrate.apply(url)
        app = create_app(from_environment(ENVIRONMENT | {"DATABASE_URL": url}))
        with app.app_context():
            document = openapi.document(app)
        with gunicorn_server.running(Path(folder), url, **GENEROUS) as server:
            while statuses.total() < chosen.cases:
                fuzz = Fuzz(document, server.port, seed, chosen.examples, chosen.only, keep_going=True)
                fuzz.run(with_edges=seed == chosen.seed)
                statuses += fuzz.statuses
                reached |= fuzz.reached
                for kind in fuzz.faults.keys() - faults.keys():
                    # At once: a run that is stopped has told what it found.
                    print(fuzz.faults[kind], end="\n\n", flush=True)
                faults |= fuzz.faults
                print(f"seed {seed}: {statuses.total()} cases, {len(faults)} kinds of faults", file=sys.stderr)
                seed += 1
    seconds = time.monotonic() - started
    print(
        f"{statuses.total()} cases in {seconds:.0f} s, seeds {chosen.seed}–{seed - 1}, {chosen.examples} examples each"
    )
    print("statuses:", ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
    print(f"operations with a success: {len(reached)}; kinds of faults: {len(faults)}")
    return 1 if faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="answers to wait for at least")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; a fault names the seed of its round")
    parser.add_argument("--examples", type=int, default=20, help="of each kind, for each operation and caller")
    parser.add_argument("--only", default="", help="operations whose method and path contain this")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
