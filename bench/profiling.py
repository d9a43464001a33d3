"""Where the app's CPU goes: py-spy over both workers while customers play.

    python -m bench.profiling [--seconds 20] [--clients 32] [--show 25]

Only threads that hold the interpreter's lock are counted: elsewhere py-spy cannot tell work from waiting everywhere.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench import ground, load, model_stub, systems, tools

_FRAME = re.compile(r"(?P<name>.+?) \((?P<file>.+?)(?::\d+)?\)$")
Stack = tuple[tuple[str, ...], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print three tables: by package, by function with what it calls, by function alone."""
    parser = argparse.ArgumentParser(prog="profiling")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--show", type=int, default=25, help="rows of each table")
    options = parser.parse_args(arguments)
    stacks = list(_parsed(_sampled(options.seconds, options.clients)))
    total = sum(count for _, count in stacks)
    print(f"{total} samples of threads that hold the interpreter's lock, {options.clients} clients, no model latency\n")
    tables = {
        "package, its own time": _own([(tuple(map(_package, frames)), count) for frames, count in stacks]),
        "function of the project with all it calls": _inclusive(stacks, _is_project),
        "other function with all it calls": _inclusive(stacks, lambda function: not _is_project(function)),
        "function, its own time": _own(stacks),
    }
    for title, counts in tables.items():
        _print(title, counts, total, options.show)
    return 0


def _sampled(seconds: int, clients: int) -> str:
    program = str(tools.program("py-spy"))  # installed before anybody plays
    with ground.prepared() as base, systems.icmp(base) as app, ThreadPoolExecutor(1) as threads:
        base.configure_stub(model_stub.Speed())
        job = load.Job(
            app.url, app.path, dict(app.headers), dict(app.body), base.stub_url, clients, seconds + 2, warmup_seconds=3
        )
        playing = threads.submit(ground.play, job)
        output = base.folder / "stacks.txt"
        spy = [program, "record", "--pid", str(app.pid), "--subprocesses", "--format", "raw"]
        spy += ["--gil", "--nonblocking", "--rate", "400", "--duration", str(seconds), "--output", str(output)]
        subprocess.run(spy, check=True, capture_output=True)
        playing.result()
        return output.read_text()


def _parsed(raw: str) -> Iterator[Stack]:
    for line in raw.splitlines():
        frames, _, count = line.rpartition(" ")
        if not (line.startswith("process ") and count.isdigit()):
            continue  # py-spy does not stop the threads: now and then it takes any text, of several lines, for a name
        yield tuple(_function(frame) for frame in frames.split(";")), int(count)


def _function(frame: str) -> str:
    found = _FRAME.match(frame)
    return frame.partition(":")[0] if found is None else f"{_short(found['file'])}:{found['name']}"


def _short(file: str) -> str:
    for start in (f"{ground.PROJECT}/", r".*/site-packages/", r".*/lib/python[\d.]+/"):
        file = re.sub(f"^{start}", "", file)
    return file


def _package(function: str) -> str:
    return re.split("[/:]", function, maxsplit=1)[0]


def _own(stacks: list[Stack]) -> Counter[str]:
    counts = Counter[str]()
    for frames, count in stacks:
        counts[frames[-1]] += count
    return counts


def _inclusive(stacks: list[Stack], wanted: Callable[[str], bool]) -> Counter[str]:
    counts = Counter[str]()
    for frames, count in stacks:
        counts.update(dict.fromkeys(filter(wanted, frames), count))
    return counts


def _is_project(function: str) -> bool:
    return (ground.PROJECT / function.partition(":")[0]).is_file()


def _print(title: str, counts: Counter[str], total: int, rows: int) -> None:
    print(f"| {title} | share |\n|---|---|")
    for name, count in counts.most_common(rows):
        print(f"| `{name}` | {100 * count / total:.1f} % |")
    print()


if __name__ == "__main__":
    sys.exit(main())
