"""What a run prints when it has ended: for people as lines, for machines as JSON."""

from dataclasses import asdict, dataclass, field
from typing import Literal

Layer = Literal["bronze", "silver", "gold", "publish"]
LAYERS: tuple[Layer, ...] = ("bronze", "silver", "gold", "publish")
COUNTS = ("rows_in", "written", "quarantined", "dedup", "superseded")


@dataclass
class SourceLine:
    """What became of one source's rows in this run; `files` says it in words."""

    source: str
    files: str
    rows_in: int = 0
    written: int = 0
    quarantined: int = 0
    dedup: int = 0
    superseded: int = 0
    seconds: float = 0.0


@dataclass
class Summary:
    """One run. `set_aside` and `warnings` are lines for people: personal data never appears in them."""

    run_id: str
    lakehouse: str
    master: str
    database: str
    sources: list[SourceLine] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)
    release_id: int | None = None
    tables_changed: list[str] = field(default_factory=list)
    tables_unchanged: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    is_published: bool = False
    look: str = ""
    next: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        head = f"assay  run {self.run_id}  lakehouse {self.lakehouse}  master {self.master}  database {self.database}"
        lines = [head, "", *self._table(), ""]
        lines += [_line("warnings" if not i else "", text) for i, text in enumerate(self.warnings)]
        lines += [_line("set aside" if not i else "", text) for i, text in enumerate(self.set_aside)]
        if self.is_published:
            lines.append(self._release())
        lines += [_line("documents", text) for text in self.documents]
        lines.append(_line("accounts", self._balance()))
        lines.append(_line("time", ", ".join(f"{name} {seconds:.1f}s" for name, seconds in self.seconds.items())))
        lines.append("")
        if self.look:
            lines.append(_line("look", self.look))
        lines += [_line("next" if not i else "", text) for i, text in enumerate(self.next)]
        return "\n".join(lines).rstrip()

    def _table(self) -> list[str]:
        width = max(len("files"), *(len(line.files) for line in self.sources)) if self.sources else 0
        head = f"{'source':<13} {'files':<{width}} {'rows in':>11} {'written':>11} {'quarantined':>11}"
        rows = [self._row(line, width) for line in self.sources]
        return [f"{head} {'dedup':>9} {'superseded':>10} {'time':>7}", *rows]

    @staticmethod
    def _row(line: SourceLine, width: int) -> str:
        name = f"{line.source:<13} {line.files:<{width}}"
        if not any(getattr(line, count) for count in COUNTS):
            return name.rstrip()
        counts = f"{line.rows_in:>11,} {line.written:>11,} {line.quarantined:>11,}"
        return f"{name} {counts} {line.dedup:>9,} {line.superseded:>10,} {line.seconds:>6.1f}s"

    def _release(self) -> str:
        changed, same = len(self.tables_changed), len(self.tables_unchanged)
        if self.release_id is None:
            return _line("release", f"none: all {same} tables are as in the last one")
        return _line(
            f"release {self.release_id}", f"{changed} tables changed, {same} unchanged, published in one transaction"
        )

    def _balance(self) -> str:
        rows, written, quarantined, dedup, superseded = (sum(getattr(s, c) for s in self.sources) for c in COUNTS)
        return (
            f"balanced: {rows:,} read = {written:,} written + {quarantined:,} quarantined + {dedup:,} deduplicated "
            f"+ {superseded:,} superseded"
        )


def _line(head: str, text: str) -> str:
    return f"{head:<13} {text}"
