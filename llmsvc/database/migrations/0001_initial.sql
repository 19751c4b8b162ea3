CREATE TABLE llama_users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username text NOT NULL UNIQUE CHECK (username ~ '^[a-z0-9][a-z0-9._@-]{0,62}$'),
    role text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    enabled boolean NOT NULL DEFAULT true,
    hidden boolean NOT NULL DEFAULT false,
    rate_limit integer CHECK (rate_limit > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz,
    CHECK (removed_at IS NULL OR NOT enabled)
);
COMMENT ON TABLE llama_users IS
    'People and programs with API keys. A removed user keeps its row, so that its name is never used again.';
COMMENT ON COLUMN llama_users.hidden IS 'The user of this machine''s own checks: outside limits, lists and reports.';
COMMENT ON COLUMN llama_users.rate_limit IS 'Requests per window; null for LLAMA_PROXY_RATE_LIMIT.';

CREATE TABLE llama_api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES llama_users,
    name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._@ -]{0,62}$'),
    prefix text NOT NULL CHECK (length(prefix) BETWEEN 8 AND 20),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
CREATE UNIQUE INDEX llama_api_keys_name ON llama_api_keys (user_id, name) WHERE revoked_at IS NULL;
CREATE INDEX llama_api_keys_prefix ON llama_api_keys (prefix);
COMMENT ON TABLE llama_api_keys IS 'API keys. A key itself is nowhere: only its digest and the first characters.';
COMMENT ON COLUMN llama_api_keys.digest IS 'HMAC-SHA256 of the key; the secret of it is the pepper, a credential outside of the database.';

CREATE TABLE llama_requests (
    request_id uuid PRIMARY KEY,
    username text NOT NULL,
    user_id bigint NOT NULL,
    key_id bigint NOT NULL,
    end_user text,
    client_addr inet,
    path text NOT NULL,
    model text,
    state text NOT NULL CHECK (
        state ~ '^(ok|error|timeout|client_gone|cancelled|switched|proxy_killed|rejected_[a-z_]+)$'
    ),
    status_code smallint CHECK (status_code BETWEEN 100 AND 599),
    duration_ms integer CHECK (duration_ms >= 0),
    queue_ms integer CHECK (queue_ms >= 0),
    first_token_ms integer CHECK (first_token_ms >= 0),
    request_bytes bigint NOT NULL CHECK (request_bytes >= 0),
    response_bytes bigint NOT NULL DEFAULT 0 CHECK (response_bytes >= 0),
    prompt_tokens integer CHECK (prompt_tokens >= 0),
    completion_tokens integer CHECK (completion_tokens >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX llama_requests_created_at ON llama_requests (created_at);
CREATE INDEX llama_requests_username ON llama_requests (username, created_at);
COMMENT ON TABLE llama_requests IS
    'The ledger: one row for every request that passed the key check. user_id and key_id are no foreign keys, '
    'for a row must always be accepted.';
COMMENT ON COLUMN llama_requests.end_user IS 'Whom a trusted front end named; null on other keys.';
COMMENT ON COLUMN llama_requests.model IS 'The model that answered, by its real name; null if none was reached.';
COMMENT ON COLUMN llama_requests.created_at IS 'When the request was accepted.';
COMMENT ON COLUMN llama_requests.duration_ms IS 'From acceptance to the last byte; null if nobody saw the end.';

CREATE TABLE llama_usage_daily (
    day date NOT NULL,
    username text NOT NULL,
    key_id bigint NOT NULL,
    end_user text NOT NULL DEFAULT '',
    model text NOT NULL DEFAULT '',
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    duration_ms bigint NOT NULL,
    queue_ms bigint NOT NULL,
    request_bytes bigint NOT NULL,
    response_bytes bigint NOT NULL,
    PRIMARY KEY (day, username, key_id, end_user, model)
);
COMMENT ON TABLE llama_usage_daily IS 'Sums of the llama_requests rows that retention has removed. Days are UTC days.';

CREATE TABLE llama_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    verb text NOT NULL,
    object text NOT NULL
);
CREATE INDEX llama_audit_at ON llama_audit (at);
COMMENT ON TABLE llama_audit IS 'One row for every command that changed something.';
COMMENT ON COLUMN llama_audit.actor IS 'The login name of the person, also behind sudo.';

CREATE TABLE llama_meta (
    key text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE llama_meta IS 'Facts about this database, such as pepper_fingerprint.';

COMMENT ON TABLE llama_migrations IS 'The migrations that were applied.';

-- The proxy keeps all keys in memory and reads them again when told so. An update of last_used_at alone
-- changes nothing for it.
CREATE FUNCTION llama_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('llama_keys', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER llama_users_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON llama_users
    FOR EACH STATEMENT EXECUTE FUNCTION llama_keys_changed();
CREATE TRIGGER llama_api_keys_changed
    AFTER INSERT OR UPDATE OF user_id, digest, prefix, name, expires_at, revoked_at OR DELETE OR TRUNCATE
    ON llama_api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION llama_keys_changed();
