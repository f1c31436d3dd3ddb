"""The Spark session: the one that spark-submit made, or a local one with the same settings file."""

import atexit
import locale
import math
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import pyspark
from py4j.java_gateway import JavaMember
from pyspark import SparkContext
from pyspark.errors import PySparkException, PySparkRuntimeError
from pyspark.sql import SparkSession

from jobs.engine.errors import ConfigurationError

PROJECT = Path(__file__).resolve().parents[2]
JAVA_OPTIONS = "spark.driver.extraJavaOptions"
_DEFAULTS = "conf/spark-defaults.conf"
# So much data is a few rows: to plan with care, generate code for them and compile it takes longer than to interpret.
FEW_BYTES = 8_000_000
FOR_FEW_ROWS = {
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    # A few small files are one task, and one file again, where else there would be a task for each core.
    "spark.sql.files.minPartitionNum": "1",
    "spark.sql.files.maxPartitionBytes": "2m",
}
# What rows would be read otherwise without, and nobody would notice; conf/spark-defaults.conf says why.
RESULTS_DEPEND_ON = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.json.enablePartialResults": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
}
# A JVM that is needed for a minute is served better by what is compiled quickly than by what runs quickly.
JAVA_FOR_FEW_ROWS = "-XX:TieredStopAtLevel=1"
# PySpark asks for these by every function of columns, and each time Java would look through all jars.
_ASKED_FOR_BY_PYSPARK = ("functions", "org.apache.spark.sql.functions", "PythonUtils", "PythonSQLUtils")
# Hadoop's settings of YARN, of MapReduce on it, and of what else runs as a service; none of files.
_OF_SERVICES = (
    r"^(yarn|ha|mapreduce\.(am|client|jobhistory|map|reduce|shuffle)|hadoop\.(http|registry|zk)"
    r"|ipc\.(server|\[port_number\]))\."
)
# Of a run, or of a master or worker that scripts/cluster.sh started.
_LOG_NAME = re.compile(r"spark-[\w-]+\.log")
_LOG_OF_COMMAND = re.compile(r"spark-\d{8}T\d{6}Z\.log")
# Java starts with one collector, and reads an archive of classes or writes one.
_JAVA_READS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
_ONLY_ONE = re.compile(r"-XX:\+Use\w+GC\b"), re.compile(r"-XX:(ArchiveClassesAtExit|SharedArchiveFile)=.*")


def start_session(
    *, master: str = "local[*]", spark_settings: Mapping[str, str] | None = None, log: Path | None = None
) -> SparkSession:
    """The running session, or a new local one set up by conf/spark-defaults.conf and then by `spark_settings`.

    What the JVM prints goes to the file `log`; without one it goes to this process's standard error.
    Under spark-submit the JVM runs already: it has read the properties file, and master and log are the submitter's.
    Raises ConfigurationError if a setting that results depend on is not as it should be, or comes too late, if it is
    another Spark than the one that Assay is made for, or if Java does not start.
    """
    joins = _jvm_is_running()
    with ExitStack() as meanwhile:
        if not joins:
            settings = meanwhile.enter_context(_settings_file(spark_settings or {}))
            os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join(_submit_arguments(master, settings))
            # What another program's workers are to use lacks what Assay needs; those of a cluster have it elsewhere.
            if master.startswith("local") or "PYSPARK_PYTHON" not in os.environ:
                os.environ["PYSPARK_PYTHON"] = sys.executable
            os.environ["SPARK_HOME"] = str(_own_spark())  # never another one that is on this machine
            if not re.search("utf-?8", _character_set(), re.IGNORECASE):
                os.environ["LC_ALL"] = "C.UTF-8"  # else Java finds no file whose name has other letters than ASCII
            # Driver and executors share this machine then; a host name that resolves oddly must not matter.
            if master.startswith(("local", "spark://127.0.0.1", "spark://localhost")):
                os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            if master.startswith("local") and not _sets("spark.local.dir", spark_settings or {}):
                meanwhile.enter_context(_own_work_folder())
            meanwhile.enter_context(_standard_error_to(log))
        spark = _session(log)
    if joins:
        _adopt(spark, {key: value for key, value in (spark_settings or {}).items() if key != JAVA_OPTIONS})
    for name in _ASKED_FOR_BY_PYSPARK:
        setattr(spark._jvm, name, java_class(spark, name))
    if not str(spark.sparkContext.master).startswith("yarn"):
        _forget_services(spark.sparkContext)
    _verify_settings(spark)
    return spark


