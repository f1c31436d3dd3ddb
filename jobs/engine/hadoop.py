"""Files wherever Hadoop finds them."""

from contextlib import closing
from typing import Any

from pyspark.sql import SparkSession

from jobs.engine.session import java_class


def hadoop_path(spark: SparkSession, place: str) -> Any:
    """A place as Hadoop names it."""
    return java_class(spark, "org.apache.hadoop.fs.Path")(place)


def hadoop_configuration(spark: SparkSession) -> Any:
    """The settings of Hadoop that the session has."""
    return spark._jsparkSession.sessionState().newHadoopConf()


def located(spark: SparkSession, place: str) -> tuple[Any, Any]:
    """The file system that a place is in, and the place as Hadoop names it."""
    path = hadoop_path(spark, place)
    return path.getFileSystem(hadoop_configuration(spark)), path


def codec_of(spark: SparkSession, configuration: Any, file: Any) -> Any:
    """How a file is compressed, by its ending; None if it is not."""
    return java_class(spark, "org.apache.hadoop.io.compress.CompressionCodecFactory")(configuration).getCodec(file)


def read_text(spark: SparkSession, file_system: Any, file: Any) -> str:
    """All that a short file holds, as UTF-8."""
    with closing(file_system.open(file)) as stream:
        return str(java_class(spark, "org.apache.commons.io.IOUtils").toString(stream, "UTF-8"))
