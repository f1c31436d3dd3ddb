-- Credits as an analyst would refine them with DuckDB: raw rows, clean tables, gold, all kept in one database file.
-- `getvariable('files')` names the raw files.
SET TimeZone = 'UTC';
CREATE TABLE raw AS
SELECT * FROM read_csv(getvariable('files'), columns = {'org_id': 'VARCHAR', 'user_id': 'VARCHAR',
  'credit_type': 'VARCHAR', 'action': 'VARCHAR', 'credits': 'VARCHAR', 'timestamp': 'VARCHAR'}, header = true,
  delim = ',', quote = '"', auto_detect = false, null_padding = true, filename = true, strict_mode = false);

CREATE MACRO bare(value) AS trim(coalesce(value, ''), e' \t');
CREATE MACRO id_of(value) AS CASE WHEN lower(bare(value)) NOT IN ('', 'null', 'n/a', 'nan') THEN lower(bare(value)) END;
CREATE MACRO is_number(value) AS regexp_full_match(value, '[+-]?(\d+(\.\d*)?|\.\d+)');
CREATE MACRO time_of(value) AS CASE
  WHEN regexp_full_match(value, '[1-9]\d{9}(\.0+)?') THEN make_timestamp(left(value, 10)::BIGINT * 1000000)
  WHEN regexp_full_match(value, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d') THEN try_strptime(value, '%Y-%m-%d %H:%M:%S')
  WHEN regexp_full_match(value, '\d\d-\d\d-\d{4}') THEN try_strptime(value, '%d-%m-%Y')
  WHEN regexp_full_match(value, '\d\d/\d\d/\d{4} \d\d:\d\d [AP]M') THEN try_strptime(value, '%m/%d/%Y %I:%M %p') END;

CREATE TABLE parsed AS
WITH bared AS (
  SELECT filename, bare(org_id) || '|' || bare(user_id) || '|' || bare(credit_type) || '|' || bare(action) || '|' ||
      bare(credits) || '|' || bare("timestamp") AS content, user_id IS NULL AND "timestamp" IS NULL AND credits IS NULL
      AND action IS NULL AND org_id = 'malformed' AS is_malformed,
    id_of(org_id) AS org_id, coalesce(id_of(user_id), 'unknown') AS user_id,
    coalesce(id_of(credit_type), 'unknown') AS credit_type, id_of(action) AS action, bare(credits) AS amount,
    time_of(upper(bare("timestamp"))) AS occurred_at
  FROM raw)
SELECT * EXCLUDE (content, amount), md5(content || '#' || row_number() OVER (PARTITION BY filename, content)) AS event_id,
  coalesce(CASE WHEN is_number(amount) THEN try_cast(amount AS DECIMAL(12, 2)) END, 0) AS credits,
  is_number(amount) AND amount LIKE '-%' AND regexp_matches(amount, '[1-9]') AS is_negative
FROM bared;

CREATE TABLE inferred AS
WITH only_orgs AS (
  SELECT user_id, min(org_id) AS only_org FROM parsed
  WHERE NOT is_malformed AND org_id IS NOT NULL AND user_id <> 'unknown'
  GROUP BY user_id HAVING min(org_id) = max(org_id))
SELECT parsed.* EXCLUDE (org_id), org_id AS named_org, coalesce(org_id, only_org) AS org_id,
  NOT is_malformed AND coalesce(org_id, only_org) IS NOT NULL AND coalesce(action IN ('add', 'deduct'), false)
  AND NOT is_negative AS is_good
FROM parsed LEFT JOIN only_orgs USING (user_id);
DROP TABLE parsed;

CREATE TABLE quarantine AS SELECT * FROM inferred WHERE NOT is_good;
CREATE TABLE clean AS
SELECT DISTINCT ON (event_id) * EXCLUDE (is_good, is_malformed, is_negative, named_org) FROM inferred WHERE is_good;
DROP TABLE inferred;

CREATE TABLE homes AS
WITH in_each AS (
  SELECT user_id, org_id, count(*) AS events, min(occurred_at) AS first_event_at FROM clean
  WHERE user_id <> 'unknown' GROUP BY ALL)
SELECT DISTINCT ON (user_id) user_id, org_id AS home_org_id FROM in_each
ORDER BY user_id, events DESC, first_event_at NULLS LAST, org_id;

CREATE TABLE user_activity AS
SELECT event_id, org_id, user_id, home_org_id, credit_type, action, credits, occurred_at, occurred_at::DATE AS occurred_on
FROM clean LEFT JOIN homes USING (user_id);
CREATE TABLE user_daily_usage AS
SELECT org_id, user_id, credit_type, action, occurred_on, count(*) AS event_count, sum(credits) AS credits
FROM user_activity GROUP BY ALL;
CREATE TABLE org_credit_balances AS
WITH sums AS (
  SELECT org_id, coalesce(sum(credits) FILTER (action = 'add'), 0) AS credits_added,
    coalesce(sum(credits) FILTER (action = 'deduct'), 0) AS credits_deducted,
    coalesce(sum(CASE action WHEN 'add' THEN credits ELSE -credits END) FILTER (org_id <> home_org_id), 0)
      AS disputed_credits,
    count(*) FILTER (occurred_at IS NULL) AS undated_event_count, min(occurred_at) AS first_event_at,
    max(occurred_at) AS last_event_at
  FROM user_activity GROUP BY org_id),
held AS (
  SELECT named_org AS org_id, count(DISTINCT event_id) AS quarantined_event_count FROM quarantine
  WHERE named_org IS NOT NULL AND NOT is_malformed GROUP BY named_org)
SELECT org_id, coalesce(credits_added, 0) AS credits_added, coalesce(credits_deducted, 0) AS credits_deducted,
  coalesce(credits_added, 0) - coalesce(credits_deducted, 0) AS credit_balance,
  coalesce(disputed_credits, 0) AS disputed_credits, coalesce(undated_event_count, 0) AS undated_event_count,
  coalesce(quarantined_event_count, 0) AS quarantined_event_count, first_event_at, last_event_at
FROM sums FULL JOIN held USING (org_id);
