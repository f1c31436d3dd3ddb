"""A run: the layers that are asked for, of the chosen sources, in one session; and what became of every row."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import FrameType

from api.parts import left_behind
from jobs.engine import destination, id_secret
from jobs.engine.batches import Status
from jobs.engine.context import Run
from jobs.engine.listing import some
from jobs.engine.places import local_path
from jobs.engine.rules import RuleResult
from jobs.engine.session import FEW_BYTES, FOR_FEW_ROWS, session_settings
from jobs.engine.sources import Source
from jobs.engine.summary import LAYERS, Layer, SourceLine, Summary
from jobs.layers import arrivals, bronze, gold, histories, publish, silver
from jobs.layers.balance import verify_accounts
from jobs.layers.bronze import BronzeReport
from jobs.layers.checks import check
from jobs.layers.refresh import RefreshReport
from jobs.layers.silver import SilverReport
from jobs.layers.tables import bronze_table

# While Spark's driver plans for one source, which takes one core, tasks of another keep the others busy.
SOURCES_AT_ONCE = 2
_INTERRUPTED = 130  # how a process ends that Ctrl-C has ended


def run_sources(run: Run, sources: Sequence[Source], first: Layer, until: Layer, *, take_over: bool = False) -> Summary:
    """Does the layers from `first` to `until` of the sources, and says what became of every row.

    Raises AssayError when a rule fails the run, the accounts do not balance, Postgres cannot be reached or has these
    tables from another lakehouse, or a newer copy (unless this one is to `take_over`); nothing is published then.
    """
    layers = LAYERS[LAYERS.index(first) : LAYERS.index(until) + 1]
    with (
        ended_by_a_second_interrupt(),
        session_settings(run.spark, FOR_FEW_ROWS if _has_few_rows(run, sources, layers) else {}),
    ):
        return _run(run, sources, layers, take_over)


@contextmanager
def ended_by_a_second_interrupt() -> Iterator[None]:
    """Lets a second Ctrl-C end the process at once, with its threads, as if it were killed.

    The first one waits for them. They must not go on after the second, when the lock of the lakehouse has been let go.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
        before(number, frame)

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(run: Run, sources: Sequence[Source], layers: Sequence[Layer], take_over: bool) -> Summary:
    summary = Summary(run.run_id, run.settings.lakehouse, run.spark.sparkContext.master or "?", "not used")
    run.ledger.load([source.name for source in sources])
    changed = list[Source]()
    with ThreadPoolExecutor(max_workers=SOURCES_AT_ONCE) as pool:
        # All of them first: a wrong rule is to be found before any data is read.
        for _ in pool.map(partial(check, run), sources):
            pass
        for source, refined in zip(sources, pool.map(partial(_refine, run, layers=layers), sources), strict=True):
            _describe(run, source, refined, summary)
            changed += [source] if refined.is_refined else []
            if "bronze" in layers:
                summary.warnings += _ignored(run, source)
    if "publish" in layers:
        _publish(run, sources, summary, changed, take_over)
    order = {name: number for number, name in enumerate(["spark", *[source.name for source in sources], "postgres"])}
    steps = sorted(run.steps.finished, key=lambda step: order.get(step.source, 0))
    summary.seconds = {f"{step.source} {step.layer}": round(step.seconds, 1) for step in steps}
    return summary


def _has_few_rows(run: Run, sources: Sequence[Source], layers: Sequence[Layer]) -> bool:
    """Whether all that there is to read, and all that is in bronze, is little."""
    listed = sources if "bronze" in layers else []
    landed = (file.size for source in listed for file in arrivals.listing(run, source))
    read = (run.lake.size(bronze_table(source, raw)) for source in sources for raw in source.raw)
    return sum(landed) < FEW_BYTES and sum(read) < FEW_BYTES


@dataclass
class _Refined:
    """What the layers up to gold did for one source."""

    read: BronzeReport
    made: SilverReport | None
    rules: list[RuleResult]
    is_refined: bool


def _refine(run: Run, source: Source, layers: Sequence[Layer]) -> _Refined:
    read, made, derived, rules, is_refined = BronzeReport(), None, RefreshReport(), list[RuleResult](), False
    if "bronze" in layers:
        with run.steps.step(source.name, "bronze") as step:
            read = bronze.refine(run, source)
            step.detail = f"{read.rows_read:,} rows" if read.events else "nothing new"
    if "silver" in layers:
        with run.steps.step(source.name, "silver") as step:
            made = silver.refine(run, source)
            derived = gold.refine_derived_silver(run, source)
            rules = [*(made.rules if made else []), *derived.rules]
            run.ledger.record_rule_results(source.name, rules)
            step.detail = f"{made.rows_written:,} rows" if made else "nothing new"
            is_refined = bool(made or derived.refreshed or read.events)
            if is_refined and "publish" not in layers:
                verify_accounts(run, source)
    if "gold" in layers:
        with run.steps.step(source.name, "gold") as step:
            refreshed = gold.refine(run, source)
            step.detail = f"{len(refreshed.refreshed)} tables refreshed, {len(refreshed.unchanged)} up to date"
    return _Refined(read, made, rules, is_refined)


