//! The table of settings. Everything else in this crate reads it; nothing else defines a setting.

use crate::kind::Kind;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Snake case: the key in the file, the keyword in Python, `POUNCE_NAME` in the environment and `--na-me` as a flag.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// In the spelling that [`Kind::read`] takes; `None` when it is off unless set.
    pub default: Option<&'static str>,
    /// `none` is allowed, and turns it off.
    pub optional: bool,
    /// The flag's one-letter form.
    pub short: Option<char>,
    /// Long flags of other servers that mean the same, without `--`.
    pub aliases: &'static [&'static str],
    /// Environment variables besides `POUNCE_NAME`.
    pub variables: &'static [&'static str],
    /// The stand-in for the value in `--help`.
    pub value_name: &'static str,
    /// Under which heading `--help` shows it.
    pub group: Group,
    /// One or two sentences without the default.
    pub help: &'static str,
    /// Whether it works yet.
    pub support: Support,
    /// Whether a configuration file may set it.
    pub in_file: bool,
}

/// The headings of `--help` and of the manual, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Where to listen.
    Address,
    /// What to run.
    Application,
    /// Draining and its budget.
    Shutdown,
    /// Time-outs while serving.
    Timeouts,
    /// Bounds on what a client may ask for.
    Limits,
    /// Logs, health, traces.
    Observation,
    /// The process itself.
    Process,
}

impl Group {
    /// All of them, in the order of `--help`.
    pub const ALL: [Group; 7] = [
        Group::Address,
        Group::Application,
        Group::Shutdown,
        Group::Timeouts,
        Group::Limits,
        Group::Observation,
        Group::Process,
    ];

    /// As a heading.
    pub fn heading(self) -> &'static str {
        match self {
            Group::Address => "Address",
            Group::Application => "Application",
            Group::Shutdown => "Shutdown",
            Group::Timeouts => "Time-outs",
            Group::Limits => "Limits",
            Group::Observation => "Logs and health",
            Group::Process => "Process",
        }
    }
}

/// Whether a setting works yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Here,
    /// Its feature does not exist yet: setting it is an error that gives this reason.
    NotYet(&'static str),
}

impl Setting {
    /// The long flag without `--`.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable that belongs to it alone.
    pub fn variable(&self) -> String {
        format!("POUNCE_{}", self.name.to_ascii_uppercase())
    }
}

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// What a row leaves out.
const ROW: Setting = Setting {
    name: "",
    kind: Kind::Text,
    default: None,
    optional: false,
    short: None,
    aliases: &[],
    variables: &[],
    value_name: "TEXT",
    group: Group::Process,
    help: "",
    support: Support::Here,
    in_file: true,
};

const DAY: u64 = 86_400;
/// A time-out: never 0, at most a day.
const TIMEOUT: Kind = Kind::Duration { may_be_zero: false, most_seconds: DAY };
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

const NO_TELEMETRY: &str = "OpenTelemetry export does not exist yet; leave it out";
const NO_PROXY_HEADERS: &str = "X-Forwarded-For and X-Forwarded-Proto are not read yet, so the client is always the peer of the connection; \
     leave it out";

