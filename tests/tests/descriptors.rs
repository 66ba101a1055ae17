//! Servers that may have too few open files (`ulimit -n`).

use std::time::Duration;

use pounce_tests::server::SLACK;
use pounce_tests::{KeepAliveLoad, Request, Signal, heavy, with_both};

#[test]
fn more_clients_than_a_worker_may_have_files_are_all_answered_and_it_is_said_once() {
    let _turn = heavy::turn();
    with_both(|kind| {
        let limited = ["/bin/sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
        let mut server = kind.server().wrapped(&limited).workers(1).start();
        let load =
            KeepAliveLoad::new(server.address(), 150).requests(vec![Request::get("/").close()]).start();
        load.wait_for_ok(1_000);
        load.stop().assert_only(&[200]);
        server.signal(Signal::TERM);
        server.assert_exit(0, Duration::from_secs(2) + SLACK);
        let said = server.log().iter().filter(|line| line.contains("connections wait because")).count();
        assert_eq!(said, 1, "{}", server.log_text());
    });
}
