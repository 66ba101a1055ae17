//! Clients: one request after the other, through a balancer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::app;
use crate::http1::{Answer, Failure, HttpConn};
use crate::net::{HostId, SimNet};
use crate::platform::{Cluster, FIRST_CLIENT, Front};
use crate::rng::Rng;
use crate::scenario::{Client, Layer, PIPELINE_GAP_MS, RequestKind, Retry, SLOW_READ_BYTES};
use crate::world::{Attempt, World};

/// Most times that a request is tried again.
const RETRIES: u32 = 2;

/// Runs one client to its end.
pub async fn run<N: SimNet>(cluster: Arc<Cluster<N>>, index: usize) {
    let world = Arc::clone(&cluster.world);
    let plan = world.scenario.clients[index].clone();
    let layer = world.scenario.balancers[plan.balancer].layer;
    let retry = match layer {
        Layer::L4 => plan.retry,
        Layer::L7 => plan.retry.max(world.scenario.balancers[plan.balancer].retry),
    };
    let mut client = Running {
        front: Arc::clone(&cluster.fronts[plan.balancer]),
        idle_timeout_ms: world.scenario.balancers[plan.balancer].idle_timeout_ms,
        host: FIRST_CLIENT + index as HostId,
        rng: Rng::fork(world.scenario.seed.0, 3000 + index as u64),
        kept: None,
        last_refused: None,
        cluster,
        world,
        index,
        plan,
        layer,
        retry,
    };
    let mut request = 0;
    while request < client.plan.requests {
        request += client.request(request).await;
        if request < client.plan.requests {
            let think = client.plan.think.draw(&mut client.rng);
            tokio::time::sleep(Duration::from_millis(think)).await;
        }
    }
}

struct Running<N: SimNet> {
    world: Arc<World>,
    cluster: Arc<Cluster<N>>,
    front: Arc<Front<N>>,
    idle_timeout_ms: u64,
    host: HostId,
    rng: Rng,
    index: usize,
    plan: Client,
    layer: Layer,
    retry: Retry,
    /// L4: the connection that is kept between requests.
    kept: Option<HttpConn<N::Stream>>,
    /// The pod that the last connection attempt went to in vain.
    last_refused: Option<HostId>,
}

impl<N: SimNet> Running<N> {
    /// Asks for `request`, and for the next as well where they overlap. Returns how many it were.
    async fn request(&mut self, request: u32) -> u32 {
        let duration_ms = self.world.scenario.app.duration.draw(&mut self.rng);
        let mut fresh = false;
        for turn in 0..=RETRIES {
            let depth = match self.plan.request {
                RequestKind::Pipelined { depth } if self.layer == Layer::L4 => depth.max(1),
                _ => 1,
            };
            let mut ids: Vec<u64> = (0..depth).map(|nth| self.begin(request, duration_ms, nth > 0)).collect();
            let limit = Duration::from_millis(self.plan.timeout_ms);
            let outcome = tokio::time::timeout(limit, self.attempt(&mut ids, request, duration_ms, fresh))
                .await
                .unwrap_or_else(|_| {
                    self.kept = None;
                    Err(Failure::Timeout)
                });
            let overlap = matches!(self.plan.request, RequestKind::EarlyHead { .. });
            let asked = if overlap { ids.len() as u32 } else { 1 };
            let Err(failure) = outcome else { return asked };
            let mut reused = false;
            for id in &ids {
                self.world.change(*id, |attempt| reused |= attempt.reused);
            }
            let again = turn < RETRIES
                && match &failure {
                    Failure::NoEndpoint | Failure::Refused | Failure::ConnectTimeout => {
                        self.retry >= Retry::Connect
                    }
                    Failure::Closed | Failure::Reset if reused => self.retry >= Retry::Stale,
                    Failure::Status(503) => self.retry >= Retry::Unavailable,
                    _ => false,
                };
            // Those before the failed one in a pipeline are answered already.
            for id in &ids {
                let mut open = false;
                self.world.change(*id, |attempt| {
                    open = attempt.result.is_none();
                    attempt.retried = again;
                });
                if open {
                    self.world.end(*id, Err(failure.clone()));
                }
            }
            if !again {
                return asked;
            }
            crate::marks::hit("a request was tried again");
            fresh = true;
            if !matches!(failure, Failure::Closed | Failure::Reset) {
                tokio::time::sleep(Duration::from_millis(100 << turn)).await;
            }
        }
        1
    }

    /// Opens an attempt and returns its id.
    fn begin(&self, request: u32, duration_ms: u64, pipelined: bool) -> u64 {
        self.world.begin(Attempt {
            id: 0,
            client: self.index,
            request,
            start_ms: 0,
            end_ms: 0,
            pod: None,
            conn: None,
            reused: false,
            offset: 0,
            duration_ms,
            pipelined,
            result: None,
            close: false,
            retried: false,
        })
    }

