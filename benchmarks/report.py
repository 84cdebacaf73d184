"""docs/benchmarks.md from the JSON of the sections: `python -m benchmarks.report` writes it anew.

Figures of several runs are medians; a ratio is the median of the ratios pair by pair, with the
least and the greatest beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import pairs, results

PAGE: Final = results.FOLDER.parent / "benchmarks.md"
NOT_KNOWN: Final = "n/a"
HEAD: Final = """\
# Benchmarks

trouped and etcd on the same machine, in the same run, under the same load generator
(`python -m benchmarks.load`), which runs on the same cores. Both run all the time, one is loaded at
a time, and they take turns (A B, B A, A B, ...). This page is generated from
[docs/benchmarks/](benchmarks/) by `python -m benchmarks.report`; the figures are those of the
machine, the commit and the Python named with each section. How that was built matters by 5 to 20 %:
[evidence.md](evidence.md#three-members) says which is which.

To reproduce: `make install`, then `make bench` (about 20 minutes), `make bench-cluster`,
`make bench-scale`, `make bench-compaction`, `make bench-watch`, `make bench-leases`. `make
bench-quick` is a look that writes nothing (as `--quick` is to the others); `python -m
benchmarks.bench --subject etcd` compares etcd with itself.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def median(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the median of one figure of several runs."""
    return pairs.spread([run[name] for run in runs]).median


def ratio(workload: Mapping[str, Any], name: str = "ops_per_second") -> pairs.Spread:
    """Return the spread of subject / reference, pair by pair, of one figure."""
    subject, reference = workload["runs"]
    return pairs.spread(
        pairs.ratios([run[name] for run in subject], [run[name] for run in reference])
    )


def floors_met(result: Mapping[str, Any]) -> bool:
    """Say whether every workload with a floor reaches it with its median ratio."""
    return all(_met(workload) is not False for workload in result["workloads"])


def _met(workload: Mapping[str, Any]) -> bool | None:
    floor = workload["floor"]
    return None if floor is None else ratio(workload).median >= floor


def bench_section(result: Mapping[str, Any]) -> str:
    """Return the section of `make bench`."""
    subject, reference = result["labels"]
    parts = [
        "## Side by side\n",
        facts_line(result["facts"]),
        f"{result['pairs']} pairs of runs of {result['seconds']:g} s each; "
        f"{result['keys']:,} keys, preloaded, taken at random; values of {result['value_bytes']} "
        "bytes. Ratio: operations a second, "
        f"{subject} / {reference}, pair by pair: median (least to greatest).\n",
        _speed_table(result),
        "Latencies in ms and server CPU (all processes, µs an operation, the generator's not "
        "counted), median of the runs. PSS after the runs, all processes: MB.\n",
        _cost_table(result),
        f"Just started, nobody asking: {_idle(result)}.\n",
        "### Noise\n",
        "Each run against the run before it of the same server and workload: what two equal "
        "servers would show as ratios.\n",
        _noise_table(result),
        "### Puts for each fdatasync\n",
        "By the servers' own counters (/metrics), median of the runs: log syncs alone. By strace, "
        "in a run of its own: every fdatasync and fsync of every process.\n",
        _sync_table(result),
    ]
    return "\n".join(part for part in parts if part)


def _speed_table(result: Mapping[str, Any]) -> str:
    rows = []
    for workload in result["workloads"]:
        found = ratio(workload)
        subject, reference = workload["runs"]
        floor, met = workload["floor"], _met(workload)
        rows.append(
            [
                f"{workload['op']} {workload['in_flight']}",
                str(workload["connections"]),
                f"{median(subject, 'ops_per_second'):,.0f}",
                f"{median(reference, 'ops_per_second'):,.0f}",
                _spread(found),
                "" if floor is None else f"{floor:.2f}",
                "" if met is None else "met" if met else "**not met**",
            ]
        )
    labels = [f"{label} op/s" for label in result["labels"]]
    head = ["in flight", "connections", *labels, "ratio", "floor", ""]
    return table(head, rows)


def _cost_table(result: Mapping[str, Any]) -> str:
    rows = []
    for workload in result["workloads"]:
        row = [f"{workload['op']} {workload['in_flight']}"]
        for name in ("p50", "p99", "max"):
            row += [f"{median(runs, name):.2f}" for runs in workload["runs"]]
        row += [f"{median(runs, 'server_us_per_op'):.0f}" for runs in workload["runs"]]
        row += [f"{median(runs, 'pss_bytes') / 1e6:.0f}" for runs in workload["runs"]]
        rows.append(row)
    head = ["in flight"]
    for name in ("p50", "p99", "max", "CPU", "PSS"):
        head += [f"{name} {label}" for label in result["labels"]]
    return table(head, rows)


def _noise_table(result: Mapping[str, Any]) -> str:
    rows = []
    for workload in result["workloads"]:
        row = [f"{workload['op']} {workload['in_flight']}"]
        for runs in workload["runs"]:
            found = pairs.noise([run["ops_per_second"] for run in runs])
            row.append(_spread(pairs.spread(found)) if found else NOT_KNOWN)
        rows.append(row)
    return table(["in flight", *result["labels"]], rows)


def _sync_table(result: Mapping[str, Any]) -> str:
    rows = []
    for workload in result["workloads"]:
        if workload["op"] == "put":
            row = [f"put {workload['in_flight']}, /metrics"]
            for runs in workload["runs"]:
                known = [run["puts_per_sync"] for run in runs if run["puts_per_sync"] is not None]
                row.append(f"{pairs.spread(known).median:.1f}" if known else NOT_KNOWN)
            rows.append(row)
    for traced in result["syncs"]:
        row = [f"put {traced['in_flight']}, strace"]
        rows.append([*row, *(_traced(count) for count in traced["counts"])])
    return table(["in flight", *result["labels"]], rows)


def _traced(count: Mapping[str, Any] | None) -> str:
    if count is None or not count["syncs"]:
        return NOT_KNOWN
    total = sum(count["syncs"].values())
    by_process = ", ".join(f"{name} {calls}" for name, calls in sorted(count["syncs"].items()))
    return f"{count['puts'] / total:.1f} ({count['puts']} puts; {by_process})"


def _spread(found: pairs.Spread) -> str:
    return f"{found.median:.2f} ({found.least:.2f} to {found.greatest:.2f})"


def _idle(result: Mapping[str, Any]) -> str:
    found = zip(result["labels"], result["idle_pss_bytes"], result["idle_cpu_percent"], strict=True)
    return ", ".join(
        f"{label} {size / 1e6:.0f} MB and {percent:.1f} % of a core"
        for label, size, percent in found
    )


def facts_line(facts: Mapping[str, Any]) -> str:
    """Return the sentence that says where and when a section was measured."""
    versions = ", ".join(f"{label}: {text}" for label, text in facts["versions"].items())
    return (
        f"{facts['date']}, commit {facts['commit']}: {facts['cpu']}, {facts['cores']} cores, "
        f"{facts['memory_bytes'] / 2**30:.0f} GiB, {facts['kernel']}, Python {facts['python']}; "
        f"load average at the start {facts['load_average']}. {versions}.\n"
    )


def cluster_section(result: Mapping[str, Any]) -> str:
    """Return the section of `make bench-cluster`."""
    parts = [
        "## Three members\n",
        facts_line(result["facts"]),
        f"Three members of each, all six on this machine all the time; {result['pairs']} pairs of "
        f"runs of {result['seconds']:g} s each; {result['keys']:,} keys, preloaded, taken at "
        f"random; values of {result['value_bytes']} bytes; connections go to "
        f"{result['target']}. Ratio: operations a second, pair by pair: median (least to "
        "greatest).\n",
        _speed_table(result),
        "Latencies in ms, CPU and PSS of all processes of all three members.\n",
        _cost_table(result),
        "### Noise\n",
        _noise_table(result),
    ]
    for label, lines in result["check_perf"].items():
        quoted = "\n".join(f"    {line}" for line in lines)
        parts.append(f"`etcdctl check perf --load=m` on three members of {label}:\n\n{quoted}\n")
    return "\n".join(part for part in parts if part)


def scale_section(result: Mapping[str, Any]) -> str:
    """Return the section of `make bench-scale`."""
    rows = []
    for name, unit, scale, digits in (
        ("first_start_seconds", "First start, ms", 1e3, 0),
        ("empty_start_seconds", "Start of an empty store, ms", 1e3, 0),
        ("full_start_seconds", "Start of the full store, ms", 1e3, 0),
        ("killed_start_seconds", "Start of the full store after SIGKILL, ms", 1e3, 0),
        ("empty_pss_bytes", "PSS idle, empty, MB", 1e-6, 0),
        ("filled_pss_bytes", "PSS right after the fill, MB", 1e-6, 0),
        ("idle_pss_bytes", "PSS idle, full, after a restart, MB", 1e-6, 0),
        ("read_pss_bytes", "PSS after random ranges, MB", 1e-6, 0),
        ("fill_per_second", "Puts a second of the fill", 1, 0),
        ("data_bytes", "Data directory, MB", 1e-6, 0),
    ):
        row = [unit]
        for server in result["servers"]:
            found = server[name]
            numbers = [each * scale for each in (found if isinstance(found, list) else [found])]
            row.append(", ".join(f"{number:,.{digits}f}" for number in sorted(numbers)))
        rows.append(row)
    return "\n".join(
        [
            "## A million keys\n",
            facts_line(result["facts"]),
            f"{result['keys']:,} keys with values of {result['value_bytes']} bytes. A start counts "
            "from the launch of the process to the first linearizable range answered, "
            f"{result['rounds']} times each, in turn, page cache warm. PSS is the sum over all "
            f"processes of the member, {result['idle_seconds']:g} s after the last request; the "
            f"ranges are {result['ranges']:,} single keys at random, 100 in flight.\n",
            table(["", *(server["label"] for server in result["servers"])], rows),
        ]
    )


def compaction_section(result: Mapping[str, Any]) -> str:
    """Return the section of `make bench-compaction`."""
    rows = []
    for server in result["servers"]:
        rounds = server["rounds"]
        before = [each["before_ms"] for each in rounds]
        during = [each["during_ms"] for each in rounds]
        best = min(rounds, key=lambda each: each["during_ms"] - each["before_ms"])
        rows.append(
            [
                server["label"],
                f"{server['saturation']:,.0f}",
                f"{server['rate']:,.0f}",
                ", ".join(f"{number:.1f}" for number in before),
                ", ".join(f"{number:.1f}" for number in during),
                f"{best['before_ms']:.1f} → {best['during_ms']:.1f}",
                ", ".join(f"{each['compaction_seconds']:.1f}" for each in rounds),
            ]
        )
    head = ["", "saturation op/s", "paced at op/s", "worst before, ms", "worst during, ms"]
    head += ["best round", "Compact took, s"]
    return "\n".join(
        [
            "## Puts while history is compacted\n",
            facts_line(result["facts"]),
            f"{result['revisions']:,} revisions over {result['keys']:,} keys, then puts on a "
            f"schedule at half the measured saturation, at most {result['in_flight']} in flight, "
            "each timed from the moment it was due. The slowest put of "
            f"{result['window_seconds']:g} s before, and of {result['window_seconds']:g} s from "
            "the call of Compact (physical, everything); "
            f"{len(result['servers'][0]['rounds'])} rounds, and the one of them "
            "with the least between the two.\n",
            table(head, rows),
        ]
    )


def watch_floors(
    scenes: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
) -> list[tuple[str, str, bool, str]]:
    """Return (figure, floor, whether it is met, what was measured), by the medians of the runs."""
    found = []

    def middle(scene: str, name: str) -> list[float]:
        return [median(each, name) for each in scenes[scene]]

    if "latency" in scenes:
        ours, theirs = middle("latency", "p50_ms")
        said = f"latency: p50 {ours:.2f} ms against {theirs:.2f}"
        found.append(("p50_ms", "at most 2 x etcd's", ours <= 2 * theirs, said))
    if "fan-out" in scenes:
        ours, theirs = middle("fan-out", "events_per_second")
        said = f"fan-out: {ours:,.0f} events/s against {theirs:,.0f}"
        found.append(("events_per_second", "at least 0.5 x etcd's", ours >= theirs / 2, said))
    if "idle" in scenes:
        ours = middle("idle", "ratio")[0]
        said = f"idle: {ours:.2f} of the puts without watchers"
        found.append(("ratio", "at least 0.9", ours >= 0.9, said))
    if "catch-up" in scenes:
        before = middle("catch-up", "before_p99_ms")[0]
        during = middle("catch-up", "meanwhile_p99_ms")[0]
        said = f"catch-up: p99 {during:.1f} ms, {before:.1f} before"
        found.append(("meanwhile_p99_ms", "at most 2 x before", during <= 2 * before, said))
    return found


def watch_section(result: Mapping[str, Any]) -> str:
    """Return the section of `make bench-watch`."""
    scenes = result["scenes"]
    floors = {
        name: text if met else f"{text}: NOT MET" for name, text, met, _ in watch_floors(scenes)
    }
    rows = []
    for scene, title, name, digits in (
        ("latency", "1,000 watchers, 1,000 puts/s: put to event, p50, ms", "p50_ms", 2),
        ("latency", "the same, p99, ms", "p99_ms", 2),
        ("fan-out", "100 watchers of all puts: events/s", "events_per_second", 0),
        ("fan-out", "the same, puts/s meanwhile", "puts_per_second", 0),
        ("idle", "10,000 idle watchers: puts/s, with / without", "ratio", 2),
        ("idle", "memory of an idle watcher of trouped's, bytes", "bytes_per_watcher", 0),
        ("catch-up", "100 watchers catch up: p99 of puts before, ms", "before_p99_ms", 2),
        ("catch-up", "p99 of puts meanwhile, ms", "meanwhile_p99_ms", 2),
        ("catch-up", "caught up after, s", "caught_up_seconds", 1),
    ):
        if scene in scenes:
            rows.append([title, *_figures(scenes[scene], name, digits), floors.get(name, "")])
    if "idle" in scenes:  # etcd's fits into what its heap had free
        next(row for row in rows if row[0].startswith("memory"))[2] = "not to be seen"
    incomplete = sum(
        not run.get("complete", True) for runs in scenes.values() for each in runs for run in each
    )
    return "\n".join(
        [
            "## Watchers\n",
            facts_line(result["facts"]),
            f"A fresh member for every scene, {result['rounds']} rounds in turn, "
            f"{result['seconds']:g} s each; catching up begins {result['history']:,} revisions "
            "back. Median (least to greatest).\n",
            table(["", *result["labels"], "floor"], rows),
            f"Runs in which a watcher was not told everything in time: {incomplete}.\n",
        ]
    )


def leases_section(result: Mapping[str, Any]) -> str:
    """Return the section of `make bench-leases`."""
    scenes = result["scenes"]
    rows = []
    for scene, title, name, scale, digits in (
        ("kept", "grants/s", "grants_per_second", 1, 0),
        ("kept", "memory of a lease, bytes", "bytes_per_lease", 1, 0),
        ("kept", "PSS with all of them, MB", "steady_pss_bytes", 1e-6, 0),
        ("kept", "CPU of steady keep-alives, % of a core", "steady_cpu_percent", 1, 1),
        ("kept", "steady keep-alive p50, ms", "steady_p50_ms", 1, 2),
        ("kept", "steady keep-alive p99, ms", "steady_p99_ms", 1, 2),
        ("kept", "keep-alives/s, as fast as it goes", "fast_per_second", 1, 0),
        ("kept", "CPU of one of those, µs", "fast_us_per_renewal", 1, 1),
        ("kept", "leases lost", "lost", 1, 0),
        ("expiring", "puts/s meanwhile", "puts_per_second", 1, 0),
        ("expiring", "expired late by, p50, ms", "late_p50_ms", 1, 0),
        ("expiring", "expired late by, p99, ms", "late_p99_ms", 1, 0),
        ("expiring", "expired late by, at most, ms", "late_max_ms", 1, 0),
        ("expiring", "expired more than 1 s late", "over_a_second", 1, 0),
        ("expiring", "expired early", "early", 1, 0),
        ("expiring", "never expired", "never", 1, 0),
    ):
        if scene in scenes:
            rows.append([title, *_figures(scenes[scene], name, digits, scale)])
    per_second = result["leases"] * 3 / result["kept_ttl"]
    return "\n".join(
        [
            "## Leases\n",
            facts_line(result["facts"]),
            f"{result['leases']:,} leases with a TTL of {result['kept_ttl']} s, each renewed three "
            f"times in it ({per_second:,.0f} keep-alives/s) for {result['kept_seconds']:g} s; then "
            f"{result['expiring']:,} leases with a key and a TTL of {result['expiring_ttl']} s, "
            f"{result['expiring_per_second']:g} granted a second and left to expire under puts "
            "with 1,000 in flight: late counts from the TTL after the answer to the grant until a "
            "watcher sees the key go. A fresh member each time; median (least to greatest).\n",
            table(["", *result["labels"]], rows),
        ]
    )


def _figures(
    runs: Sequence[Sequence[Mapping[str, Any]]], name: str, digits: int, scale: float = 1.0
) -> list[str]:
    """Return one figure of both servers as median (least to greatest)."""
    found = []
    for each in runs:
        spread = pairs.spread([run[name] * scale for run in each])
        text = f"{spread.median:,.{digits}f}"
        if len(each) > 1:
            text += f" ({spread.least:,.{digits}f} to {spread.greatest:,.{digits}f})"
        found.append(text)
    return found


def page(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the whole page; a section without results says which target makes them."""
    renderers = {
        "bench": (bench_section, "## Side by side\n", "make bench"),
        "cluster": (cluster_section, "## Three members\n", "make bench-cluster"),
        "scale": (scale_section, "## A million keys\n", "make bench-scale"),
        "compaction": (
            compaction_section,
            "## Puts while history is compacted\n",
            "make bench-compaction",
        ),
        "watch": (watch_section, "## Watchers\n", "make bench-watch"),
        "leases": (leases_section, "## Leases\n", "make bench-leases"),
    }
    parts = [HEAD]
    for name, (render, title, target) in renderers.items():
        if name in sections:
            parts.append(render(sections[name]))
        else:
            parts.append(f"{title}\nNot measured yet: `{target}`.\n")
    return "\n".join(parts)


def write(folder: Path = results.FOLDER, target: Path = PAGE) -> None:
    """Write the page from the results in `folder`."""
    target.write_text(page(results.load_sections(folder)))


if __name__ == "__main__":
    write()
