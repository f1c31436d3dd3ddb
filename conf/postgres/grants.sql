-- Who may read what. Run once, when roles, schemas or the tables of releases have just been made, or by an administrator
-- after a backup was restored without its privileges; tables that are published later are granted as they are created
-- (jobs/engine/live_tables.py). Neither comes again: what an administrator has revoked since, or has put there, is not
-- Assay's.
GRANT USAGE ON SCHEMA gold, ops TO analyst;
GRANT USAGE ON SCHEMA restricted, ops TO restricted_reader;
GRANT SELECT ON ops.releases, ops.release_tables TO restricted_reader;
GRANT SELECT ON ops.releases, ops.release_tables, ops.release_documents, ops.row_accounts, ops.rejected_files,
  ops.rule_results TO analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA gold, ops GRANT SELECT ON TABLES TO analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA restricted GRANT SELECT ON TABLES TO restricted_reader;
-- What is published already and belongs to who runs this: of a backup, or when a role was dropped and made again. Not what
-- is of no release any longer, and not what has moved to `restricted`: it may have been taken from its readers.
DO $$ DECLARE found RECORD; BEGIN
  FOR found IN
    SELECT DISTINCT c.oid::regclass AS name, split_part(t.table_name, '.', 1) AS place
    FROM ops.release_tables AS t JOIN pg_class AS c ON c.oid = to_regclass(t.table_name)
    WHERE t.release_id = (SELECT max(release_id) FROM ops.releases)
      AND NOT EXISTS (SELECT FROM ops.release_tables AS r WHERE t.table_name LIKE 'gold.%'
                      AND r.table_name = replace(t.table_name, 'gold.', 'restricted.'))
      AND pg_has_role(current_user, c.relowner, 'USAGE')
  LOOP
    EXECUTE format('GRANT SELECT ON %s TO %I', found.name,
      CASE found.place WHEN 'restricted' THEN 'restricted_reader' ELSE 'analyst' END);
  END LOOP;
END $$;
REVOKE ALL ON SCHEMA gold, restricted, ops, assay_staging FROM PUBLIC;