    /// Notes which connection attempt `id` is made on.
    fn goes_on(&self, id: u64, conn: &HttpConn<N::Stream>, reused: bool) {
        self.world.change(id, |attempt| {
            attempt.pod = Some(conn.pod);
            attempt.conn = conn.conn;
            attempt.reused = reused;
            attempt.offset = conn.sent;
        });
    }

    async fn connection(&mut self, fresh: bool) -> Result<HttpConn<N::Stream>, Failure> {
        use pounce_runtime_tokio::listener::Stream;
        if let (Some(conn), false) = (self.kept.take(), fresh)
            && !conn.stream.readable_now()
        {
            return Ok(conn);
        }
        let pod = self.front.choose().ok_or(Failure::NoEndpoint)?;
        let from = match self.layer {
            Layer::L4 => self.host,
            Layer::L7 => self.front.host,
        };
        if let (Layer::L7, false) = (self.layer, fresh)
            && let Some(conn) = self.front.take_idle(pod, self.idle_timeout_ms)
        {
            return Ok(conn);
        }
        self.last_refused = Some(pod);
        match self.cluster.net.connect(from, pod).await {
            Ok(stream) => {
                let id = self.cluster.net.conn(&stream);
                Ok(HttpConn::new(stream, id, pod))
            }
            Err(error) => Err(match error.kind() {
                io::ErrorKind::TimedOut => Failure::ConnectTimeout,
                _ => Failure::Refused,
            }),
        }
    }

    /// One try of the requests `ids`, of which `request` is the first. One that it sends beside them is added to them.
    async fn attempt(
        &mut self,
        ids: &mut Vec<u64>,
        request: u32,
        duration_ms: u64,
        fresh: bool,
    ) -> Result<(), Failure> {
        use pounce_runtime_tokio::listener::Stream;
        self.last_refused = None;
        let connected = self.connection(fresh).await;
        let mut conn = match connected {
            Ok(conn) => conn,
            Err(failure) => {
                let pod = self.last_refused;
                ids.iter().for_each(|id| self.world.change(*id, |attempt| attempt.pod = pod));
                return Err(failure);
            }
        };
        ids.iter().for_each(|id| self.goes_on(*id, &conn, conn.answers > 0));
        let kind = self.plan.request.clone();
        if let RequestKind::EarlyHead { pause_ms, gap_ms, .. } = kind {
            return self.overlap(conn, ids, request, duration_ms, pause_ms, gap_ms).await;
        }
        let gave_up = self.send(&mut conn, ids, duration_ms, &kind).await?;
        if gave_up {
            return Err(Failure::GaveUp);
        }
        let (piece, pause) = match kind {
            RequestKind::SlowReader { pause_ms, .. } => {
                (SLOW_READ_BYTES as usize, Duration::from_millis(pause_ms))
            }
            _ => (16 * 1024, Duration::ZERO),
        };
        let mut closing = false;
        for id in ids {
            let answer = match kind {
                RequestKind::Disconnect { after_ms, reset } => {
                    let limit = Duration::from_millis(after_ms);
                    match tokio::time::timeout(limit, conn.read_answer(piece, pause)).await {
                        Ok(answer) => answer?,
                        Err(_) => {
                            if reset {
                                conn.stream.reset_on_drop();
                            }
                            return Err(Failure::GaveUp);
                        }
                    }
                }
                _ => conn.read_answer(piece, pause).await?,
            };
            if closing {
                self.world.problem(format!("r{id}: an answer after one that announced the connection's end"));
            }
            closing |= answer.close;
            self.check(*id, &kind, answer)?;
            self.world.end(*id, Ok(answer.close));
        }
        if !closing {
            self.keep(conn);
        }
        Ok(())
    }

    fn keep(&mut self, conn: HttpConn<N::Stream>) {
        match self.layer {
            Layer::L4 if self.plan.keep_alive => self.kept = Some(conn),
            Layer::L4 => {}
            Layer::L7 => self.front.put_idle(conn, self.idle_timeout_ms),
        }
    }

