//! Flags that people bring from uvicorn, gunicorn, hypercorn and granian and that mean nothing here, each with
//! one sentence that says what to do instead. A flag that is ignored would be a promise broken in silence.

/// Flags that pounce knows and refuses.
#[derive(Clone, Copy, Debug)]
pub struct RefusedFlag {
    /// Long names without `--`, and single letters without `-`.
    pub names: &'static [&'static str],
    /// What to do instead; a sentence without its full stop.
    pub reason: &'static str,
}

const TLS: &str = "it does not speak TLS yet; let a proxy such as nginx, Caddy or your load balancer do that in front of it";
const RELOAD: &str = "restarting on code changes is left to a watcher: `watchfiles 'pounce main:app'`";
const HTTP: &str = "there is one HTTP implementation, hyper; leave it out";
const WEBSOCKET: &str = "it does not speak WebSocket yet; leave it out";
const PRIVILEGES: &str = "it runs as whoever starts it; use User=, Group= and UMask= of the service manager, or the container's user";
const RECYCLE: &str = "workers are not replaced after a number of requests; leave it out";
const HEADERS: &str = "response headers are the application's; leave it out";
const FORMAT: &str = "logs have two formats, `--log-format text` and `--log-format json`, and go to stderr";

/// Every refused flag.
pub static REFUSED: &[RefusedFlag] = &[
    RefusedFlag {
        names: &["timeout", "t"],
        reason: "gunicorn's --timeout kills a worker that is silent; use `--request-timeout` to bound one request, or \
                 `--shutdown-timeout` to bound the shutdown",
    },
    RefusedFlag {
        names: &["worker-class", "k"],
        reason: "there is one kind of worker, and it serves ASGI; leave it out",
    },
    RefusedFlag {
        names: &["threads", "blocking-threads", "runtime-threads"],
        reason: "each worker runs its event loop on one thread; use `--workers` for more",
    },
    RefusedFlag {
        names: &["worker-connections", "limit-concurrency", "backpressure"],
        reason: "that counts per worker; use `--max-connections`, which counts all workers together",
    },
    RefusedFlag {
        names: &["max-requests", "max-requests-jitter", "limit-max-requests", "limit-max-requests-jitter"],
        reason: RECYCLE,
    },
    RefusedFlag {
        names: &[
            "reload",
            "reload-dir",
            "reload-include",
            "reload-exclude",
            "reload-delay",
            "reload-engine",
            "reload-extra-file",
        ],
        reason: RELOAD,
    },
    RefusedFlag {
        names: &[
            "ssl-keyfile",
            "ssl-certfile",
            "ssl-keyfile-password",
            "ssl-version",
            "ssl-cert-reqs",
            "ssl-ca-certs",
            "ssl-ciphers",
            "keyfile",
            "certfile",
            "ca-certs",
            "cert-reqs",
            "ciphers",
            "insecure-bind",
            "quic-bind",
        ],
        reason: TLS,
    },
    RefusedFlag { names: &["http", "limit-request-line", "limit-request-field_size"], reason: HTTP },
    RefusedFlag {
        names: &[
            "ws",
            "ws-max-size",
            "ws-max-queue",
            "ws-ping-interval",
            "ws-ping-timeout",
            "ws-per-message-deflate",
            "websocket-ping-interval",
        ],
        reason: WEBSOCKET,
    },
    RefusedFlag { names: &["interface"], reason: "it serves ASGI 3 and nothing else; leave it out" },
    RefusedFlag {
        names: &["proxy-headers", "no-proxy-headers", "proxy-protocol", "proxy-allow-from"],
        reason: "X-Forwarded-For, X-Forwarded-Proto and the PROXY protocol are not read yet; leave it out",
    },
    RefusedFlag { names: &["user", "u", "group", "g", "umask", "m", "initgroups"], reason: PRIVILEGES },
    RefusedFlag {
        names: &["daemon", "D"],
        reason: "it stays in the foreground; let systemd (Type=notify) or a container run it",
    },
    RefusedFlag {
        names: &["chdir", "working-dir", "pythonpath"],
        reason: "it does not change directory; use `--app-dir DIR` to import the application from there, or `cd DIR` first",
    },
    RefusedFlag {
        names: &["env-file", "env", "e"],
        reason: "it reads no file of variables; set them before it starts: `set -a; . ./.env; pounce main:app`",
    },
    RefusedFlag {
        names: &["preload", "reuse-port", "no-sendfile", "worker-tmp-dir", "paste"],
        reason: "workers are started and given connections in its own way; leave it out",
    },
    RefusedFlag { names: &["read-timeout"], reason: "use `--header-timeout` and `--body-timeout`" },
    RefusedFlag {
        names: &["timeout-worker-healthcheck"],
        reason: "workers are watched from outside their event loop; leave it out",
    },
    RefusedFlag {
        names: &[
            "log-config",
            "logger-class",
            "access-logformat",
            "access-log-fmt",
            "disable-redirect-access-to-syslog",
            "log-syslog",
            "use-colors",
            "no-use-colors",
            "capture-output",
        ],
        reason: FORMAT,
    },
    RefusedFlag {
        names: &["statsd-host", "statsd-prefix"],
        reason: "it sends nothing to statsd; leave it out",
    },
    RefusedFlag {
        names: &[
            "server-header",
            "no-server-header",
            "date-header",
            "no-date-header",
            "header",
            "server-name",
        ],
        reason: HEADERS,
    },
    RefusedFlag { names: &["name", "n"], reason: "process titles are fixed; leave it out" },
];

/// Flags that take a file name and of which only `-`, "the standard stream", means the same here.
pub static LOG_FILES: &[&str] = &["access-logfile", "error-logfile", "log-file", "error-log"];
/// Why another file name is refused.
pub const LOG_FILE_REASON: &str =
    "logs go to stderr; send that to the file (`2>> FILE`), or let the service manager keep it";

/// Why a key or variable of that name (with `_` or `-`) is refused, if it is another server's.
pub fn reason(name: &str) -> Option<&'static str> {
    let name = name.replace('_', "-").to_ascii_lowercase();
    // Single letters are flags only.
    let known =
        |flag: &&RefusedFlag| name.len() > 1 && flag.names.iter().any(|n| n.replace('_', "-") == name);
    REFUSED.iter().find(known).map(|flag| flag.reason)
}
