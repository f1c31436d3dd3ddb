-- What Assay needs in Postgres besides the published tables. Run at each publish; every statement may be repeated.
CREATE SCHEMA IF NOT EXISTS gold;
CREATE SCHEMA IF NOT EXISTS restricted;
CREATE SCHEMA IF NOT EXISTS ops;
CREATE SCHEMA IF NOT EXISTS assay_staging;
COMMENT ON SCHEMA gold IS 'Published tables for analysts; they change only as a whole, one release at a time';
COMMENT ON SCHEMA restricted IS 'Published tables that say who people are; only members of restricted_reader may read them';
COMMENT ON SCHEMA ops IS 'Which release is published, and what became of every raw row';
COMMENT ON SCHEMA assay_staging IS 'Rows on their way into the published tables; nobody reads here';

CREATE TABLE IF NOT EXISTS ops.releases (
  release_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id TEXT NOT NULL,
  published_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
COMMENT ON TABLE ops.releases IS 'One row per release: all published tables change together, in one transaction';
COMMENT ON COLUMN ops.releases.release_id IS 'Number of the release; the greatest is what the tables show now';
COMMENT ON COLUMN ops.releases.run_id IS 'The run that published it';
COMMENT ON COLUMN ops.releases.published_at IS 'When it was published';
-- ADD COLUMN IF NOT EXISTS would wait for readers, and let others wait, even where there is nothing to add.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ops.releases'::regclass AND attname = 'rolled_back_to') THEN
    ALTER TABLE ops.releases ADD COLUMN rolled_back_to BIGINT;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ops.releases'::regclass AND attname = 'lakehouse') THEN
    ALTER TABLE ops.releases ADD COLUMN lakehouse TEXT;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ops.releases'::regclass AND attname = 'ledger_commit') THEN
    ALTER TABLE ops.releases ADD COLUMN ledger_commit TEXT;
  END IF;
END $$;
COMMENT ON COLUMN ops.releases.rolled_back_to IS 'The release whose rows it shows again, if it was a rollback';
COMMENT ON COLUMN ops.releases.lakehouse IS 'Identifies the lakehouse that published it; another one may publish here only if told to take over';
COMMENT ON COLUMN ops.releases.ledger_commit IS 'The newest commit to its table ops/files, which one that was brought back from an older backup does not have';

CREATE TABLE IF NOT EXISTS ops.release_tables (
  release_id BIGINT NOT NULL REFERENCES ops.releases,
  table_name TEXT NOT NULL,
  delta_version BIGINT NOT NULL,
  row_count BIGINT NOT NULL,
  checksum TEXT NOT NULL,
  definition TEXT NOT NULL,
  PRIMARY KEY (release_id, table_name)
);
COMMENT ON TABLE ops.release_tables IS 'One row per release and table that one may read: what each table held in that release';
COMMENT ON COLUMN ops.release_tables.release_id IS 'The release';
COMMENT ON COLUMN ops.release_tables.table_name IS 'The table with its schema, e.g. gold.contacts';
COMMENT ON COLUMN ops.release_tables.delta_version IS 'The version of the Delta table that was published';
COMMENT ON COLUMN ops.release_tables.row_count IS 'How many rows it has';
COMMENT ON COLUMN ops.release_tables.checksum IS 'Sum of the hashes of its rows, independent of their order';
COMMENT ON COLUMN ops.release_tables.definition IS 'Fingerprint of its declared keys, indexes, types and comments';
-- ADD COLUMN IF NOT EXISTS would wait for readers, and let others wait, even where there is nothing to add.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ops.release_tables'::regclass AND attname = 'withheld_checksum') THEN
    ALTER TABLE ops.release_tables ADD COLUMN withheld_checksum TEXT;
  END IF;
END $$;
-- Checksums of two releases tell the hash of the one row that came between them, and so what it may hold: who may not read
-- a table does not see what releases hold of it.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'ops.release_tables'::regclass AND polname = 'readers') THEN
    CREATE POLICY readers ON ops.release_tables FOR SELECT
      USING (has_schema_privilege(split_part(table_name, '.', 1), 'USAGE'));
  END IF;
  IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = 'ops.release_tables'::regclass) THEN
    ALTER TABLE ops.release_tables ENABLE ROW LEVEL SECURITY;
  END IF;
END $$;
COMMENT ON COLUMN ops.release_tables.withheld_checksum IS 'Checksum of newer rows that a rollback holds back; they are published when a table of the source changes';

CREATE TABLE IF NOT EXISTS ops.release_documents (
  release_id BIGINT NOT NULL REFERENCES ops.releases,
  source TEXT NOT NULL,
  document TEXT NOT NULL,
  delta_version BIGINT NOT NULL,
  PRIMARY KEY (release_id, source, document)
);
COMMENT ON TABLE ops.release_documents IS 'One row per release and kind of documents: from which version of the Delta table the files are';
COMMENT ON COLUMN ops.release_documents.release_id IS 'The release';
COMMENT ON COLUMN ops.release_documents.source IS 'The source, e.g. members';
COMMENT ON COLUMN ops.release_documents.document IS 'The gold table whose rows become files, as it is called in conf/sources';
COMMENT ON COLUMN ops.release_documents.delta_version IS 'The version of the Delta table';
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'ops.release_documents'::regclass AND attname = 'delta_table') THEN
    ALTER TABLE ops.release_documents ADD COLUMN delta_table TEXT;
  END IF;
