//! The line between a supervisor and a worker of the same process.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pounce_core::protocol::{FromWorker, ToWorker};

use crate::listener::Accepted;
use crate::worker_host::{Order, Orders};

/// Makes a line. Everything sent on one end is there on the other at once, in order.
pub fn line<Io: Send + 'static>() -> (SupervisorEnd<Io>, WorkerEnd<Io>) {
    let queues = Arc::new(Mutex::new(Queues {
        orders: VecDeque::new(),
        reports: VecDeque::new(),
        worker: None,
        supervisor: None,
        hung_up: false,
    }));
    (SupervisorEnd(Arc::clone(&queues)), WorkerEnd(queues))
}

struct Queues<Io> {
    orders: VecDeque<Order<Io>>,
    reports: VecDeque<FromWorker>,
    worker: Option<Waker>,
    supervisor: Option<Waker>,
    /// The supervisor is gone.
    hung_up: bool,
}

fn lock<Io>(queues: &Mutex<Queues<Io>>) -> MutexGuard<'_, Queues<Io>> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The supervisor's end. The worker sees the end of the line when it is dropped.
pub struct SupervisorEnd<Io>(Arc<Mutex<Queues<Io>>>);

impl<Io> std::fmt::Debug for SupervisorEnd<Io> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisorEnd").finish_non_exhaustive()
    }
}

impl<Io> SupervisorEnd<Io> {
    pub fn tell(&self, message: &ToWorker) {
        self.push(Order::Message(message.clone()));
    }

    pub fn deal(&self, connection: Accepted<Io>) {
        self.push(Order::Deal(connection));
    }

    fn push(&self, order: Order<Io>) {
        let mut queues = lock(&self.0);
        queues.orders.push_back(order);
        wake(&mut queues.worker);
    }

    /// The worker's next message.
    pub fn poll_report(&self, cx: &mut Context<'_>) -> Poll<FromWorker> {
        let mut queues = lock(&self.0);
        match queues.reports.pop_front() {
            Some(report) => Poll::Ready(report),
            None => {
                queues.supervisor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The connections that the worker has not taken. For when it is gone.
    pub fn undelivered(&self) -> Vec<Accepted<Io>> {
        let orders = std::mem::take(&mut lock(&self.0).orders);
        orders
            .into_iter()
            .filter_map(|order| match order {
                Order::Deal(connection) => Some(connection),
                Order::Message(_) | Order::Lost => None,
            })
            .collect()
    }
}

impl<Io> Drop for SupervisorEnd<Io> {
    fn drop(&mut self) {
        let mut queues = lock(&self.0);
        queues.hung_up = true;
        wake(&mut queues.worker);
    }
}

/// The worker's end.
pub struct WorkerEnd<Io>(Arc<Mutex<Queues<Io>>>);

impl<Io> std::fmt::Debug for WorkerEnd<Io> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerEnd").finish_non_exhaustive()
    }
}

impl<Io: Send + 'static> Orders for WorkerEnd<Io> {
    type Io = Io;

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Order<Io>>>> {
        let mut queues = lock(&self.0);
        match queues.orders.pop_front() {
            Some(order) => Poll::Ready(Ok(Some(order))),
            None if queues.hung_up => Poll::Ready(Ok(None)),
            None => {
                queues.worker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn send(&mut self, message: &FromWorker) {
        let mut queues = lock(&self.0);
        queues.reports.push_back(message.clone());
        wake(&mut queues.supervisor);
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
