//! The platform: who creates and deletes pods, and what a node does to a pod that is deleted.

use std::time::Duration;

use pounce_core::event::Signal;
use pounce_core::worker::Input as WorkerInput;

use super::ledger::Cause;
use super::plan::Strategy;
use super::pod::{Container, Pod, Port};
use super::world::{Event, PodId, World};

impl World<'_> {
    /// A pod of those that were there before the world began: known to everybody, and about to serve.
    pub fn create_first_pod(&mut self) {
        let pod = self.pods.len() as PodId;
        let mut state = Pod::new(false);
        state.container = Container::Starting;
        state.ready_at = Some(self.now);
        self.pods.push(state);
        self.balancers.iter_mut().for_each(|balancer| balancer.view.push(pod));
        self.start_process(pod);
    }

    fn create_pod(&mut self, new: bool) {
        let pod = self.pods.len() as PodId;
        self.pods.push(Pod::new(new));
        let schedule = self.plan.schedule.draw(&mut self.rng);
        self.line(|| {
            ("kube".into(), format!("pod-{} created ({})", pod + 1, if new { "new" } else { "old" }))
        });
        self.after(schedule, Event::ContainerStart(pod));
    }

    pub fn start_container(&mut self, pod: PodId) {
        let state = &mut self.pods[pod as usize];
        if state.container != Container::Pending {
            return;
        }
        state.container = Container::Starting;
        let start = self.plan.process_start.draw(&mut self.rng);
        self.after(start, Event::ProcessStart(pod));
        match self.plan.probe {
            None => self.ready(pod),
            Some(probe) => {
                // Probes of different pods are not in step.
                let jitter = Duration::from_nanos(self.rng.below(probe.period.as_nanos() as u64));
                self.after(probe.initial_delay + jitter, Event::Probe(pod));
            }
        }
    }

    pub fn probe(&mut self, pod: PodId) {
        let Some(probe) = self.plan.probe else { return };
        let state = &mut self.pods[pod as usize];
        if state.deleted_at.is_some() || state.container == Container::Exited {
            return;
        }
        let answers = if probe.connect_only { state.port == Port::Open } else { state.serves() };
        if state.ready_at.is_none() {
            state.probed = if answers { state.probed + 1 } else { 0 };
            if state.probed >= probe.successes {
                self.ready(pod);
            }
        } else {
            state.probes_failed = if answers { 0 } else { state.probes_failed + 1 };
            if state.probes_failed >= probe.failures {
                (state.ready_at, state.probed) = (None, 0);
                self.line(|| ("kube".into(), format!("pod-{} is not ready", pod + 1)));
                self.announce(pod, false);
                self.at(self.now, Event::Reconcile);
            }
        }
        let state = &self.pods[pod as usize];
        if state.ready_at.is_none() || state.doubted {
            self.after(probe.period, Event::Probe(pod));
        }
    }

    /// Something went wrong with a pod. Until then every probe of a pod that is ready would say that it is; from then on they
    /// are sent.
    pub fn doubt(&mut self, pod: PodId) {
        let Some(probe) = self.plan.probe else { return };
        let state = &mut self.pods[pod as usize];
        if !std::mem::replace(&mut state.doubted, true) && state.ready_at.is_some() {
            let next = Duration::from_nanos(self.rng.below(probe.period.as_nanos() as u64));
            self.after(next, Event::Probe(pod));
        }
    }

    fn ready(&mut self, pod: PodId) {
        self.pods[pod as usize].ready_at = Some(self.now);
        self.line(|| ("kube".into(), format!("pod-{} is ready", pod + 1)));
        self.announce(pod, true);
        self.at(self.now, Event::Reconcile);
        if !self.plan.min_ready.is_zero() {
            self.after(self.plan.min_ready, Event::Reconcile);
        }
    }

    /// Tells every balancer, each in its own time; one balancer's news keep their order.
    fn announce(&mut self, pod: PodId, up: bool) {
        if self.plan.one_address {
            return;
        }
        for balancer in 0..self.balancers.len() as u32 {
            let delay = self.plan.balancers[balancer as usize].propagation.draw(&mut self.rng);
            let news = &mut self.balancers[balancer as usize].news_at;
            *news = (*news).max(self.now + delay);
            let at = *news;
            self.at(at, Event::Endpoint { balancer, pod, up });
        }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.deleted_at.is_none()
            && pod.container != Container::Exited
            && pod.ready_at.is_some_and(|at| at + self.plan.min_ready <= self.now)
    }

    pub fn start_rollout(&mut self) {
        self.rolling = true;
        self.line(|| ("kube".into(), "the rollout begins".into()));
        if self.plan.strategy == Strategy::Reload {
            let mut sent = false;
            for pod in 0..self.pods.len() as PodId {
                if self.pods[pod as usize].container == Container::Running {
                    sent = true;
                    self.pods[pod as usize].signals.push_back(Signal::Hup);
                    self.wake(pod);
                }
            }
            if !sent {
                self.finish_rollout();
            }
        }
        self.reconcile();
    }

    /// Whether a pod's reload is through: those workers that are left all serve.
    pub fn check_reload(&mut self, pod: PodId, machine: &pounce_core::Supervisor) {
        use pounce_core::supervisor::{State, WorkerState};
        let workers = self.plan.workers as usize;
        let all_serve = machine.workers().all(|(_, _, state)| state == WorkerState::Ready);
        if machine.state() == State::Running && all_serve && machine.workers().count() == workers {
            let _ = pod;
            self.finish_rollout();
        }
    }

    fn finish_rollout(&mut self) {
        if !self.rolled {
            self.rolled = true;
            self.outcome.rollout = self.now.since(pounce_core::Instant::ZERO + self.plan.deploy_at);
            self.line(|| ("kube".into(), "the rollout is done".into()));
            self.after(self.plan.margin, Event::TrafficEnd);
        }
    }

    /// The deployment controller.
    pub fn reconcile(&mut self) {
        let replicas = self.plan.replicas;
        let alive = |pod: &&Pod| pod.deleted_at.is_none() && pod.container != Container::Exited;
        if !self.rolling {
            if self.plan.strategy == Strategy::Reload {
                // Nobody brings a server back that ended by itself.
                return;
            }
            let old = self.pods.iter().filter(alive).count() as u32;
            (old..replicas).for_each(|_| self.create_pod(false));
            return;
        }
        let new = self.pods.iter().filter(alive).filter(|pod| pod.new).count() as u32;
        let old = self.pods.iter().filter(alive).filter(|pod| !pod.new).count() as u32;
        match self.plan.strategy {
            Strategy::Reload => {
                // Nobody brings a server back that ended by itself, and then there is nothing to reload.
                if self.pods.iter().all(|pod| pod.container == Container::Exited) {
                    self.finish_rollout();
                }
                return;
            }
            Strategy::Recreate => {
                if old > 0 {
                    let doomed = self.select(|pod| !pod.new, old);
                    doomed.into_iter().for_each(|pod| self.delete(pod));
                } else if self
                    .pods
                    .iter()
                    .filter(|pod| !pod.new)
                    .all(|pod| pod.container == Container::Exited)
                {
                    (new..replicas).for_each(|_| self.create_pod(true));
                }
            }
            Strategy::Rolling { max_surge, max_unavailable } => {
                let room = (replicas + max_surge).saturating_sub(new + old);
                (0..room.min(replicas.saturating_sub(new))).for_each(|_| self.create_pod(true));
                self.scale_down(replicas.saturating_sub(max_unavailable));
            }
        }
        let available = self.pods.iter().filter(|pod| pod.new && self.is_available(pod)).count() as u32;
        let old_gone = self.pods.iter().filter(|pod| !pod.new).all(|pod| pod.container == Container::Exited);
        if available >= replicas && old_gone {
            self.finish_rollout();
        }
    }

    /// As Kubernetes does it: old pods that are not available first, then as many as availability allows.
    fn scale_down(&mut self, min_available: u32) {
        let alive = |pod: &&Pod| pod.deleted_at.is_none() && pod.container != Container::Exited;
        let total = self.pods.iter().filter(alive).count() as u32;
        let new = self.pods.iter().filter(alive).filter(|pod| pod.new).count() as u32;
        let new_available = self.pods.iter().filter(|pod| pod.new && self.is_available(pod)).count() as u32;
        let most = total.saturating_sub(min_available).saturating_sub(new - new_available);
        let unhealthy: Vec<PodId> = (0..self.pods.len() as PodId)
            .filter(|id| {
                let pod = &self.pods[*id as usize];
                !pod.new
                    && pod.deleted_at.is_none()
                    && pod.container != Container::Exited
                    && !self.is_available(pod)
            })
            .take(most as usize)
            .collect();
        unhealthy.into_iter().for_each(|pod| self.delete(pod));
        let available = self.pods.iter().filter(|pod| self.is_available(pod)).count() as u32;
        let doomed = self.select(|pod| !pod.new, available.saturating_sub(min_available));
        doomed.into_iter().for_each(|pod| self.delete(pod));
    }

    fn select(&self, which: impl Fn(&Pod) -> bool, most: u32) -> Vec<PodId> {
        (0..self.pods.len() as PodId)
            .filter(|id| {
                let pod = &self.pods[*id as usize];
                which(pod) && pod.deleted_at.is_none() && pod.container != Container::Exited
            })
            .take(most as usize)
            .collect()
    }

    fn delete(&mut self, pod: PodId) {
        let now = self.now;
        let state = &mut self.pods[pod as usize];
        if state.deleted_at.is_some() {
            return;
        }
        state.deleted_at = Some(now);
        let was_ready = state.ready_at.is_some();
        self.line(|| ("kube".into(), format!("pod-{} deleted", pod + 1)));
        if was_ready {
            self.announce(pod, false);
        }
        let delay = self.plan.kubelet.draw(&mut self.rng);
        self.after(delay, Event::Terminate(pod));
    }

    /// The node acts on the deletion: preStop, SIGTERM, and in the end SIGKILL.
    pub fn terminate(&mut self, pod: PodId) {
        let (grace, pre_stop) = (self.plan.grace, self.plan.pre_stop);
        match self.pods[pod as usize].container {
            Container::Exited => return,
            Container::Pending => return self.container_ends(pod, Cause::Sigkill),
            Container::Starting | Container::Running => {}
        }
        let term = pre_stop.min(grace);
        let kill = if pre_stop >= grace { grace + self.plan.last_grace } else { grace };
        self.after(term, Event::Term(pod));
        self.after(kill, Event::Kill(pod));
    }

    pub fn term(&mut self, pod: PodId) {
        match self.pods[pod as usize].container {
            // Nothing handles the signal yet.
            Container::Pending | Container::Starting => return self.container_ends(pod, Cause::Sigkill),
            Container::Exited => return,
            Container::Running => {}
        }
        self.line(|| ("kube".into(), format!("SIGTERM to pod-{}", pod + 1)));
        let now = self.now;
        let state = &mut self.pods[pod as usize];
        state.term_at = Some(now);
        state.signals.push_back(Signal::Term);
        if self.plan.term_to_all {
            for worker in 0..self.pods[pod as usize].workers.len() as u32 {
                self.mail(pod, worker, WorkerInput::Terminated);
            }
        }
        self.wake(pod);
    }

    pub fn platform_kill(&mut self, pod: PodId) {
        if self.pods[pod as usize].container != Container::Exited {
            self.pods[pod as usize].kill_at = Some(self.now);
            self.line(|| ("kube".into(), format!("SIGKILL to pod-{}", pod + 1)));
            self.container_ends(pod, Cause::Sigkill);
        }
    }

    /// The container ended, as it was told to or not.
    pub fn pod_gone(&mut self, pod: PodId) {
        let state = &self.pods[pod as usize];
        if state.deleted_at.is_none() && state.ready_at.is_some() {
            self.announce(pod, false);
        }
        self.at(self.now, Event::Reconcile);
    }
}