def _session(log: Path | None) -> SparkSession:
    try:
        spark = SparkSession.builder.appName("assay").getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        raise ConfigurationError(
            f"Java did not start{'' if log is None else f'; what it said is in {log}'}",
            "Assay needs Java 17 or newer, on the PATH or in JAVA_HOME, and memory as spark.driver.memory says",
        ) from None
    if spark.version != (wanted := version("pyspark")):  # as it is installed: Spark brings a PySpark of its own
        raise ConfigurationError(
            f"this is Spark {spark.version}, and Assay is made for {wanted}",
            "call the spark-submit of this project's .venv, without SPARK_HOME: unset SPARK_HOME",
        )
    return spark


def _character_set() -> str:
    """What a process that is started takes names of files to be written in; empty if there is no such locale."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "")
        return locale.nl_langinfo(locale.CODESET)
    except locale.Error:
        return ""
    finally:
        locale.setlocale(locale.LC_CTYPE, before)


def _own_spark() -> Path:
    """The Spark that was installed with Assay."""
    folder = Path(pyspark.__file__).parent
    if not (folder / "bin/spark-submit").exists():
        raise ConfigurationError(f"PYTHONPATH leads to another PySpark: {folder}", "unset PYTHONPATH, then run again")
    return folder


@contextmanager
def session_settings(spark: SparkSession, values: Mapping[str, str]) -> Iterator[None]:
    """Other settings of the session for a while."""
    before = {key: spark.conf.get(key, None) for key in values}
    for key, value in values.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, old in before.items():
            if old is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, old)


def java_class(spark: SparkSession, name: str) -> Any:
    """A class of the JVM behind the session, for what PySpark has no function for: Hadoop's file systems, Delta's log.

    By its whole name at once: step by step (`jvm.org.apache...`), each step has Java look for a class of that name in
    all jars, which takes a millisecond for a class that is found in 30 microseconds.
    """
    return _java_class(spark._jvm, name)


@cache
def _java_class(jvm: Any, name: str) -> "_JavaClass":
    return _JavaClass(getattr(jvm, name))


class _JavaClass:
    """A class of the JVM whose static methods are looked up once: py4j asks Java for one with every call of it."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._found, name)
        if isinstance(member, JavaMember):
            setattr(self, name, member)
        return member

    def __call__(self, *arguments: Any) -> Any:
        return self._found(*arguments)


@cache
def _forget_services(context: SparkContext) -> None:
    """Takes out of Hadoop's settings the defaults of services that are not there; what is set otherwise stays.

    They are two thirds of all, and Spark copies them, and packs and unpacks them, with every query, job and task.
    """
    java, settings = context._jvm, context._jsc.hadoopConfiguration()
    defaults = _java_class(java, "org.apache.hadoop.conf.Configuration")(False)
    for file in ("core-default.xml", "mapred-default.xml", "yarn-default.xml"):
        defaults.addResource(file)
    found = settings.getValByRegex(_OF_SERVICES)
    found.entrySet().retainAll(defaults.getValByRegex(_OF_SERVICES).entrySet())
    for name in _java_class(java, "java.lang.String").join(" ", found.keySet()).split():
        settings.unset(name)


