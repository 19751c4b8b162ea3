-- What a front end's users did is found by their names, and a user's sums without reading everybody's.
CREATE INDEX llama_requests_end_user ON llama_requests (end_user, created_at) WHERE end_user IS NOT NULL;
CREATE INDEX llama_usage_daily_username ON llama_usage_daily (username, day);

CREATE TABLE llama_erased_end_users (
    user_id bigint NOT NULL,
    alias text NOT NULL,
    salt bytea NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    erased_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, alias)
);
COMMENT ON TABLE llama_erased_end_users IS
    'By what the rows are known that were on their way when an end user was erased; emptied after a week.';
COMMENT ON COLUMN llama_erased_end_users.digest IS 'SHA-256 of salt and name, in UTF-8.';

-- As in 0003, and: rows of erased end users get their anonymous name, and those of an erased user name nobody.
CREATE OR REPLACE FUNCTION llama_requests_added() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    of_erased boolean := EXISTS (
        SELECT FROM added a JOIN llama_users u ON u.id = a.user_id WHERE u.erased_at IS NOT NULL
    ) OR EXISTS (
        SELECT FROM added a JOIN llama_erased_end_users e ON e.user_id = a.user_id
         WHERE a.created_at <= e.erased_at AND e.digest = sha256(e.salt || convert_to(a.end_user, 'UTF8'))
    );
    ids uuid[];
BEGIN
    IF of_erased THEN
        ids := ARRAY(SELECT request_id FROM added);
        UPDATE llama_requests r
           SET end_user = e.alias, client_addr = NULL
          FROM llama_erased_end_users e
         WHERE r.request_id = ANY (ids) AND e.user_id = r.user_id AND r.created_at <= e.erased_at
           AND e.digest = sha256(e.salt || convert_to(r.end_user, 'UTF8'));
        UPDATE llama_requests r
           SET username = u.username, client_addr = NULL,
               end_user = CASE WHEN r.end_user IS NOT NULL THEN 'erased' END
          FROM llama_users u
         WHERE r.request_id = ANY (ids) AND u.id = r.user_id AND u.erased_at IS NOT NULL;
    END IF;

    -- As in llama_request_usage, but straight from the new rows. In the order of the key, so that two statements
    -- at once cannot wait for each other.
    INSERT INTO llama_usage_daily AS d (
        day, username, key_id, end_user, model, requests, errors, rejected, prompt_tokens, completion_tokens,
        duration_ms, queue_ms, model_ms, request_bytes, response_bytes)
    SELECT (a.created_at AT TIME ZONE 'UTC')::date AS day,
           a.username,
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
      FROM (SELECT * FROM added WHERE NOT of_erased
            UNION ALL
            SELECT * FROM llama_requests WHERE of_erased AND request_id = ANY (ids)) a
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
