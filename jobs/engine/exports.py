"""One CSV file from one table, in place at once: a reader sees the old file or the new one, never a part."""

from pyspark.sql import DataFrame

from jobs.engine.landing import hadoop_configuration, hadoop_path
from jobs.engine.sources import Export


def is_written(frame: DataFrame, folder: str, export: Export) -> bool:
    target = hadoop_path(frame.sparkSession, f"{folder}/{export.file}")
    return bool(target.getFileSystem(hadoop_configuration(frame.sparkSession)).exists(target))


def write(frame: DataFrame, folder: str, export: Export) -> None:
    """Writes `frame`, ordered, under the export's header; in one partition, for an export is small enough to open."""
    spark = frame.sparkSession
    target, hidden = f"{folder}/{export.file}", f"{folder}/.{export.file}.new"
    ordered = frame.coalesce(1).sortWithinPartitions(*export.order_by).toDF(*export.header)
    ordered.write.mode("overwrite").csv(hidden, header=True, emptyValue="", escape='"')
    file_system = hadoop_path(spark, target).getFileSystem(hadoop_configuration(spark))
    part = file_system.globStatus(hadoop_path(spark, f"{hidden}/part-*.csv"))[0].getPath()
    jvm = spark._jvm
    assert jvm is not None
    overwrite = jvm.org.apache.hadoop.fs.Options.Rename.OVERWRITE
    renames = spark.sparkContext._gateway.new_array(jvm.org.apache.hadoop.fs.Options.Rename, 1)  # type: ignore[union-attr]
    renames[0] = overwrite
    jvm.org.apache.hadoop.fs.FileContext.getFileContext(hadoop_path(spark, target).toUri()).rename(
        part, hadoop_path(spark, target), renames
    )
    file_system.delete(hadoop_path(spark, hidden), True)