END $$;
COMMENT ON COLUMN ops.release_documents.delta_table IS 'Identifies the Delta table: the versions of one that was made anew count from 0 again';

CREATE TABLE IF NOT EXISTS ops.row_accounts (
  run_id TEXT NOT NULL,
  source TEXT NOT NULL,
  layer TEXT NOT NULL,
  table_name TEXT NOT NULL,
  source_file TEXT NOT NULL,
  rows_read BIGINT NOT NULL,
  rows_written BIGINT NOT NULL,
  rows_quarantined BIGINT NOT NULL,
  rows_deduplicated BIGINT NOT NULL,
  rows_superseded BIGINT NOT NULL,
  recorded_at TIMESTAMPTZ NOT NULL,
  batch_id BIGINT NOT NULL,
  CHECK (rows_read = rows_written + rows_quarantined + rows_deduplicated + rows_superseded)
);
CREATE INDEX IF NOT EXISTS row_accounts_by_file ON ops.row_accounts (source, source_file);
CREATE INDEX IF NOT EXISTS row_accounts_by_run ON ops.row_accounts (run_id);
COMMENT ON TABLE ops.row_accounts IS 'One row per run, layer, table, batch and raw file; of one layer, table, batch and file the newest counts: rows_read = rows_written + rows_quarantined + rows_deduplicated + rows_superseded';
COMMENT ON COLUMN ops.row_accounts.run_id IS 'The run that read the file';
COMMENT ON COLUMN ops.row_accounts.source IS 'The source, e.g. contacts';
COMMENT ON COLUMN ops.row_accounts.layer IS 'bronze (raw rows) or silver (cleaned rows)';
COMMENT ON COLUMN ops.row_accounts.table_name IS 'The table of that layer';
COMMENT ON COLUMN ops.row_accounts.source_file IS 'The raw file, below the landing folder';
COMMENT ON COLUMN ops.row_accounts.rows_read IS 'Rows read from the file';
COMMENT ON COLUMN ops.row_accounts.rows_written IS 'Rows that the table has from the file';
COMMENT ON COLUMN ops.row_accounts.rows_quarantined IS 'Rows held back because a rule was violated';
COMMENT ON COLUMN ops.row_accounts.rows_deduplicated IS 'Rows that were there already';
COMMENT ON COLUMN ops.row_accounts.rows_superseded IS 'Rows that a newer delivery took the place of';
COMMENT ON COLUMN ops.row_accounts.recorded_at IS 'When the run that recorded this began';
COMMENT ON COLUMN ops.row_accounts.batch_id IS 'The batch in which the file was read; a later row for the same batch and file replaces this one';

CREATE TABLE IF NOT EXISTS ops.rejected_files (
  source TEXT NOT NULL,
  source_file TEXT NOT NULL,
  reason TEXT NOT NULL,
  run_id TEXT NOT NULL,
  recorded_at TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE ops.rejected_files IS 'One row per raw file and time that it was set aside whole; one that was mended since stays';
COMMENT ON COLUMN ops.rejected_files.source IS 'The source, e.g. contacts';
COMMENT ON COLUMN ops.rejected_files.source_file IS 'The raw file, below the landing folder';
COMMENT ON COLUMN ops.rejected_files.reason IS 'Why it could not be used';
COMMENT ON COLUMN ops.rejected_files.run_id IS 'The run that set it aside';
COMMENT ON COLUMN ops.rejected_files.recorded_at IS 'When that run began';

CREATE TABLE IF NOT EXISTS ops.rule_results (
  run_id TEXT NOT NULL,
  source TEXT NOT NULL,
  table_name TEXT NOT NULL,
  rule TEXT NOT NULL,
  action TEXT NOT NULL,
  rows_checked BIGINT NOT NULL,
  rows_violating BIGINT NOT NULL,
  rate DOUBLE PRECISION NOT NULL,
  recorded_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX IF NOT EXISTS rule_results_by_rule ON ops.rule_results (source, table_name, rule);
COMMENT ON TABLE ops.rule_results IS 'One row per run and rule: how many of the rows that the run checked violate it; a drift shows in rate';
COMMENT ON COLUMN ops.rule_results.run_id IS 'The run that checked the rows';
COMMENT ON COLUMN ops.rule_results.source IS 'The source, e.g. contacts';
COMMENT ON COLUMN ops.rule_results.table_name IS 'The silver table';
COMMENT ON COLUMN ops.rule_results.rule IS 'The rule, as it is called in conf/sources';
COMMENT ON COLUMN ops.rule_results.action IS 'warn (the row is kept), quarantine (it is held back) or fail';
COMMENT ON COLUMN ops.rule_results.rows_checked IS 'Rows that the run checked';
COMMENT ON COLUMN ops.rule_results.rows_violating IS 'Rows that violate the rule; of a warn rule, only rows that are kept';
COMMENT ON COLUMN ops.rule_results.rate IS 'rows_violating / rows_checked, 0 to 1';
COMMENT ON COLUMN ops.rule_results.recorded_at IS 'When that run began';