/// Every setting, grouped as `--help` shows them.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "host",
        kind: Kind::Host,
        default: Some("127.0.0.1"),
        value_name: "HOST",
        group: Group::Address,
        help: "Host name or IP address to listen on; 0.0.0.0 or :: for all.",
        ..ROW
    },
    Setting {
        name: "port",
        kind: Kind::Count { least: 0, most: 65_535 },
        default: Some("8000"),
        variables: &["PORT"],
        value_name: "PORT",
        group: Group::Address,
        help: "Port to listen on; 0 for any free one.",
        ..ROW
    },
    Setting {
        name: "bind",
        kind: Kind::Binds,
        short: Some('b'),
        value_name: "ADDRESS",
        group: Group::Address,
        help: "HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N, instead of --host and --port. May be repeated.",
        ..ROW
    },
    Setting {
        name: "uds",
        kind: Kind::Path,
        value_name: "PATH",
        group: Group::Address,
        help: "Listen on a Unix domain socket instead. A stale socket file is replaced, a live one is an error.",
        ..ROW
    },
    Setting {
        name: "fd",
        // Descriptors 0 to 2 are the standard streams; inetd's habit of passing a socket as 0 is not supported.
        kind: Kind::Count { least: 3, most: 1_048_575 },
        value_name: "NUMBER",
        group: Group::Address,
        help: "Listen on an inherited socket instead. systemd's socket activation needs no flag.",
        ..ROW
    },
    Setting {
        name: "backlog",
        kind: Kind::Count { least: 1, most: 65_535 },
        default: Some("2048"),
        value_name: "COUNT",
        group: Group::Address,
        help: "Connections that the kernel may hold before they are accepted (listen(2)).",
        ..ROW
    },
    Setting {
        name: "app_dir",
        kind: Kind::Path,
        default: Some("."),
        value_name: "DIR",
        group: Group::Application,
        help: "Directory to import the application from; goes first in sys.path.",
        ..ROW
    },
    Setting {
        name: "factory",
        kind: Kind::Flag,
        default: Some("false"),
        group: Group::Application,
        help: "APP is a function that returns the application; the same as writing main:create_app().",
        ..ROW
    },
    Setting {
        name: "lifespan",
        kind: Kind::Choice { words: &["auto", "on", "off"], synonyms: &[], why_no_other: "" },
        default: Some("auto"),
        value_name: "MODE",
        group: Group::Application,
        help: "ASGI lifespan: auto goes on without it when the application does not support it, on insists, off skips it.",
        ..ROW
    },
    Setting {
        name: "root_path",
        kind: Kind::UrlPath { may_be_empty: true },
        default: Some(""),
        value_name: "PATH",
        group: Group::Application,
        help: "The ASGI root_path, when a proxy serves the application under a prefix.",
        ..ROW
    },
    Setting {
        name: "python",
        kind: Kind::Path,
        value_name: "PATH",
        group: Group::Application,
        help: "Python interpreter of the workers. Default: $VIRTUAL_ENV/bin/python, else python3.",
        ..ROW
    },
    Setting {
        name: "loop",
        kind: Kind::Choice {
            words: &["asyncio"],
            synonyms: &[("auto", "asyncio")],
            why_no_other: "pounce drives asyncio from its own selector in Rust, which uvloop would replace by a slower path",
        },
        default: Some("asyncio"),
        value_name: "NAME",
        group: Group::Application,
        help: "The event loop. pounce brings its own fast selector to asyncio; uvloop would undo that.",
        ..ROW
    },
    Setting {
        name: "shutdown_timeout",
        kind: TIMEOUT,
        default: Some("20s"),
        aliases: &["timeout-graceful-shutdown", "graceful-timeout"],
        variables: &["SHUTDOWN_TIMEOUT"],
        value_name: "DURATION",
        group: Group::Shutdown,
        help: "How long running requests may take to finish once the drain began; then they are cut.",
        ..ROW
    },
    Setting {
        name: "drain_delay",
        kind: Kind::Duration { may_be_zero: true, most_seconds: DAY },
        default: Some("0s"),
        value_name: "DURATION",
        group: Group::Shutdown,
        help: "How long to go on serving after the signal, with readiness at 503, so that load balancers notice first.",
        ..ROW
    },
    Setting {
        name: "keepalive_linger",
        kind: Kind::Duration { may_be_zero: true, most_seconds: DAY },
        default: Some("500ms"),
        value_name: "DURATION",
        group: Group::Shutdown,
        help: "How long an idle connection waits for a request already on the wire before the drain closes it.",
        ..ROW
    },
    Setting {
        name: "startup_timeout",
        kind: TIMEOUT,
        default: Some("10m"),
        optional: true,
        aliases: &["worker-boot-timeout"],
        value_name: "DURATION",
        group: Group::Timeouts,
        help: "Kill a worker that is not ready so long after its start: the start, or the reload, has failed.",
        ..ROW
    },
    Setting {
        name: "keep_alive_timeout",
        kind: TIMEOUT,
        default: Some("75s"),
        aliases: &["timeout-keep-alive", "keep-alive"],
        value_name: "DURATION",
        group: Group::Timeouts,
        help: "Close a connection that has been idle this long. Keep it above the proxy's own.",
        ..ROW
    },
    Setting {
        name: "header_timeout",
        kind: TIMEOUT,
        default: Some("10s"),
        value_name: "DURATION",
        group: Group::Timeouts,
        help: "408 for a request whose head has not arrived complete by then.",
        ..ROW
    },
    Setting {
        name: "body_timeout",
        kind: TIMEOUT,
        default: Some("30s"),
        value_name: "DURATION",
        group: Group::Timeouts,
        help: "408 for a request whose body makes no progress for this long.",
        ..ROW
    },
    Setting {
        name: "write_timeout",
        kind: TIMEOUT,
        default: Some("60s"),
        value_name: "DURATION",
        group: Group::Timeouts,
        help: "Close the connection of a client that reads nothing of its response for this long.",
        ..ROW
    },
    Setting {
        name: "request_timeout",
        kind: TIMEOUT,
        optional: true,
        value_name: "DURATION",
        group: Group::Timeouts,
        help: "504 and cancel the handler of a request whose response has not begun by then.",
        ..ROW
    },
    Setting {
        name: "max_connections",
        kind: Kind::Count { least: 1, most: 1_000_000 },
        optional: true,
        value_name: "COUNT",
        group: Group::Limits,
        help: "Open connections, all workers together; one more gets a 503.",
        ..ROW
    },
    Setting {
        name: "max_headers",
        kind: Kind::Count { least: 1, most: 10_000 },
        default: Some("100"),
        aliases: &["limit-request-fields"],
        value_name: "COUNT",
        group: Group::Limits,
        help: "Header fields of one request; 431 for more.",
        ..ROW
    },
    Setting {
        name: "max_header_size",
        // hyper panics on a read buffer of less than 8 KiB.
        kind: Kind::Size { least: 8 * KIB, most: 16 * MIB },
        default: Some("64KiB"),
        aliases: &["h11-max-incomplete-event-size"],
        value_name: "SIZE",
        group: Group::Limits,
        help: "Bytes of one request head; 431 for more.",
        ..ROW
    },
    Setting {
        name: "max_body_size",
        kind: Kind::Size { least: 1, most: TIB },
        optional: true,
        value_name: "SIZE",
        group: Group::Limits,
        help: "Bytes of one request body; 413 for more.",
        ..ROW
    },
    Setting {
        name: "health_check_path",
        kind: Kind::UrlPath { may_be_empty: false },
        optional: true,
        value_name: "PATH",
        group: Group::Observation,
        help: "Answer GET and HEAD on this path without the application: 200, and 503 from the signal on.",
        ..ROW
    },
    Setting {
        name: "access_log",
        kind: Kind::Flag,
        default: Some("false"),
        group: Group::Observation,
        help: "One line per request, to stderr.",
        ..ROW
    },
    Setting {
        name: "log_level",
        kind: Kind::Choice {
            words: &["error", "warning", "info", "debug", "trace"],
            synonyms: &[("warn", "warning"), ("critical", "error")],
            why_no_other: "",
        },
        default: Some("info"),
        value_name: "LEVEL",
        group: Group::Observation,
        help: "Log this and what is more serious.",
        ..ROW
    },
    Setting {
        name: "log_format",
        kind: Kind::Choice { words: &["text", "json"], synonyms: &[], why_no_other: "" },
        default: Some("text"),
        value_name: "FORMAT",
        group: Group::Observation,
        help: "How log lines look.",
        ..ROW
    },
    Setting {
        name: "otel_endpoint",
        optional: true,
        value_name: "URL",
        group: Group::Observation,
        help: "Where to send OpenTelemetry traces and metrics.",
        support: Support::NotYet(NO_TELEMETRY),
        ..ROW
    },
    Setting {
        name: "otel_service_name",
        optional: true,
        value_name: "NAME",
        group: Group::Observation,
        help: "The service's name in OpenTelemetry.",
        support: Support::NotYet(NO_TELEMETRY),
        ..ROW
    },
    Setting {
        name: "workers",
        kind: Kind::Count { least: 1, most: 1024 },
        default: Some("1"),
        short: Some('w'),
        variables: &["WEB_CONCURRENCY"],
        value_name: "COUNT",
        group: Group::Process,
        help: "Worker processes.",
        ..ROW
    },
    Setting {
        name: "pid_file",
        kind: Kind::Path,
        short: Some('p'),
        aliases: &["pid", "pidfile"],
        value_name: "FILE",
        group: Group::Process,
        help: "Write the process id here; removed at exit.",
        ..ROW
    },
    Setting {
        name: "forwarded_allow_ips",
        optional: true,
        value_name: "LIST",
        group: Group::Process,
        help: "Proxies whose X-Forwarded-For is believed.",
        support: Support::NotYet(NO_PROXY_HEADERS),
        ..ROW
    },
    Setting {
        name: "config",
        kind: Kind::Path,
        short: Some('c'),
        value_name: "FILE",
        group: Group::Process,
        help: "Read settings from this TOML file. Default: ./pounce.toml, else [tool.pounce] of ./pyproject.toml.",
        in_file: false,
        ..ROW
    },
];
