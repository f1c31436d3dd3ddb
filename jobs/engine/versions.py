"""Older versions of Delta tables: being allowed to read them, and telling whether they are still there."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from jobs.engine import delta_log
from jobs.engine.hadoop import hadoop_configuration
from jobs.engine.session import java_class, session_settings

# Delta refuses versions that are older than a week unless told that their files are still there; a release's are,
# because maintenance keeps them.
_ANY_AGE = {"spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false"}
_GONE = ("DELTA_VERSION_NOT_FOUND", "DELTA_LOG_FILE_NOT_FOUND", "DELTA_TRUNCATED_TRANSACTION_LOG", "DELTA_MISSING_")
_NO_FILE = ("FILE_NOT_EXIST", "FileNotFoundException", "DELTA_FILE_NOT_FOUND", "PATH_NOT_FOUND", "PATH_DOES_NOT_EXIST")


@contextmanager
def any_version(spark: SparkSession) -> Iterator[None]:
    """Lets all versions of a table be read whose files are there, whatever their age."""
    with session_settings(spark, _ANY_AGE):
        yield


def has_all_files(frame: DataFrame) -> bool:
    """Whether every file that a Delta table's rows are read from is there."""
    return None not in modified_at(frame.sparkSession, frame.inputFiles())


def modified_at(spark: SparkSession, uris: Iterable[str]) -> list[float | None]:
    """When each file was written, in seconds since 1970; None if it is not there. For a few files."""
    path, address = java_class(spark, "org.apache.hadoop.fs.Path"), java_class(spark, "java.net.URI")
    configuration, found = hadoop_configuration(spark), list[float | None]()
    for uri in uris:
        file = path(address(uri))
        file_system = file.getFileSystem(configuration)
        is_there = file_system.exists(file)
        found.append(file_system.getFileStatus(file).getModificationTime() / 1000 if is_there else None)
    return found


def data_files(spark: SparkSession, path: str) -> DataFrame:
    """One row per file of a Delta table's newest version, with its `size` in bytes."""
    files = delta_log.newest(spark, delta_log.of_table(spark, path)).allFiles()
    return DataFrame(files.toDF(), spark).select("size")


def is_gone(error: PySparkException | Py4JJavaError) -> bool:
    """Whether a version could not be read because its files, or its part of the log, are no longer there.

    Java says the same of a file that it may not open, or not now, as too many are open.
    """
    return is_forgotten(error) or any(mark in str(error) for mark in _NO_FILE)


def is_forgotten(error: PySparkException | Py4JJavaError) -> bool:
    """Whether the log says that it does not have a version any longer."""
    return any(mark in str(error) for mark in _GONE)
