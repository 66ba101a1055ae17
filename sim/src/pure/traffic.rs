//! Clients, and the balancers between them and the pods.

use std::time::Duration;

use pounce_core::Instant;

use super::ledger::Cause;
use super::plan::{Layer, Retry, happens};
use super::pod::Container;
use super::socket::{Down, Near, Seg, Socket};
use super::world::{Event, PodId, RequestId, SocketId, World};

/// How long a connection may take to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often one request is tried again.
const MOST_RETRIES: u32 = 2;
/// Between a failure and the next try.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Kept longer than this is kept for ever: no timer is needed.
const FOR_EVER: Duration = Duration::from_secs(12 * 3600);

/// What one balancer knows: for L4, the rules of one node.
#[derive(Debug, Default)]
pub(crate) struct Balancer {
    pub view: Vec<PodId>,
    turn: usize,
    /// Idle connections, those used last at the end.
    pool: Vec<SocketId>,
    pub news_at: Instant,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Requests still to be asked; `u32::MAX`: until the end.
    pub left: u32,
    /// The connection that it keeps, where clients keep their own.
    own: Option<SocketId>,
    /// Requests of its that are open.
    open: u32,
}

impl Client {
    pub fn new(requests: u32) -> Client {
        Client { left: requests, own: None, open: 0 }
    }
}

#[derive(Debug)]
pub(crate) struct Request {
    pub client: u32,
    pub socket: Option<SocketId>,
    tries: u32,
    pub takes: Duration,
    /// Steps of a streamed answer, or of one that is read slowly.
    pub steps: u32,
    pub step_gap: Duration,
    pub streaming: bool,
    /// Parts of its body.
    pub parts: u32,
    part_gap: Duration,
    head_gap: Option<Duration>,
    pub client_close: bool,
    /// How long after it was sent its client leaves.
    patience: Option<Duration>,
    pub once: bool,
    /// Sent right behind another.
    pub pipelined: bool,
    followers: Vec<RequestId>,
    /// Its connection had carried another before.
    reused: bool,
    /// When its first byte reached an open socket.
    pub arrived_at: Option<Instant>,
    /// An application was given it.
    pub serving: bool,
    /// Why the server answered as it did, when that was no 200.
    pub hint: Option<Cause>,
    status: Option<u16>,
    over: bool,
}

