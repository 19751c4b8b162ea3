-- All that the search for one state needs is in this index: no row is read in vain.
DROP INDEX llama_requests_not_ok;
CREATE INDEX llama_requests_not_ok ON llama_requests (created_at, state text_pattern_ops) WHERE state <> 'ok';
