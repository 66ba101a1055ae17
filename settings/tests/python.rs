//! The Python class, run by a real Python: what it refuses, and that it and the command agree about every value.

mod place;

use place::bare_snapshots;
use pounce_settings::SETTINGS;
use std::path::Path;
use std::process::Command;

/// Runs a script with the package's directory as its first argument. `None`, loudly, where there is no Python to run it with.
fn python(script: &str, input: &str) -> Option<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../asgi/python/pounce");
    let fits = ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"];
    if !Command::new("python3").args(fits).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no python3 of at least 3.10 in PATH");
        return None;
    }
    // The module is loaded from its file: importing the package would ask for the compiled extension.
    let prologue = "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv[1])\n\
                    from _config import ServerConfig\n";
    let output = Command::new("python3")
        .args(["-c", &format!("{prologue}{script}")])
        .arg(source)
        .arg(input)
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

/// Prints the outcome of each expression of `lines`.
const OUTCOMES: &str = r#"
import datetime, math, pathlib
for line in sys.argv[2].splitlines():
    try:
        print(line, "->", eval(line))
    except Exception as error:
        print(line, "->", f"{type(error).__name__}: {error}")
"#;

#[test]
fn a_keyword_that_breaks_its_rule_raises_with_the_rule() {
    let lines = "\
ServerConfig(shutdown_timeout=0.0)
ServerConfig(shutdown_timeout=-5.0)
ServerConfig(shutdown_timeout=math.nan)
ServerConfig(shutdown_timeout=math.inf)
ServerConfig(shutdown_timeout=True)
ServerConfig(shutdown_timeout=None)
ServerConfig(shutdown_timeout='soon')
ServerConfig(shutdown_timeout=10**400)
ServerConfig(shutdown_timeout=1e-12)
ServerConfig(shutdown_timeout=100000)
ServerConfig(shutdown_timeout=datetime.timedelta(0))
ServerConfig(drain_delay=-1)
ServerConfig(port='8000')
ServerConfig(port=65536)
ServerConfig(workers=0)
ServerConfig(workers=2.0)
ServerConfig(host=None)
ServerConfig(host=3)
ServerConfig(access_log='yes')
ServerConfig(log_level='loud')
ServerConfig(bind=['a:1', 'b:x'])
ServerConfig(max_header_size='1k')
ServerConfig(health_check_path='healthz')
ServerConfig(uds='s', port=1)
ServerConfig(otel_endpoint='http://localhost:4318')
ServerConfig(shutdown_timout=3)
ServerConfig(timeout_graceful_shutdown=3)
ServerConfig(reload=True)
ServerConfig(zebra=1)
ServerConfig('127.0.0.1')
setattr(ServerConfig(), 'port', 1)
ServerConfig().zebra";
    let Some(shown) = python(OUTCOMES, lines) else { return };
    // What Python itself says of a positional argument differs between versions.
    let shown = shown.replace("ServerConfig.__init__()", "__init__()");
    let _bound = bare_snapshots();
    insta::assert_snapshot!(shown);
}

#[test]
fn a_config_reads_like_the_keywords_that_made_it() {
    let lines = "\
ServerConfig()
ServerConfig(shutdown_timeout='30s', drain_delay=datetime.timedelta(milliseconds=500))
ServerConfig(shutdown_timeout='2m').shutdown_timeout
ServerConfig().shutdown_timeout, ServerConfig().workers, ServerConfig().request_timeout, ServerConfig().bind
ServerConfig(bind='a:1, unix:b', app_dir=pathlib.Path('src'), max_body_size='10m', otel_endpoint=None)
ServerConfig(log_level='WARN').log_level
ServerConfig() == ServerConfig(port=8000), ServerConfig(port=1) == ServerConfig(), ServerConfig() == 3
len({ServerConfig(), ServerConfig(port=8000), ServerConfig(port=1)})
__import__('pickle').loads(__import__('pickle').dumps(ServerConfig(port=1, uds=None)))
__import__('copy').deepcopy(ServerConfig(port=1, bind=None))
str(__import__('inspect').signature(ServerConfig))[:75]
ServerConfig(factory=True, access_log=False, request_timeout=None, uds=None).to_args()
ServerConfig(bind=['a:1', 'unix:b'], drain_delay=1e-9, root_path='', shutdown_timeout=30).to_args()
ServerConfig(otel_endpoint=None, max_connections='none').to_args()";
    let Some(shown) = python(OUTCOMES, lines) else { return };
    let _bound = bare_snapshots();
    insta::assert_snapshot!(shown);
}

