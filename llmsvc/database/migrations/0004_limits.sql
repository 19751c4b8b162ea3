ALTER TABLE llama_users
    ADD COLUMN concurrent integer CHECK (concurrent > 0),
    ADD COLUMN tokens_per_minute integer CHECK (tokens_per_minute > 0),
    ADD COLUMN tokens_per_day bigint CHECK (tokens_per_day > 0),
    ADD COLUMN max_tokens integer CHECK (max_tokens > 0),
    ADD COLUMN weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 100),
    ADD COLUMN models text[] CHECK (cardinality(models) > 0 AND array_position(models, NULL) IS NULL);
COMMENT ON COLUMN llama_users.concurrent IS 'Requests at once; null for the default of config.env.';
COMMENT ON COLUMN llama_users.tokens_per_minute IS 'Tokens in and out; null for the default of config.env.';
COMMENT ON COLUMN llama_users.tokens_per_day IS 'Tokens in and out; null for the default of config.env.';
COMMENT ON COLUMN llama_users.max_tokens IS 'The longest answer, in tokens; null for the default of config.env.';
COMMENT ON COLUMN llama_users.weight IS 'Turns in the queue for each one of a user with weight 1.';
COMMENT ON COLUMN llama_users.models IS 'Names of the models that it may use; null for all.';

ALTER TABLE llama_api_keys
    ADD COLUMN on_behalf_of text
        CHECK (on_behalf_of ~ '^[a-z0-9!#$%&''*+.^_`|~-]{1,64}$');
COMMENT ON COLUMN llama_api_keys.on_behalf_of IS
    'The key of a trusted front end: the header, in lower case, that says who is asking through it.';

-- as before, and with the new column
DROP TRIGGER llama_api_keys_changed ON llama_api_keys;
CREATE TRIGGER llama_api_keys_changed
    AFTER INSERT OR UPDATE OF user_id, digest, prefix, name, expires_at, revoked_at, on_behalf_of
        OR DELETE OR TRUNCATE
    ON llama_api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION llama_keys_changed();
