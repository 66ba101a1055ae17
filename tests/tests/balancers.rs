//! Real load balancers in front of two servers, one of each kind of worker, that are restarted one after the other under load:
//! no client sees it.
//!
//! To see these fail: start the servers with `--drain-delay 0 --keepalive-linger 0`, or close idle connections without
//! announcing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pounce_tests::ports::free_port;
use pounce_tests::processes::wait_until;
use pounce_tests::server::SLACK;
use pounce_tests::{
    Address, FreshLoad, KeepAliveLoad, Outcome, Request, Server, Signal, WorkerKind, client, heavy,
};

/// A balancer's process; killed when dropped.
struct Balancer {
    process: Child,
    front: Address,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program's path, or a loud skip. `/usr/sbin` is not on everybody's path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    if found.is_none() {
        pounce_tests::skip::skipped(&format!(
            "{program} is not installed, rolling restarts behind it are NOT tested"
        ));
    }
    found
}

fn tcp(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
}

fn start_server(kind: WorkerKind, port: u16) -> Server {
    kind.server()
        .bind(format!("127.0.0.1:{port}"))
        .workers(2)
        .args(["--health-check-path", "/health", "--drain-delay", "2"])
        .start()
}

fn start_both(ports: [u16; 2]) -> [Option<Server>; 2] {
    [0, 1].map(|i| Some(start_server(WorkerKind::ALL[i], ports[i])))
}

/// The balancer sends requests to this server, and names it in a header.
fn is_used(balancer: &Balancer, name: &str) -> bool {
    matches!(client::get(&balancer.front, "/"), Outcome::Answered(answer) if answer.header("x-server") == Some(name))
}

/// Restarts both servers, twice, one after the other, under both kinds of load.
fn rolling_restart(balancer: &Balancer, ports: [u16; 2], names: [&str; 2], mut servers: [Option<Server>; 2]) {
    for name in names {
        wait_until("the balancer uses every server", Duration::from_secs(20), || is_used(balancer, name));
    }
    let echo = |answer: &pounce_tests::Answer| match answer.text().as_str() {
        "a body" => Ok(()),
        other => Err(format!("{} with body {other:?}", answer.status)),
    };
    let kept = KeepAliveLoad::new(&balancer.front, 20)
        .requests(vec![Request::post("/echo", "a body")])
        .check(echo)
        .start();
    let fresh = FreshLoad::new(&balancer.front, 50)
        .requests(vec![Request::post("/echo", "a body").close()])
        .check(echo)
        .start();
    kept.wait_for_ok(100);
    for turn in 0..4 {
        let i = turn % 2;
        let mut old = servers[i].take().expect("it runs");
        old.signal(Signal::TERM);
        old.assert_exit(0, Duration::from_secs(2 + 20) + SLACK);
        servers[i] = Some(start_server(WorkerKind::ALL[i], ports[i]));
        wait_until("the balancer uses the new server", Duration::from_secs(20), || {
            is_used(balancer, names[i])
        });
        kept.wait_for_ok(100);
    }
    let (kept, fresh) = (kept.stop(), fresh.stop());
    kept.assert_only(&[200]);
    fresh.assert_only(&[200]);
    assert_eq!(kept.refused() + fresh.refused(), 0, "{kept}{fresh}");
}

fn haproxy(program: &Path, dir: &Path, ports: [u16; 2]) -> Balancer {
    let front = free_port();
    let config = dir.join("haproxy.cfg");
    // No retries: what one server loses is lost. Connections to the servers are shared as boldly as it can.
    fs::write(
        &config,
        format!(
            "global\n  maxconn 500\n\
             defaults\n  mode http\n  retries 0\n  http-reuse always\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend front\n  bind 127.0.0.1:{front}\n  http-response set-header X-Server %s\n  default_backend back\n\
             backend back\n  balance roundrobin\n  option httpchk\n  http-check send meth GET uri /health ver HTTP/1.1 hdr Host health\n  \
             default-server inter 100ms fall 1 rise 1\n  server a 127.0.0.1:{} check\n  server b 127.0.0.1:{} check\n",
            ports[0], ports[1]
        ),
    )
    .unwrap();
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    spawn(command, front)
}

fn spawn(mut command: Command, front: u16) -> Balancer {
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut balancer = Balancer { process, front: tcp(front) };
    wait_until("the balancer listens", Duration::from_secs(20), || {
        if let Ok(Some(status)) = balancer.process.try_wait() {
            panic!("the balancer ended with {status}");
        }
        !matches!(client::get(&balancer.front, "/"), Outcome::RefusedBeforeSending(_))
    });
    balancer
}

#[test]
fn a_rolling_restart_behind_haproxy_fails_no_request() {
    let Some(program) = find("haproxy") else { return };
    let _turn = heavy::turn();
    let dir = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port()];
    let servers = start_both(ports);
    let balancer = haproxy(&program, dir.path(), ports);
    rolling_restart(&balancer, ports, ["a", "b"], servers);
}

#[test]
fn a_rolling_restart_behind_nginx_fails_no_request() {
    let Some(program) = find("nginx") else { return };
    let _turn = heavy::turn();
    let dir = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port()];
    let servers = start_both(ports);
    let names = ports.map(|port| format!("127.0.0.1:{port}"));
    let front = free_port();
    let errors = dir.path().join("error.log");
    let config = dir.path().join("nginx.conf");
    // Without the commercial edition nginx has no health checks: it goes on to the next server when one refuses the connection
    // or answers 503, and only then; what one server loses after the request was sent is lost.
    fs::write(
        &config,
        format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {errors} info;\nevents {{ worker_connections 512; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {dir}/1;\n  proxy_temp_path {dir}/2;\n  fastcgi_temp_path {dir}/3;\n  \
             uwsgi_temp_path {dir}/4;\n  scgi_temp_path {dir}/5;\n  keepalive_requests 1000000;\n  \
             upstream back {{ server {} max_fails=0; server {} max_fails=0; keepalive 32; }}\n  \
             server {{\n    listen 127.0.0.1:{front};\n    location / {{\n      proxy_pass http://back;\n      proxy_http_version 1.1;\n      \
             proxy_set_header Connection \"\";\n      proxy_next_upstream error http_503 non_idempotent;\n      \
             add_header X-Server $upstream_addr;\n    }}\n  }}\n}}\n",
            names[0],
            names[1],
            dir = dir.path().display(),
            errors = errors.display(),
        ),
    )
    .unwrap();
    let mut command = Command::new(program);
    command.arg("-e").arg(&errors).arg("-c").arg(&config);
    let balancer = spawn(command, front);
    rolling_restart(&balancer, ports, [&names[0], &names[1]], servers);
    // It may have tried the other server after a loss; its log tells.
    let log = fs::read_to_string(&errors).unwrap();
    let losses: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("upstream") && !line.contains("Connection refused"))
        .collect();
    assert!(losses.is_empty(), "{} loss(es) that nginx mended:\n{}", losses.len(), losses[0]);
}