#[test]
fn the_class_and_the_command_agree_about_every_value() {
    let texts = [
        "",
        "0",
        "1",
        "3",
        "+3",
        "-1",
        "30",
        "2.5",
        ".5",
        "1.",
        "30s",
        "30 s",
        "2m",
        "500ms",
        "1h",
        "25h",
        "1e3",
        "inf",
        "nan",
        "0.0000000001",
        "64k",
        "64KiB",
        "10m",
        "1.5m",
        "none",
        "None",
        "auto",
        "ON",
        "off",
        "warn",
        "Critical",
        "json",
        "asyncio",
        "uvloop",
        "/a",
        "/a?b",
        "/a b",
        "a",
        "a b",
        "a\tb",
        "a:1",
        ":80",
        "a:x",
        "a:70000",
        "[::1]:1",
        "[::1]x",
        "::1",
        "a:b:c",
        "unix:a",
        "[::1]",
        "[a]",
        "[",
        "[]",
        "fe80::1%eth0",
        "unix:",
        "unix://a",
        "fd://3",
        "fd://x",
        "a:1,b:2",
        "a:1,,",
        "http://a",
        "é",
    ];
    let script = r#"
import json
for name, text in json.loads(sys.argv[2]):
    try:
        value = getattr(ServerConfig(**{name: text}), name)
    except ValueError:
        value = "refused"
    print(json.dumps(value))
"#;
    // Counts and flags are typed in Python: there, no text is one.
    let spoken = SETTINGS.iter().filter(|s| {
        use pounce_settings::Kind;
        s.support == pounce_settings::Support::Here && !matches!(s.kind, Kind::Count { .. } | Kind::Flag)
    });
    let cases: Vec<(&pounce_settings::Setting, &str)> =
        spoken.flat_map(|s| texts.iter().map(move |t| (s, *t))).collect();
    let named: Vec<(&str, &str)> = cases.iter().map(|(setting, text)| (setting.name, *text)).collect();
    let Some(output) = python(script, &serde_json::to_string(&named).expect("JSON")) else { return };
    assert_eq!(output.lines().count(), cases.len());
    for ((setting, text), shown) in cases.into_iter().zip(output.lines()) {
        use pounce_settings::Value;
        let expected = match setting.kind.read(text, setting.optional) {
            Err(_) => serde_json::json!("refused"),
            Ok(Value::None) => serde_json::Value::Null,
            Ok(Value::Flag(on)) => on.into(),
            Ok(Value::Number(number)) => number.into(),
            Ok(Value::Duration(span)) => span.as_secs_f64().into(),
            Ok(Value::Text(text)) => text.into(),
            // The command normalises addresses, Python passes them on.
            Ok(Value::Binds(_)) => text.split(',').collect(),
        };
        let got: serde_json::Value = serde_json::from_str(shown).expect("JSON");
        assert_eq!(got, expected, "{} = {text:?}", setting.name);
    }
}

#[test]
fn the_command_reads_what_a_config_writes() {
    let script = r#"
import json
config = ServerConfig(bind=["127.0.0.1:0", "unix:s"], workers=3, shutdown_timeout=0.1, request_timeout=None, access_log=True,
    factory=False, root_path="", max_header_size="16k", log_level="warn", health_check_path="/h", drain_delay=1e-9)
print(json.dumps(config.to_args()))
"#;
    let Some(output) = python(script, "") else { return };
    let arguments: Vec<String> = serde_json::from_str(&output).expect("JSON");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let settings = place::run(&arguments, &[], &[]).expect("the command takes them");
    assert_eq!((settings.workers, settings.max_header_size, settings.binds.len()), (3, 16384, 2));
    assert_eq!((settings.drain_delay.as_nanos(), settings.shutdown_timeout.as_millis()), (1, 100));
}
