-- The order in which rows came, for those that follow the ledger: created_at is when a request began.
ALTER TABLE llama_requests ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY;
COMMENT ON COLUMN llama_requests.seq IS 'The order in which rows were written; with gaps.';
CREATE INDEX llama_requests_seq ON llama_requests (seq);
CREATE INDEX llama_requests_not_ok ON llama_requests (created_at) WHERE state <> 'ok';

ALTER TABLE llama_users ADD COLUMN erased_at timestamptz CHECK (erased_at IS NULL OR removed_at IS NOT NULL);
COMMENT ON COLUMN llama_users.erased_at IS
    'Since then username is an anonymous name, in all tables; rows that come later get it too.';

ALTER TABLE llama_usage_daily
    ADD COLUMN rejected bigint NOT NULL DEFAULT 0,
    ADD COLUMN model_ms bigint NOT NULL DEFAULT 0;
-- room on each page, for the rows of today are updated all the time
ALTER TABLE llama_usage_daily SET (fillfactor = 50);
COMMENT ON TABLE llama_usage_daily IS
    'Sums of all rows that llama_requests ever had, also of those that retention removed. Days are UTC days.';
COMMENT ON COLUMN llama_usage_daily.errors IS 'Requests that we failed: error, timeout, switched, proxy_killed.';
COMMENT ON COLUMN llama_usage_daily.rejected IS 'Requests that we refused: limits, a full queue, a bad request.';
COMMENT ON COLUMN llama_usage_daily.model_ms IS 'Time that requests took beyond their wait in the queue.';

CREATE VIEW llama_request_usage AS
SELECT created_at,
       (created_at AT TIME ZONE 'UTC')::date AS day,
       username,
       key_id,
       coalesce(end_user, '') AS end_user,
       coalesce(model, '') AS model,
       1::bigint AS requests,
       (state IN ('error', 'timeout', 'switched', 'proxy_killed'))::int::bigint AS errors,
       (state ~ '^rejected_')::int::bigint AS rejected,
       coalesce(prompt_tokens, 0)::bigint AS prompt_tokens,
       coalesce(completion_tokens, 0)::bigint AS completion_tokens,
       coalesce(duration_ms, 0)::bigint AS duration_ms,
       coalesce(queue_ms, 0)::bigint AS queue_ms,
       CASE WHEN model IS NULL OR state ~ '^rejected_' THEN 0
            ELSE greatest(coalesce(duration_ms, 0)::bigint - coalesce(queue_ms, 0), 0) END AS model_ms,
       request_bytes,
       response_bytes
  FROM llama_requests;
COMMENT ON VIEW llama_request_usage IS 'What each row of llama_requests adds to llama_usage_daily.';

-- Counts what a statement added, in its own transaction: each row once, whenever it comes and however often it
-- is sent.
CREATE FUNCTION llama_requests_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added a JOIN llama_users u ON u.id = a.user_id WHERE u.erased_at IS NOT NULL) THEN
        UPDATE llama_requests r
           SET username = u.username, client_addr = NULL
          FROM llama_users u
         WHERE r.request_id = ANY (ARRAY(SELECT request_id FROM added))
           AND u.id = r.user_id AND u.erased_at IS NOT NULL;
    END IF;

    -- As in llama_request_usage, but straight from the new rows. In the order of the key, so that two statements
    -- at once cannot wait for each other.
    INSERT INTO llama_usage_daily AS d (
        day, username, key_id, end_user, model, requests, errors, rejected, prompt_tokens, completion_tokens,
        duration_ms, queue_ms, model_ms, request_bytes, response_bytes)
    SELECT (a.created_at AT TIME ZONE 'UTC')::date AS day,
           coalesce(u.username, a.username) AS username,
           a.key_id,
           coalesce(a.end_user, '') AS end_user,
           coalesce(a.model, '') AS model,
           count(*),
           count(*) FILTER (WHERE a.state IN ('error', 'timeout', 'switched', 'proxy_killed')),
           count(*) FILTER (WHERE a.state ~ '^rejected_'),
           coalesce(sum(a.prompt_tokens), 0),
           coalesce(sum(a.completion_tokens), 0),
           coalesce(sum(a.duration_ms), 0),
           coalesce(sum(a.queue_ms), 0),
           coalesce(sum(greatest(coalesce(a.duration_ms, 0)::bigint - coalesce(a.queue_ms, 0), 0))
               FILTER (WHERE a.model IS NOT NULL AND a.state !~ '^rejected_'), 0),
           sum(a.request_bytes),
           sum(a.response_bytes)
      FROM added a
      LEFT JOIN llama_users u ON u.id = a.user_id AND u.erased_at IS NOT NULL
     GROUP BY 1, 2, 3, 4, 5
     ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (day, username, key_id, end_user, model) DO UPDATE SET
        requests = d.requests + excluded.requests,
        errors = d.errors + excluded.errors,
        rejected = d.rejected + excluded.rejected,
        prompt_tokens = d.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = d.completion_tokens + excluded.completion_tokens,
        duration_ms = d.duration_ms + excluded.duration_ms,
        queue_ms = d.queue_ms + excluded.queue_ms,
        model_ms = d.model_ms + excluded.model_ms,
        request_bytes = d.request_bytes + excluded.request_bytes,
        response_bytes = d.response_bytes + excluded.response_bytes;

    -- a key that somebody is changing right now is left out rather than waited for
    WITH used AS (SELECT key_id, max(created_at) AS at FROM added GROUP BY key_id),
         free AS (SELECT k.id FROM llama_api_keys k
                   WHERE k.id = ANY (ARRAY(SELECT key_id FROM used))
                     FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE llama_api_keys k
       SET last_used_at = used.at
      FROM used JOIN free ON free.id = used.key_id
     WHERE k.id = free.id AND (k.last_used_at IS NULL OR k.last_used_at < used.at);
    RETURN NULL;
END
$$;

INSERT INTO llama_usage_daily (
    day, username, key_id, end_user, model, requests, errors, rejected, prompt_tokens, completion_tokens,
    duration_ms, queue_ms, model_ms, request_bytes, response_bytes)
SELECT day, username, key_id, end_user, model, sum(requests), sum(errors), sum(rejected),
       sum(prompt_tokens), sum(completion_tokens), sum(duration_ms), sum(queue_ms), sum(model_ms),
       sum(request_bytes), sum(response_bytes)
  FROM llama_request_usage
 GROUP BY day, username, key_id, end_user, model;

CREATE TRIGGER llama_requests_added
    AFTER INSERT ON llama_requests REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION llama_requests_added();
