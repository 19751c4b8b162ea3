"""Each setting of config.env: its key, what it may be, its default, and what the file says of it."""

from __future__ import annotations

import re

from llmsvc import env, paths

ENGINES = ("llama-cpp-python", "native")
"""What can run a model."""

_UNIX_SOCKET = re.compile(r"(?=.{1,107}\Z)(/(?!\.\.?(/|\Z))[A-Za-z0-9._-]+)+\Z")
_TCP = re.compile(r"(\[[^\]]+\]|[^:\s]+):([0-9]+)\Z")


def listener(text: str) -> str:
    """`127.0.0.1:8001`, `[::1]:8001` or the path of a unix socket, as systemd's ListenStream= has it."""
    if text.startswith("/"):
        if not _UNIX_SOCKET.match(text):
            raise ValueError(
                "a path may have letters, digits, '.', '_' and '-' in it, up to 107 characters and no '..', "
                f"not as {text[:60]!r}"
            )
        return text
    match = _TCP.match(text)
    if not match:
        raise ValueError("must be ADDRESS:PORT, or the path of a unix socket")
    return stream_address(env.address(match[1]), env.integer(1, 65535)(match[2]))


def listeners(text: str) -> list[str]:
    """Several of them, with blanks between."""
    return [listener(word) for word in text.split()]


