-- Who may read what. The roles exist when this is run; new tables are granted as they are created (see default privileges).
GRANT USAGE ON SCHEMA gold, ops TO analyst;
GRANT USAGE ON SCHEMA restricted TO restricted_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA gold, ops TO analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA restricted TO restricted_reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA gold, ops GRANT SELECT ON TABLES TO analyst;
ALTER DEFAULT PRIVILEGES IN SCHEMA restricted GRANT SELECT ON TABLES TO restricted_reader;
REVOKE ALL ON SCHEMA gold, restricted, ops, assay_staging FROM PUBLIC;
