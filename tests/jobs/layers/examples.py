"""What tests of several layers are given."""

from jobs.engine.batches import FileEvent, Status


def event(path: str, batch: int, content: str, status: Status = "loaded") -> FileEvent:
    return FileEvent(path, 1, batch, content, status, None, batch)