def stream_address(host: str, port: int) -> str:
    """Address and port, as ListenStream= and URLs have them."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


SETTINGS: tuple[env.Setting, ...] = (
    env.Setting(
        "LLAMA_PROXY_ENABLED",
        env.boolean,
        "1",
        "0: single-key mode, without proxy and database: the model itself listens on LLAMA_SERVER_HOST and "
        "_PORT, and one key is for all. To be changed by 'llmsvc install --no-proxy' and '--proxy'.",
    ),
    env.Setting(
        "LLAMA_PROXY_HOST",
        env.address,
        "127.0.0.1",
        "Address on which clients reach the service. 0.0.0.0 or :: for all networks.",
    ),
    env.Setting(
        "LLAMA_PROXY_PORT",
        env.integer(1, 65535),
        "8001",
        "TCP port on which clients reach the service.",
    ),
    env.Setting(
        "LLAMA_PROXY_TLS_CERT",
        env.absolute_path,
        "",
        "HTTPS instead of HTTP: file with the certificate and its chain (PEM), such as fullchain.pem of "
        "Let's Encrypt. Read by root at each start of the proxy: restart it after a renewal.",
    ),
    env.Setting(
        "LLAMA_PROXY_TLS_KEY",
        env.absolute_path,
        "",
        "File with the certificate's private key (PEM, without a password); only root need read it.",
    ),
    env.Setting(
        "LLAMA_PROXY_LISTEN",
        listeners,
        "",
        "More places on which clients reach the service, with blanks between: ADDRESS:PORT, [IPV6]:PORT, or "
        "the path of a unix socket.",
    ),
    env.Setting(
        "LLAMA_PUBLIC_URL",
        env.web_address,
        "",
        "What users are told as the service's address, such as https://llm.example.org of a reverse proxy or "
        "a certificate. Empty: http(s)://ADDRESS:PORT.",
    ),
    env.Setting(
        "LLAMA_SERVER_HOST",
        env.address,
        "127.0.0.1",
        "In single-key mode: address on which clients reach the model.",
    ),
    env.Setting(
        "LLAMA_SERVER_PORT",
        env.integer(1, 65535),
        "8000",
        "In single-key mode: TCP port on which clients reach the model.",
    ),
    env.Setting(
        "LLAMA_PROXY_RATE_LIMIT",
        env.integer(1, 1000000),
        "60",
        "Requests that one user may send per window; more get 429 with the exact Retry-After.",
    ),
    env.Setting(
        "LLAMA_PROXY_RATE_WINDOW_SECONDS",
        env.integer(1, 86400),
        "60",
        "Length of that sliding window.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_CONCURRENT",
        env.integer(0, 100000),
        "0",
        "Requests that one user may have open at once, waiting or running; more get 429. 0: no limit.",
    ),
    env.Setting(
        "LLAMA_PROXY_TOKENS_PER_MINUTE",
        env.integer(0, 10**9),
        "0",
        "Tokens, of prompts and answers, that one user may use within 60 s; more get 429. 0: no limit.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_TOKENS_PER_DAY",
        env.integer(0, 10**12),
        "0",
        "Tokens, of prompts and answers, that one user may use within 24 hours; more get 429. 0: no limit.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_END_USERS",
        env.integer(1, 1000000),
        "1000",
        "People a day whom one trusted front end (llmsvc key add --on-behalf-of) may name; each has the "
        "limits of the front end's user for itself. More count as that user.",
    ),
    env.Setting(
        "LLAMA_PROXY_QUEUE_PER_USER",
        env.integer(1, 100000),
        "64",
        "Requests of one user that may wait for the model at once, of 64 MiB together; more get 429.",
    ),
    env.Setting(
        "LLAMA_PROXY_QUEUE_TOTAL",
        env.integer(1, 1000000),
        "1024",
        "Requests that may wait for the model in all, of 512 MiB together; more get 503.",
    ),
    env.Setting(
        "LLAMA_PROXY_QUEUE_SECONDS",
        env.integer(1, 86400),
        "600",
        "Longest wait for the model's turn; then 503.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_HOLD_SECONDS",
        env.integer(0, 290),
        "120",
        "How long requests are held while no model is ready (switch, restart, crash); then 503.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_DRAIN_SECONDS",
        env.integer(1, 300),
        "30",
        "How long a stopping proxy, and a stopping model, let running requests finish.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_BODY_BYTES",
        env.integer(1024, 1073741824),
        "4194304",
        "Largest request body; larger ones get 413.",
        "bytes",
    ),
    env.Setting(
        "LLAMA_PROXY_BODY_SECONDS",
        env.integer(1, 3600),
        "30",
        "Time in which a request body must have arrived; then 408.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_HEADER_SECONDS",
        env.integer(1, 3600),
        "20",
        "Time in which the headers of a request must have arrived, also those of a connection's first one; "
        "then 408.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_CONNECTIONS",
        env.integer(16, 60000),
        "8192",
        "Connections of clients at once; more get 503. The unit's LimitNOFILE=65536 has room for 60000.",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_CONNECTIONS_PER_ADDRESS",
        env.integer(1, 60000),
        "2048",
        "Connections of one address at once, trusted proxies excepted; more get 429.",
    ),
    env.Setting(
        "LLAMA_PROXY_TRUSTED_PROXIES",
        env.networks("unix"),
        "",
        "Reverse proxies whose X-Forwarded-For (or Forwarded) tells the client's address: addresses and "
        "networks, 'unix' for a unix socket. Example: 127.0.0.1 10.0.0.0/8",
    ),
    env.Setting(
        "LLAMA_PROXY_CORS_ORIGINS",
        env.origins,
        "",
        "Web pages that may use the API from a browser: origins such as https://chat.example.org, or * for "
        "all. Empty: none.",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_TOKENS",
        env.integer(1, 10000000),
        "4096",
        "Tokens that an answer may have where the client does not say max_tokens.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_TOKENS_LIMIT",
        env.integer(0, 10000000),
        "0",
        "Tokens that an answer may have at most; a larger max_tokens becomes this. 0: no limit.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_SECONDS",
        env.integer(1, 86400),
        "600",
        "Time on the model that a request may take while others wait; then it ends with "
        "finish_reason 'length'.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_ENGINE",
        env.choice(*ENGINES),
        "llama-cpp-python",
        "What runs a model whose file in models.d does not say ENGINE.",
    ),
    env.Setting(
        "LLAMA_PROXY_OTHER_MODEL",
        env.choice("refuse", "serve"),
        "refuse",
        "A request that names another model than the loaded one: 'refuse' it with 404, or 'serve' it "
        "with the loaded one.",
    ),
    env.Setting(
        "LLAMA_PROXY_AUTOSWITCH",
        env.boolean,
        "0",
        "1: a request that names another installed model switches to it, if its user may "
        "(llmsvc user set NAME --may-switch).",
    ),
    env.Setting(
        "LLAMA_PROXY_SWITCH_SECONDS",
        env.integer(0, 86400),
        "30",
        "With LLAMA_PROXY_AUTOSWITCH: how long a model stays at least before a request may replace it.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_IDLE_UNLOAD_SECONDS",
        env.integer(0, 31536000),
        "0",
        "Stop the model after so long without a request; the next request starts it again. 0: never.",
        "seconds",
    ),
    env.Setting(
        "POSTGRES_AUTH_HOST",
        env.string,
        "/run/postgresql",
        "PostgreSQL: directory of the local socket (peer authentication, no password) or a host name.",
    ),
    env.Setting(
        "POSTGRES_AUTH_PORT",
        env.integer(1, 65535),
        "5432",
        "PostgreSQL: port, also of the local socket.",
    ),
    env.Setting(
        "POSTGRES_AUTH_DB",
        env.string,
        "llmsvc",
        "PostgreSQL: name of the database.",
    ),
    env.Setting(
        "POSTGRES_AUTH_USER",
        env.string,
        paths.PROXY_USER,
        "PostgreSQL: name of the role.",
    ),
    env.Setting(
        "POSTGRES_AUTH_SSLMODE",
        env.choice("disable", "prefer", "require", "verify-ca", "verify-full"),
        "prefer",
        "PostgreSQL: TLS over TCP, as libpq names it.",
    ),
    env.Setting(
        "POSTGRES_AUTH_SSLROOTCERT",
        env.absolute_path,
        "/etc/ssl/certs/ca-certificates.crt",
        "PostgreSQL: certificates of the authorities that may have signed the server's, for verify-ca and "
        "verify-full.",
    ),
    env.Setting(
        "LLAMA_LEDGER_RETENTION_DAYS",
        env.integer(0, 36500),
        "90",
        "How long the rows of requests are kept; their sums stay when the night removes them. 0: for ever.",
        "days",
    ),
    env.Setting(
        "LLAMA_MODELS_DIR",
        env.absolute_path,
        str(paths.MODELS),
        "Where model files are stored.",
    ),
)