def _publish(run: Run, sources: Sequence[Source], summary: Summary, changed: Sequence[Source], take_over: bool) -> None:
    with run.steps.step("postgres", "publish") as step:
        target = destination.database(run.settings)
        report = publish.publish(run, sources, target, changed, take_over=take_over)
        step.detail = f"release {report.release_id}" if report.release_id else "nothing to publish"
    is_embedded = run.settings.postgres.host is None
    summary.is_published, summary.documents = True, report.documents
    summary.set_aside += [f"{event.source_file}: {event.reason} (by an earlier run)" for event in report.set_aside]
    summary.warnings += [
        f"{name}: shows an older release since a rollback, until its rows change" for name in report.held_back
    ]
    summary.warnings += [
        f"{name}: no source publishes it now, and it stays as it was: drop it, or take it from its readers (REVOKE)"
        for name in report.left
    ]
    summary.warnings += [
        f"{file} below the output folder: no source writes it now, and it stays as it was: remove it, and the hidden "
        "file beside it"
        for file in report.files_left
    ]
    summary.warnings += [
        f"{name}: is of no release now, and shows the rows of an earlier one, perhaps of another lakehouse: "
        "run its source, or drop it"
        for name in report.of_no_release
    ]
    summary.database = "embedded" if is_embedded else f"{target.host}:{target.port}"
    summary.release_id = report.release_id
    summary.tables_changed, summary.tables_unchanged = report.changed, report.unchanged
    # On another server the role has no password: people log in as themselves, and this one as who publishes.
    url = '"$(.venv/bin/assay db url --role analyst)"' if is_embedded else f'"{target.url()}"'
    shown = next((t for t in [*report.changed, *report.unchanged] if t.startswith("gold.")), "ops.releases")
    summary.look = f"psql {url} -c 'select * from {shown} limit 10'"


def _describe(run: Run, source: Source, refined: _Refined, summary: Summary) -> None:
    read, made = refined.read, refined.made
    line = SourceLine(source.name, _files(read), seconds=run.steps.seconds(source.name))
    summary.warnings += _from_the_future(run, source)
    line.rows_in = line.dedup = read.rows_deduplicated
    if made:
        line.rows_in += made.rows_read
        line.written, line.quarantined = made.rows_written, made.rows_quarantined
        line.dedup, line.superseded = line.dedup + made.rows_deduplicated, made.rows_superseded
    elif read.rows_read:
        line.rows_in, line.written = read.rows_read, read.rows_read - read.rows_deduplicated
    if made and made.has_new_ids:
        place = id_secret.path(run.lake, source.name)
        summary.warnings.append(
            f"{source.name}: the secret of its ids was gone, so all records have new ones; for the former, put that "
            f"secret into {place} again, and run"
        )
    summary.sources.append(line)
    summary.set_aside += [f"{event.source_file}: {event.reason}" for event in read.rejected]
    if line.quarantined:
        summary.next.append(
            f"assay quarantine --source {source.name}      why {line.quarantined:,} rows were held back"
        )
    for result in refined.rules:
        if result.violations and result.rule.action == "warn":
            found = f"{source.name}: {result.violations:,} rows: {result.rule.reason} ({result.rule.name}); kept"
            summary.warnings.append(found)


def _ignored(run: Run, source: Source) -> list[str]:
    """Warnings of what is in the source's landing folders under names that it does not expect."""
    found, landing = arrivals.ignored(run, source), local_path(run.settings.landing)
    hidden = left_behind(landing / source.name) if landing else 0
    read = histories.decisions(run, source).newest_versions(accepted=True) if found else {}
    groups = {
        "not read, as only {} are": [path for path in found if path not in read],
        "not read any longer, as only {} are, but their rows still count": [path for path in found if path in read],
    }
    warnings = [
        f"{source.name}: {says.format(source.expected_files)}: {some(paths)}" for says, paths in groups.items() if paths
    ]
    if hidden:
        warnings.append(
            f"{source.name}: files of received entries are hidden ({hidden}), and the service that wrote them has "
            "ended: start `assay serve`, which brings them forth for the next run"
        )
    return warnings


def _from_the_future(run: Run, source: Source) -> list[str]:
    """A warning of files that were modified in time to come, where the newest file counts: until that comes."""
    tomorrow, found = (run.started_at + timedelta(days=1)).timestamp() * 1000, set[str]()
    for table, raw in source.parsed_tables.items():
        decided = histories.history(run, source, raw)
        if source.raw[raw].full_extract:
            newest = decided.newest_versions(accepted=True)
            found |= {path for path, event in newest.items() if event.modified_at > tomorrow}
        elif source.tables[table].keep == "newest":
            late = {delivery for delivery, (at, _) in decided.first_delivered().items() if at > tomorrow}
            found |= {path for _, path in late & decided.live()} if late else set()
    if not found:
        return []
    return [
        f"{source.name}: of a modification time to come, until which they count as newer than any other: "
        f"{some(sorted(found))}: give them their true time (touch -d), or deliver them under these names again"
    ]


def _files(read: BronzeReport) -> str:
    words: dict[Status, str] = {"loaded": "new", "known": "delivered again", "rejected": "set aside"}
    counts = Counter(event.status for event in read.events)
    return ", ".join(f"{counts[status]:,} {words[status]}" for status in words if counts[status]) or "nothing new"