impl World<'_> {
    fn layer(&self, balancer: u32) -> Layer {
        self.plan.balancers[balancer as usize].layer
    }

    /// A client's think time is over.
    pub fn ask(&mut self, client: u32) {
        let plan = &self.plan.clients[client as usize];
        let endless = plan.requests == u32::MAX;
        let state = &mut self.clients[client as usize];
        if state.left == 0 || (endless && self.traffic_ended) {
            state.left = 0;
            return;
        }
        if !endless {
            state.left -= 1;
        }
        let followers = if self.layer(plan.balancer) == Layer::L4 { plan.pipelined } else { 0 };
        let first = self.make_request(client);
        for _ in 0..followers {
            let follower = self.make_request(client);
            self.requests[follower as usize].pipelined = true;
            self.requests[first as usize].followers.push(follower);
        }
        // A balancer of layer 7 keeps its connections whatever its client does with its own.
        if plan.keep.is_zero() && self.layer(plan.balancer) == Layer::L4 {
            let last = self.requests[first as usize].followers.last().copied().unwrap_or(first);
            self.requests[last as usize].client_close = true;
        }
        self.dispatch_request(first);
    }

    fn make_request(&mut self, client: u32) -> RequestId {
        let plan = &self.plan.clients[client as usize];
        let rng = &mut self.rng;
        let head_gap = happens(rng, plan.slow_head).then(|| plan.head_gap.draw(rng));
        let upload = happens(rng, plan.upload);
        let (parts, part_gap) =
            if upload { (plan.upload_parts, plan.upload_gap.draw(rng)) } else { (0, Duration::ZERO) };
        let streaming = happens(rng, plan.streaming);
        let (steps, step_gap) = if streaming {
            (plan.stream_parts, plan.stream_gap.draw(rng))
        } else {
            (plan.read_parts, plan.read_gap)
        };
        let request = Request {
            client,
            socket: None,
            tries: 0,
            takes: plan.takes.draw(rng),
            steps,
            step_gap,
            streaming,
            parts,
            part_gap,
            head_gap,
            client_close: false,
            patience: happens(rng, plan.leaves).then(|| plan.patience.draw(rng)),
            once: happens(rng, plan.not_idempotent),
            pipelined: false,
            followers: Vec::new(),
            reused: false,
            arrived_at: None,
            serving: false,
            hint: None,
            status: None,
            over: false,
        };
        let id = self.requests.len() as RequestId;
        self.requests.push(request);
        self.outcome.requests += 1;
        self.outstanding += 1;
        self.clients[client as usize].open += 1;
        id
    }

    /// Finds a connection for a request.
    pub fn dispatch_request(&mut self, request: RequestId) {
        let asked = &mut self.requests[request as usize];
        if asked.over {
            return;
        }
        asked.arrived_at = None;
        asked.serving = false;
        asked.hint = None;
        asked.status = None;
        asked.socket = None;
        asked.reused = false;
        let (client, tries) = (asked.client, asked.tries);
        if let Some(timeout) = self.plan.clients[client as usize].timeout {
            self.after(timeout, Event::AnswerTimeout(request, tries));
        }
        let balancer = self.plan.clients[client as usize].balancer;
        let layer = self.layer(balancer);
        if layer == Layer::L4
            && let Some(id) = self.clients[client as usize].own
        {
            if self.sockets[id as usize].near == Near::Idle {
                self.sockets[id as usize].near = Near::Busy;
                self.requests[request as usize].reused = true;
                self.put_on(id, request);
                for follower in std::mem::take(&mut self.requests[request as usize].followers) {
                    self.requests[follower as usize].reused = true;
                    self.put_on(id, follower);
                }
                return;
            }
            self.clients[client as usize].own = None;
        }
        let state = &mut self.balancers[balancer as usize];
        if state.view.is_empty() {
            return self.failed(request, Cause::NoEndpoint, true);
        }
        let pick = match layer {
            Layer::L4 => self.rng.below(state.view.len() as u64) as usize,
            Layer::L7 => {
                state.turn = state.turn.wrapping_add(1);
                state.turn % state.view.len()
            }
        };
        let pod = self.addressed(self.balancers[balancer as usize].view[pick]);
        let state = &mut self.balancers[balancer as usize];
        // Whoever tries again does so on a new connection: others of the pool may have ended in the same moment.
        if layer == Layer::L7
            && tries == 0
            && let Some(at) = state.pool.iter().rposition(|id| self.sockets[*id as usize].pod == pod)
        {
            let id = state.pool.remove(at);
            self.sockets[id as usize].near = Near::Busy;
            self.requests[request as usize].reused = true;
            return self.put_on(id, request);
        }
        self.connect(pod, balancer, client, request);
    }

    /// Who is met at the address of `pod`. Where there is one address, whoever is there now; before the next one is, that is the
    /// last one, which refuses.
    pub fn addressed(&self, pod: PodId) -> PodId {
        if !self.plan.one_address {
            return pod;
        }
        let begun = self.pods.iter().rposition(|pod| pod.container != Container::Pending);
        begun.map_or(pod, |begun| begun as PodId)
    }

    fn connect(&mut self, pod: PodId, balancer: u32, client: u32, request: RequestId) {
        let id = self.sockets.len() as SocketId;
        let mut socket = Socket::new(pod, balancer, client, self.now);
        socket.pending.push_back(request);
        self.requests[request as usize].socket = Some(id);
        for follower in std::mem::take(&mut self.requests[request as usize].followers) {
            socket.pending.push_back(follower);
            self.requests[follower as usize].socket = Some(id);
        }
        self.sockets.push(socket);
        if self.layer(balancer) == Layer::L4 {
            self.clients[client as usize].own = Some(id);
        }
        let latency = self.latency();
        self.after(latency, Event::Syn(id));
    }

    pub fn connected(&mut self, id: SocketId) {
        if self.sockets[id as usize].near != Near::Connecting {
            return;
        }
        self.sockets[id as usize].near = Near::Busy;
        self.send_ack(id);
        let pending = std::mem::take(&mut self.sockets[id as usize].pending);
        pending.into_iter().for_each(|request| self.put_on(id, request));
    }

    pub fn refused(&mut self, id: SocketId) {
        let pod = &self.pods[self.sockets[id as usize].pod as usize];
        let cause = if pod.exited_at.is_none() && pod.supervisor.is_none() {
            Cause::RefusedBeforeListen
        } else {
            Cause::RefusedAfterListenerClose
        };
        self.not_connected(id, cause);
    }

    pub fn connect_timeout(&mut self, id: SocketId) {
        if self.sockets[id as usize].near == Near::Connecting {
            self.not_connected(id, Cause::RefusedAfterListenerClose);
        }
    }

    fn not_connected(&mut self, id: SocketId, cause: Cause) {
        if self.sockets[id as usize].near != Near::Connecting {
            return;
        }
        self.sockets[id as usize].near = Near::Closed;
        let pending = std::mem::take(&mut self.sockets[id as usize].pending);
        pending.into_iter().for_each(|request| self.failed(request, cause, true));
    }

    /// Sends a request on a connection.
    fn put_on(&mut self, id: SocketId, request: RequestId) {
        self.sockets[id as usize].pending.push_back(request);
        let asked = &mut self.requests[request as usize];
        asked.socket = Some(id);
        let patience = asked.patience;
        let (head_gap, parts, part_gap) = (asked.head_gap, asked.parts, asked.part_gap);
        if let Some(patience) = patience {
            self.after(patience, Event::Leave(request));
        }
        let asked = &self.requests[request as usize];
        // One write with the request before it: they arrive together.
        let joined = asked.pipelined && head_gap.is_none();
        let mut sent = Duration::ZERO;
        if let Some(gap) = head_gap {
            self.send_up(id, sent, Seg::Head { request, last: false });
            sent += gap;
        }
        if joined {
            self.send_behind(id, Seg::Head { request, last: true });
        } else {
            self.send_up(id, sent, Seg::Head { request, last: true });
        }
        for part in 1..=parts {
            sent += part_gap;
            self.send_up(id, sent, Seg::Body { request, last: part == parts });
        }
    }

    /// Something from the server reaches the client's end.
    pub fn down(&mut self, id: SocketId, down: Down) {
        if self.sockets[id as usize].near == Near::Closed {
            return;
        }
        match down {
            Down::Head { request, status, close } => {
                self.requests[request as usize].status = Some(status);
                self.sockets[id as usize].said_close |= close;
            }
            Down::End { request } => {
                self.sockets[id as usize].pending.retain(|other| *other != request);
                let last =
                    self.requests[request as usize].client_close || self.sockets[id as usize].said_close;
                if last {
                    self.hang_up(id);
                } else if self.sockets[id as usize].pending.is_empty() {
                    self.idle(id);
                }
                self.answered(id, request);
            }
            Down::Fin | Down::Rst => self.hang_up(id),
        }
    }

    fn keeps(&self, id: SocketId) -> Duration {
        let socket = &self.sockets[id as usize];
        match self.layer(socket.balancer) {
            Layer::L4 => self.plan.clients[socket.client as usize].keep,
            Layer::L7 => self.plan.balancers[socket.balancer as usize].pool_idle,
        }
    }

    fn idle(&mut self, id: SocketId) {
        let now = self.now;
        let keeps = self.keeps(id);
        let socket = &mut self.sockets[id as usize];
        socket.near = Near::Idle;
        socket.used_at = now;
        let (pod, balancer) = (socket.pod, socket.balancer);
        if keeps < FOR_EVER && !std::mem::replace(&mut socket.idle_armed, true) {
            self.after(keeps, Event::PoolIdle(id));
        }
        if self.layer(balancer) == Layer::L7 {
            let state = &mut self.balancers[balancer as usize];
            if self.plan.one_address || state.view.contains(&pod) {
                state.pool.push(id);
            } else {
                self.hang_up(id);
            }
        }
    }

    pub fn pool_idle(&mut self, id: SocketId) {
        let until = self.sockets[id as usize].used_at + self.keeps(id);
        match self.sockets[id as usize].near {
            Near::Idle if until <= self.now => self.hang_up(id),
            Near::Idle => self.at(until, Event::PoolIdle(id)),
            Near::Busy => {
                let keeps = self.keeps(id).max(Duration::from_millis(1));
                self.after(keeps, Event::PoolIdle(id));
            }
            Near::Connecting | Near::Closed => {}
        }
    }

    /// The client's end closes; what was under way on it is over.
    pub fn hang_up(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id as usize];
        if socket.near == Near::Closed {
            return;
        }
        socket.near = Near::Closed;
        let (balancer, client) = (socket.balancer, socket.client);
        let pending = std::mem::take(&mut socket.pending);
        self.balancers[balancer as usize].pool.retain(|other| *other != id);
        if self.clients[client as usize].own == Some(id) {
            self.clients[client as usize].own = None;
        }
        self.send_up(id, Duration::ZERO, Seg::Fin);
        for request in pending {
            let cause = self.cause(id, request);
            self.failed(request, cause, false);
        }
    }

    /// A client goes away before its answer.
    pub fn leave(&mut self, request: RequestId) {
        self.abandon(request, Cause::PeerFault);
    }

    /// A client waits no longer.
    pub fn answer_timeout(&mut self, request: RequestId, tries: u32) {
        if self.requests[request as usize].tries == tries {
            self.abandon(request, Cause::ClientTimeout);
        }
    }

    fn abandon(&mut self, request: RequestId, cause: Cause) {
        if self.requests[request as usize].over {
            return;
        }
        self.requests[request as usize].hint = Some(cause);
        // So that nobody tries it again.
        self.requests[request as usize].tries = MOST_RETRIES;
        match self.requests[request as usize].socket {
            Some(id) if self.sockets[id as usize].near == Near::Connecting => self.not_connected(id, cause),
            Some(id) if self.sockets[id as usize].near != Near::Closed => {
                // Those behind it share its end.
                for other in self.sockets[id as usize].pending.clone() {
                    self.requests[other as usize].hint = Some(cause);
                }
                self.hang_up(id);
            }
            _ => self.failed(request, cause, false),
        }
    }

    fn answered(&mut self, id: SocketId, request: RequestId) {
        let asked = &self.requests[request as usize];
        if asked.over {
            return;
        }
        if asked.status == Some(200) {
            if asked.tries > 0 {
                self.outcome.retried += 1;
            }
            self.outcome.answered += 1;
            self.over(request);
        } else {
            let cause = self.cause(id, request);
            self.failed(request, cause, false);
        }
    }

    /// A request got no answer, or one that is none; perhaps somebody tries again.
    fn failed(&mut self, request: RequestId, cause: Cause, nothing_sent: bool) {
        let asked = &mut self.requests[request as usize];
        if asked.over {
            return;
        }
        let client = asked.client;
        let plan = &self.plan.clients[client as usize];
        let balancer = &self.plan.balancers[plan.balancer as usize];
        let retry = match balancer.layer {
            Layer::L4 => plan.retry,
            Layer::L7 => plan.retry.max(balancer.retry),
        };
        let stale = !asked.once && asked.reused && asked.status.is_none();
        let may_retry = (retry >= Retry::Connect && nothing_sent)
            || (retry >= Retry::Stale && stale)
            || (retry >= Retry::Unavailable && asked.status == Some(503));
        let is_final =
            matches!(cause, Cause::PeerFault | Cause::TooSlow | Cause::ClientTimeout | Cause::Unexplained);
        if may_retry && !is_final && asked.tries < MOST_RETRIES {
            asked.tries += 1;
            asked.socket = None;
            self.after(RETRY_PAUSE, Event::Dispatch(request));
            return;
        }
        let pod = asked.socket.map(|id| self.sockets[id as usize].pod);
        self.outcome.causes.add(cause);
        self.line(|| {
            let pod = pod.map_or(String::new(), |pod| format!(" on pod-{}", pod + 1));
            (format!("client-{}", client + 1), format!("request {request}{pod} failed: {cause}"))
        });
        self.over(request);
    }

    fn over(&mut self, request: RequestId) {
        self.outstanding -= 1;
        let asked = &mut self.requests[request as usize];
        asked.over = true;
        let client = asked.client;
        // Never sent: they go their own way.
        for follower in std::mem::take(&mut asked.followers) {
            self.dispatch_request(follower);
        }
        let state = &mut self.clients[client as usize];
        state.open -= 1;
        if state.open == 0 && state.left > 0 {
            let think = self.plan.clients[client as usize].think.draw(&mut self.rng);
            self.after(think, Event::Ask(client));
        }
    }

    /// A balancer hears of a change.
    pub fn endpoint(&mut self, balancer: u32, pod: PodId, up: bool) {
        self.line(|| {
            let what = if up { "is an endpoint" } else { "is no endpoint any more" };
            (format!("lb-{}", balancer + 1), format!("pod-{} {what}", pod + 1))
        });
        let state = &mut self.balancers[balancer as usize];
        state.view.retain(|other| *other != pod);
        if up {
            state.view.push(pod);
        } else if self.layer(balancer) == Layer::L7 {
            let gone: Vec<SocketId> = self.balancers[balancer as usize]
                .pool
                .iter()
                .copied()
                .filter(|id| self.sockets[*id as usize].pod == pod)
                .collect();
            gone.into_iter().for_each(|id| self.hang_up(id));
        }
    }
}
