-- Contacts as an analyst would refine them with DuckDB: raw lines, clean tables, gold, all kept in one database file.
-- `getvariable('files')` names the raw files.
CREATE TABLE raw AS
SELECT line, filename FROM read_csv(getvariable('files'), columns = {'line': 'VARCHAR'}, delim = chr(1), quote = '',
  escape = '', header = false, auto_detect = false, filename = true, strict_mode = false);

CREATE MACRO text_of(value) AS CASE WHEN trim(value) NOT IN ('', 'NULL', 'null', 'N/A', 'NaN') THEN trim(value) END;
CREATE MACRO texts_of(list) AS list_transform(regexp_extract_all(list, '''[^'']*''|"[^"]*"'), lambda t: trim(t[2:-2]));
CREATE MACRO known_of(list) AS list_filter(texts_of(list), lambda t: t NOT IN ('', 'NULL', 'null', 'N/A', 'NaN'));
CREATE MACRO time_of(text) AS CASE WHEN regexp_matches(text, '^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?$')
  THEN try_cast(text AS TIMESTAMP) END;
CREATE MACRO number_of(text) AS try_cast(regexp_extract(text, '^[+-]?\d+', 0) AS INTEGER);
CREATE MACRO datetime_of(part) AS make_timestamp(part[1], part[2], part[3], part[4], part[5],
  coalesce(part[6], 0) + coalesce(part[7], 0) / 1000000.0);
CREATE MACRO times_of(list) AS CASE
  WHEN coalesce(text_of(list), '[]') = '[]' THEN []::TIMESTAMP[]
  WHEN contains(list, 'datetime') THEN list_transform(regexp_extract_all(list, '\(([^)]*)\)', 1),
    lambda arguments: datetime_of(list_transform(string_split(arguments, ','), lambda n: trim(n)::BIGINT)))
  ELSE list_transform(texts_of(list), lambda t: time_of(t)) END;

CREATE TABLE parsed AS
WITH records AS (
  SELECT filename, line, CASE WHEN json_valid(line) THEN from_json(line, '{"time_call_began": "VARCHAR",
    "time_call_ended": "VARCHAR", "counselors": "VARCHAR", "transfer_timestamps": "VARCHAR",
    "issues_discussed": "VARCHAR", "call_rating": "VARCHAR", "initial_risk_level": "VARCHAR",
    "client_pronouns": "VARCHAR", "client_name": "VARCHAR", "client_location": "VARCHAR"}') END AS r FROM raw)
SELECT filename, line, md5(r::VARCHAR) AS contact_id, time_of(trim(r.time_call_began)) AS started_at,
  time_of(trim(r.time_call_ended)) AS ended_at, texts_of(r.counselors) AS counselors,
  times_of(r.transfer_timestamps) AS transferred_at, known_of(r.issues_discussed) AS issues,
  number_of(text_of(r.call_rating)) AS call_rating, number_of(text_of(r.initial_risk_level)) AS initial_risk_level,
  known_of(r.client_pronouns) AS pronouns, text_of(r.client_name) AS client_name,
  text_of(r.client_location) AS client_location
FROM records;

CREATE MACRO is_good(started_at, ended_at, counselors, transferred_at) AS coalesce(
  ended_at >= started_at AND len(counselors) > 0 AND len(transferred_at) = len(counselors) - 1
  AND NOT list_contains(list_transform(transferred_at, lambda t: t IS NULL), true)
  AND coalesce(list_min(transferred_at) >= started_at AND list_max(transferred_at) <= ended_at, true)
  AND transferred_at = list_sort(transferred_at), false);

CREATE TABLE quarantine AS
SELECT filename, line FROM parsed WHERE NOT is_good(started_at, ended_at, counselors, transferred_at);
CREATE TABLE clean AS
SELECT DISTINCT ON (contact_id) * EXCLUDE (line) FROM parsed
WHERE is_good(started_at, ended_at, counselors, transferred_at);
DROP TABLE parsed;

CREATE TABLE counselors AS
SELECT DISTINCT md5(name) AS counselor_id, name AS counselor_name FROM (SELECT unnest(counselors) AS name FROM clean);
CREATE TABLE assignments AS
SELECT contact_id, i AS assignment_number, counselors[i] AS counselor_name,
  coalesce(CASE WHEN i > 1 THEN transferred_at[i - 1] END, started_at) AS started_at,
  coalesce(transferred_at[i], ended_at) AS ended_at, initial_risk_level, call_rating
FROM (SELECT *, unnest(range(1, len(counselors) + 1)) AS i FROM clean);
CREATE TABLE transfers AS
SELECT contact_id, assignment_number - 1 AS transfer_number, md5(counselor_name) AS counselor_id,
  started_at AS transferred_at FROM assignments WHERE assignment_number > 1;

CREATE TABLE contacts AS
SELECT contact_id, started_at, ended_at, md5(counselors[1]) AS initial_counselor_id,
  counselors[1] AS initial_counselor_name, len(transferred_at) AS transfer_count, call_rating, initial_risk_level,
  pronouns, issues FROM clean;
CREATE TABLE counselor_daily_cases AS
WITH cases AS (
  SELECT DISTINCT ON (contact_id, counselor_name)
    counselor_name, started_at::DATE AS day, initial_risk_level, call_rating
  FROM assignments ORDER BY contact_id, counselor_name, assignment_number)
SELECT counselor_name, day, count(*) AS number_of_cases, round(avg(initial_risk_level)::DECIMAL(18, 6), 2) AS average_risk_level,
  round(avg(call_rating)::DECIMAL(18, 6), 2) AS average_rating FROM cases GROUP BY ALL;
CREATE TABLE pronoun_risk AS
WITH named AS (
  SELECT coalesce(nullif(array_to_string(list_sort(list_distinct(pronouns)), ' + '), ''), 'Unknown') AS pronouns,
    initial_risk_level, list_has_all(pronouns, ['She/Her', 'They/Them']) AS is_both FROM clean)
SELECT pronouns, count(*) AS contact_count, round(avg(initial_risk_level)::DECIMAL(18, 6), 2) AS average_risk_level
FROM named GROUP BY ALL
UNION ALL SELECT 'She/They', count(*), round(avg(initial_risk_level)::DECIMAL(18, 6), 2) FROM named WHERE is_both;
CREATE TABLE concurrency AS
WITH intervals AS (
  SELECT 'all' AS scope, started_at, ended_at FROM clean
  UNION ALL SELECT counselor_name, started_at, ended_at FROM assignments),
changes AS (
  SELECT scope, moment, sum(change) AS change FROM (
    SELECT scope, started_at AS moment, 1 AS change FROM intervals UNION ALL SELECT scope, ended_at, -1 FROM intervals)
  GROUP BY ALL),
running AS (SELECT scope, moment, sum(change) OVER (PARTITION BY scope ORDER BY moment) AS open_count FROM changes)
SELECT scope, max(open_count) AS max_concurrent_cases, arg_max(moment, (open_count, -epoch_us(moment))) AS reached_at
FROM running GROUP BY ALL;
