//! The connection, one rule at a time.

use std::time::Duration;

use pounce_core::Instant;
use pounce_core::connection::{
    CloseMode, Connection, Ending, HeadVerdict, Output, Phase, ReadVerdict, Role, State,
};
use pounce_core::policy::{FRESH_LINGER, Policy, PolicySettings};

const NOW: Instant = Instant::from_millis(1000);

fn policy(change: impl Fn(&mut PolicySettings)) -> Policy {
    let mut settings = PolicySettings { request_timeout: Some(5.0), ..PolicySettings::default() };
    change(&mut settings);
    Policy::new(settings).expect("the policy of the test is valid")
}

fn fresh(role: Role, phase: Phase) -> Connection {
    Connection::new(&policy(|_| {}), role, phase, NOW)
}

fn after(millis: u64) -> Instant {
    NOW + Duration::from_millis(millis)
}

fn request(c: &mut Connection) {
    c.on_head_bytes(NOW);
    c.on_request(NOW, false, false);
}

fn respond(c: &mut Connection) -> HeadVerdict {
    let verdict = c.on_response_head(NOW, false);
    c.on_response_end(NOW);
    c.on_flushed(NOW);
    verdict
}

/// Between two requests.
fn idle() -> Connection {
    let mut c = fresh(Role::Serve, Phase::Serving);
    request(&mut c);
    let _ = respond(&mut c);
    c
}

#[test]
fn an_idle_connection_lingers_for_a_request_on_the_wire_and_is_then_ended() {
    let mut c = idle();
    c.on_phase(NOW, Phase::Draining);
    assert_eq!(c.on_read_blocked(after(499)), ReadVerdict::Wait);
    assert_eq!(c.poll_output(after(500)), Output::Wake);
    assert_eq!(c.on_read_blocked(after(500)), ReadVerdict::Eof);
    assert_eq!(c.close_mode(after(500)), CloseMode::Now);
}

#[test]
fn a_half_read_head_is_never_taken_for_idle() {
    let mut c = idle();
    c.on_head_bytes(NOW);
    c.on_phase(NOW, Phase::Draining);
    assert_eq!(c.on_read_blocked(after(9000)), ReadVerdict::Wait);
}

#[test]
fn a_head_that_was_half_read_during_a_response_is_not_forgotten_when_that_is_flushed() {
    let mut c = fresh(Role::Serve, Phase::Serving);
    request(&mut c);
    c.on_head_bytes(NOW);
    let _ = respond(&mut c);
    c.on_phase(NOW, Phase::Draining);
    assert_eq!((c.state(), c.on_read_blocked(after(600))), (State::ReadingHead, ReadVerdict::Wait));
}

#[test]
fn a_response_during_the_drain_announces_the_close() {
    for phase in [Phase::LameDuck, Phase::Draining] {
        let mut c = fresh(Role::Serve, phase);
        request(&mut c);
        assert_eq!(respond(&mut c), HeadVerdict::AnnounceClose);
        assert_eq!(c.state(), State::Closing);
    }
}

#[test]
fn of_pipelined_requests_the_last_announces_the_close() {
    let mut c = fresh(Role::Serve, Phase::Draining);
    request(&mut c);
    assert_eq!(c.on_response_head(NOW, true), HeadVerdict::Keep);
    c.on_response_end(NOW);
    c.on_flushed(NOW);
    request(&mut c);
    assert_eq!(respond(&mut c), HeadVerdict::AnnounceClose);
}

#[test]
fn after_an_announced_close_no_request_is_served() {
    let mut c = fresh(Role::Serve, Phase::Draining);
    request(&mut c);
    let _ = c.on_response_head(NOW, false);
    c.on_response_end(NOW);
    request(&mut c);
    assert_eq!((c.state(), c.requests()), (State::Flushing, 1));
}

#[test]
fn the_applications_own_close_is_remembered() {
    let mut c = fresh(Role::Serve, Phase::Serving);
    request(&mut c);
    c.on_close_announced();
    let _ = respond(&mut c);
    assert_eq!(c.state(), State::Closing);
}

#[test]
fn who_may_still_be_sending_is_read_from_after_the_last_response() {
    let mut c = fresh(Role::Serve, Phase::Draining);
    request(&mut c);
    let _ = respond(&mut c);
    assert!(matches!(c.close_mode(NOW), CloseMode::LingerUntil(_)), "a reset would destroy the response");
}

#[test]
fn who_asked_for_the_close_is_not_waited_for() {
    let mut c = fresh(Role::Serve, Phase::Serving);
    c.on_head_bytes(NOW);
    c.on_request(NOW, false, true);
    let _ = respond(&mut c);
    c.on_finished(NOW);
    assert_eq!(c.close_mode(NOW), CloseMode::Now);
}

