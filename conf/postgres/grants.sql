-- Who may read what. Run once, when roles, schemas or the tables of releases have just been made; published tables are
-- granted as they are created (jobs/engine/live_tables.py). Neither comes again: what an administrator has revoked since,
-- or has put there, is not Assay's.
GRANT USAGE ON SCHEMA gold, ops TO analyst;
GRANT USAGE ON SCHEMA restricted, ops TO restricted_reader;
GRANT SELECT ON ops.releases, ops.release_tables TO restricted_reader;
GRANT SELECT ON ops.releases, ops.release_tables, ops.release_documents, ops.row_accounts, ops.rejected_files,
  ops.rule_results TO analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA gold, ops GRANT SELECT ON TABLES TO analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA restricted GRANT SELECT ON TABLES TO restricted_reader;
REVOKE ALL ON SCHEMA gold, restricted, ops, assay_staging FROM PUBLIC;