    /// [`RequestKind::EarlyHead`]: half of the second head goes out as soon as the first answer has begun, unless that answer
    /// says that it is the last.
    async fn overlap(
        &mut self,
        mut conn: HttpConn<N::Stream>,
        ids: &mut Vec<u64>,
        request: u32,
        duration_ms: u64,
        pause_ms: u64,
        gap_ms: u64,
    ) -> Result<(), Failure> {
        use pounce_runtime_tokio::listener::Stream;
        let head = |id: u64, kind: &RequestKind, close: &str| {
            format!("GET {} HTTP/1.1\r\nhost: sim\r\n{close}\r\n", app::path(id, duration_ms, kind))
        };
        let (piece, pause) = (SLOW_READ_BYTES as usize, Duration::from_millis(pause_ms));
        let kind = self.plan.request.clone();
        let first = ids[0];
        conn.write(head(first, &kind, "").as_bytes()).await?;
        let begun = conn.read_head(piece).await?;
        let mut rest = None;
        if !begun.close && request + 1 < self.plan.requests {
            let id = self.begin(request + 1, duration_ms, false);
            ids.push(id);
            self.goes_on(id, &conn, true);
            let last = self.layer == Layer::L4 && !self.plan.keep_alive;
            let head = head(id, &RequestKind::Get, if last { "connection: close\r\n" } else { "" });
            let at = 1 + (id as usize * 7) % (head.len() - 2);
            conn.write(&head.as_bytes()[..at]).await?;
            rest = Some((id, head[at..].to_owned()));
        }
        let answer = conn.read_body(begun, piece, pause).await?;
        self.check(first, &kind, answer)?;
        self.world.end(first, Ok(answer.close));
        let Some((id, rest)) = rest else {
            if !answer.close {
                self.keep(conn);
            }
            return Ok(());
        };
        tokio::time::sleep(Duration::from_millis(gap_ms)).await;
        // An end that has come meanwhile is read, not written into.
        if !conn.stream.readable_now() {
            conn.write(rest.as_bytes()).await?;
        }
        let answer = conn.read_answer(piece, Duration::ZERO).await?;
        self.check(id, &RequestKind::Get, answer)?;
        self.world.end(id, Ok(answer.close));
        if !answer.close {
            self.keep(conn);
        }
        Ok(())
    }

    fn check(&self, id: u64, kind: &RequestKind, answer: Answer) -> Result<(), Failure> {
        if answer.status != 200 {
            return Err(Failure::Status(answer.status));
        }
        let bytes = app::answer_bytes(kind);
        if answer.body != bytes || (bytes > 0 && answer.fill != Some(app::fill(id))) {
            return Err(Failure::Wrong(format!(
                "{} bytes of {:?}, not {bytes} of {:?}",
                answer.body,
                answer.fill,
                app::fill(id)
            )));
        }
        Ok(())
    }

    /// Sends the requests. True if the client went away in the middle.
    async fn send(
        &mut self,
        conn: &mut HttpConn<N::Stream>,
        ids: &[u64],
        duration_ms: u64,
        kind: &RequestKind,
    ) -> Result<bool, Failure> {
        use pounce_runtime_tokio::listener::Stream;
        let close = if self.layer == Layer::L4 && !self.plan.keep_alive && ids.len() == 1 {
            "connection: close\r\n"
        } else {
            ""
        };
        let head = |id: u64, more: &str| {
            format!("GET {} HTTP/1.1\r\nhost: sim\r\n{close}{more}\r\n", app::path(id, duration_ms, kind))
        };
        let id = ids.first().copied().unwrap_or(0);
        match *kind {
            RequestKind::HalfHead { gap_ms } => {
                let head = head(id, "");
                let at = 1 + (id as usize * 7) % (head.len() - 2);
                conn.write(&head.as_bytes()[..at]).await?;
                tokio::time::sleep(Duration::from_millis(gap_ms)).await;
                // An end that has come meanwhile is read, not written into.
                if !conn.stream.readable_now() {
                    conn.write(&head.as_bytes()[at..]).await?;
                }
            }
            RequestKind::Upload { chunks, chunk_bytes, gap_ms, chunked } => {
                let framing = if chunked {
                    "transfer-encoding: chunked\r\n".to_owned()
                } else {
                    format!("content-length: {}\r\n", u64::from(chunks) * u64::from(chunk_bytes))
                };
                conn.write(head(id, &framing).replacen("GET", "POST", 1).as_bytes()).await?;
                for _ in 0..chunks {
                    tokio::time::sleep(Duration::from_millis(gap_ms)).await;
                    if conn.stream.readable_now() {
                        return Ok(false);
                    }
                    let mut piece = Vec::new();
                    if chunked {
                        piece.extend_from_slice(format!("{chunk_bytes:x}\r\n").as_bytes());
                    }
                    piece.resize(piece.len() + chunk_bytes as usize, b'.');
                    if chunked {
                        piece.extend_from_slice(b"\r\n");
                    }
                    conn.write(&piece).await?;
                }
                if chunked {
                    conn.write(b"0\r\n\r\n").await?;
                }
            }
            RequestKind::Pipelined { .. } if id % 2 == 1 && ids.len() > 1 => {
                // Half of the last head comes with the requests before it, the rest while they are answered, or later.
                let all: String = ids.iter().map(|id| head(*id, "")).collect();
                let rest = 1 + (id as usize * 7) % 30;
                let (first, last) = all.as_bytes().split_at(all.len() - rest);
                conn.write(first).await?;
                tokio::time::sleep(Duration::from_millis((id * 37) % (PIPELINE_GAP_MS + 1))).await;
                conn.write(last).await?;
            }
            _ => {
                let all: String = ids.iter().map(|id| head(*id, "")).collect();
                conn.write(all.as_bytes()).await?;
            }
        }
        Ok(false)
    }
}