def _adopt(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Sets what can be set in a session that runs already. Raises ConfigurationError for what it should have had."""
    for key, value in settings.items():
        if spark.conf.get(key, None) == value:
            continue
        if not key.startswith("spark.hadoop."):  # such a one Spark would take, and nothing would read it
            with suppress(PySparkException):
                spark.conf.set(key, value)
                continue
        # Not the value, which may be a secret.
        raise ConfigurationError(
            f"{key} (ASSAY_SPARK, or spark in conf/assay.yaml) comes too late for a session that runs already",
            f"give it to spark-submit: --conf {key}=...",
        )


def _verify_settings(spark: SparkSession) -> None:
    for key, wanted in RESULTS_DEPEND_ON.items():
        if (found := spark.conf.get(key)) != wanted:
            raise ConfigurationError(
                f"{key} is {found}, and rows are only read as they should be with {wanted}",
                "give spark-submit --properties-file conf/spark-defaults.conf, and leave the setting out of --conf, "
                "ASSAY_SPARK and conf/assay.yaml (spark)",
            )


def _jvm_is_running() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ or SparkSession.getActiveSession() is not None


def _submit_arguments(master: str, settings: Path) -> list[str]:
    jars = sorted((PROJECT / ".jars").glob("*.jar"))
    if not jars:
        raise ConfigurationError(f"no jars in {PROJECT / '.jars'}", "call `make setup` once")
    files = ["--properties-file", str(settings), "--jars", ",".join(map(str, jars))]
    return ["--master", master, *files, "pyspark-shell"]


@contextmanager
def _settings_file(spark_settings: Mapping[str, str]) -> Iterator[Path]:
    """conf/spark-defaults.conf and then `spark_settings`, in a file that only its owner may read, for a while.

    Among them may be secrets, such as the key of a store, which everybody could read among a process's arguments.
    """
    own = {"spark.sql.warehouse.dir": tempfile.gettempdir(), **spark_settings}
    own[JAVA_OPTIONS] = _java_options(spark_settings.get(JAVA_OPTIONS, ""))
    with tempfile.NamedTemporaryFile("w", prefix="assay-", suffix=".conf", encoding="utf-8") as file:
        file.write((PROJECT / _DEFAULTS).read_text(encoding="utf-8") + "\n")
        file.writelines(f"{_escaped(key)}={_escaped(value)}\n" for key, value in own.items())
        file.flush()
        yield Path(file.name)


def _java_options(own: str) -> str:
    """The usual options, less those that one of `own` stands in for, and then these."""
    # The folder's name may have a blank, at which Java's options end: so the one as a URI, and the other quoted.
    usual = _default(PROJECT / _DEFAULTS, JAVA_OPTIONS).replace("=conf/", f"={PROJECT.as_uri()}/conf/").split()
    usual = [re.sub(r"(?<==)\.jars/.*", lambda file: shlex.quote(f"{PROJECT}/{file[0]}"), option) for option in usual]
    for alternatives in _ONLY_ONE:
        if alternatives.search(" ".join([own, *[os.environ.get(name, "") for name in _JAVA_READS]])):
            usual = [option for option in usual if not alternatives.fullmatch(option)]
    return " ".join([*usual, own]).strip()


def _escaped(text: str) -> str:
    """For a file of properties, as Java reads them."""
    return re.sub(r"[\\ :=#!]", r"\\\g<0>", text).replace("\n", "\\n")


@contextmanager
def _own_work_folder() -> Iterator[None]:
    """Has a JVM that is started meanwhile shuffle rows in a folder of its owner alone, until this process ends.

    Spark makes its own readable by everybody, and a run that is killed leaves it.
    """
    if "SPARK_LOCAL_DIRS" in os.environ:
        yield
        return
    folder = tempfile.mkdtemp(prefix="assay-spark-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["SPARK_LOCAL_DIRS"] = folder
    try:
        yield
    finally:
        del os.environ["SPARK_LOCAL_DIRS"]


def _sets(key: str, spark_settings: Mapping[str, str]) -> bool:
    """Whether a setting is made, here or in conf/spark-defaults.conf."""
    return key in spark_settings or bool(_default(PROJECT / _DEFAULTS, key))


def _default(file: Path, key: str) -> str:
    """What the properties file sets for a key; empty if nothing."""
    lines = (re.split(r"\s*[\s=:]\s*", line, maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
    return next((words[1] for words in lines if words[0] == key), "")


@contextmanager
def _standard_error_to(log: Path | None) -> Iterator[None]:
    """The JVM inherits standard error from the moment it starts, so a file takes that place for this moment."""
    if log is None:
        yield
        return
    try:
        opened = _opened(log)
    except OSError as error:
        raise ConfigurationError(
            f"the log of this run cannot be written: {error.strerror} ({error.filename})",
            "mend that folder, or name another one: ASSAY_LOGS, or logs in conf/assay.yaml",
        ) from None
    sys.stderr.flush()
    kept = os.dup(2)
    with opened as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _opened(log: Path) -> BinaryIO:
    """The file, to append to. Only its owner may read it, as texts of Spark may quote rows; the same for earlier logs.

    The folder is for its owner alone as well if Assay has made it: it is new, or has nothing but this user's logs.
    """
    folder = log.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    entries = list(folder.iterdir())
    earlier = [entry for entry in entries if _LOG_NAME.fullmatch(entry.name) and _is_own_file(entry)]
    for entry in earlier:
        with suppress(PermissionError, FileNotFoundError):  # no such modes there, or removed by maintenance
            entry.chmod(0o600)
    with suppress(PermissionError):
        if earlier and len(earlier) == len(entries):
            folder.chmod(0o700)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with suppress(PermissionError):
        os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "ab")


def logs_before(folder: Path, time: datetime) -> list[Path]:
    """This user's logs of commands in the folder that nothing was written to since."""
    entries = folder.iterdir() if folder.is_dir() else []
    own = [entry for entry in entries if _LOG_OF_COMMAND.fullmatch(entry.name) and _is_own_file(entry)]
    return sorted(log for log in own if _modified_at(log) < time.timestamp())


def _modified_at(log: Path) -> float:
    """In seconds; infinity if it was removed meanwhile."""
    with suppress(FileNotFoundError):
        return log.stat().st_mtime
    return math.inf


def _is_own_file(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:  # removed since it was listed
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
