ALTER TABLE llama_users ADD COLUMN may_switch boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN llama_users.may_switch IS
    'A request that names another installed model may switch to it, with LLAMA_PROXY_AUTOSWITCH.';