#[test]
fn whoever_has_just_connected_is_waited_on_even_without_a_linger() {
    for role in [Role::Serve, Role::Refuse] {
        let policy = policy(|p| p.keepalive_linger = 0.0);
        let mut c = Connection::new(&policy, role, Phase::Draining, NOW);
        assert_eq!(c.on_read_blocked(after(1)), ReadVerdict::Wait);
        assert_eq!(c.on_read_blocked(NOW + FRESH_LINGER), ReadVerdict::Eof);
    }
}

#[test]
fn a_refused_connection_gets_its_503_after_the_deadline_too() {
    let mut c = fresh(Role::Refuse, Phase::Aborting);
    assert_eq!(c.on_read_blocked(after(1)), ReadVerdict::Wait);
}

#[test]
fn at_the_deadline_a_request_without_a_response_head_is_answered() {
    let mut c = fresh(Role::Serve, Phase::Draining);
    request(&mut c);
    c.on_phase(NOW, Phase::Aborting);
    assert_eq!(c.poll_output(NOW), Output::EndRequest(Ending::Forced));
    assert_eq!((respond(&mut c), c.cut_requests()), (HeadVerdict::AnnounceClose, 1));
}

#[test]
fn at_the_deadline_a_response_under_way_is_cut() {
    let mut c = fresh(Role::Serve, Phase::Draining);
    request(&mut c);
    let _ = c.on_response_head(NOW, false);
    c.on_phase(NOW, Phase::Aborting);
    assert_eq!((c.poll_output(NOW), c.cut_requests()), (Output::Cut, 1));
}

#[test]
fn a_request_that_is_ended_and_then_cut_is_counted_once() {
    let mut c = fresh(Role::Serve, Phase::Aborting);
    request(&mut c);
    assert_eq!(c.poll_output(NOW), Output::EndRequest(Ending::Forced));
    let _ = c.on_response_head(NOW, false);
    c.on_close_all(NOW);
    assert_eq!(c.cut_requests(), 1);
}

#[test]
fn a_request_whose_answer_was_never_written_is_counted() {
    let mut c = fresh(Role::Serve, Phase::Serving);
    request(&mut c);
    assert_eq!(c.poll_output(after(5000)), Output::EndRequest(Ending::RequestTimeout));
    c.on_close_all(after(5000));
    assert_eq!(c.cut_requests(), 1);
}

#[test]
fn a_slow_head_gets_408_and_an_unfinished_one_at_the_deadline_503() {
    let mut c = idle();
    c.on_head_bytes(NOW);
    let mut at_the_deadline = c.clone();
    assert_eq!(c.poll_output(after(10_000)), Output::Reject(408));
    at_the_deadline.on_phase(NOW, Phase::Aborting);
    assert_eq!(at_the_deadline.poll_output(NOW), Output::Reject(503));
    assert_eq!((c.cut_requests(), at_the_deadline.cut_requests()), (0, 1));
}

#[test]
fn a_client_that_does_not_read_is_cut_and_not_called_slow_to_send() {
    let mut c = fresh(Role::Serve, Phase::Serving);
    request(&mut c);
    let _ = c.on_response_head(NOW, false);
    c.on_write_blocked(NOW);
    assert_eq!(c.poll_output(after(60_000)), Output::ProbeWrite);
    c.on_write_probe(after(60_000), false);
    assert_eq!(c.poll_output(after(60_000)), Output::Cut);
}

#[test]
fn a_client_that_was_found_stuck_and_then_read_on_is_not_cut_at_its_next_pause() {
    let mut c = fresh(Role::Serve, Phase::Serving);
    request(&mut c);
    let _ = c.on_response_head(NOW, false);
    c.on_write_blocked(NOW);
    assert_eq!(c.poll_output(after(60_000)), Output::ProbeWrite);
    c.on_write_probe(after(60_000), false);
    c.on_flushed(after(60_000));
    c.on_write_blocked(after(60_001));
    assert!(matches!(c.poll_output(after(60_001)), Output::Timeout(_)));
}

#[test]
fn a_body_without_progress_is_408_only_while_the_application_waits_for_it() {
    let mut c = Connection::new(&policy(|p| p.request_timeout = None), Role::Serve, Phase::Serving, NOW);
    c.on_head_bytes(NOW);
    c.on_request(NOW, true, false);
    assert_eq!(c.poll_output(after(60_000)), Output::Timeout(None));
    c.on_body_blocked(after(60_000));
    assert_eq!(c.poll_output(after(90_000)), Output::EndRequest(Ending::BodyTimeout));
}
