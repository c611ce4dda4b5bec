//! Asking other servers (the `forward` directive).
//!
//! A server that fails is asked last until a check goes well; one whose checks fail is passed over, unless all are
//! down: then it is more likely that the checks are wrong. The number of queries under way is bounded.

mod server;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use component_base::tls::TlsError;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{RecordType, rdata::opt::EdnsOption},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use self::server::{Server, Way};
use crate::{
    corefile::{Check, Forward, Policy, Upstream},
    metrics::Metrics,
    secure,
};

/// How long all servers together may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a server may take to answer a check.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);
/// Queries under way at once unless configured.
const DEFAULT_CONCURRENT: usize = 1000;
/// Advertised UDP size (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;

/// Why a directive cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A file of resolv.conf form.
    #[error("cannot read {0}")]
    File(std::path::PathBuf, #[source] io::Error),
    /// Certificates or authorities.
    #[error("cannot ask over TLS")]
    Tls(#[from] TlsError),
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Too many queries are under way.
    #[error("more than {0} queries are being forwarded")]
    Overloaded(usize),
    /// No server is configured, or all are down and nobody is to be asked then.
    #[error("no upstream server")]
    NoServer,
    /// The last server asked failed.
    #[error("upstream {server} failed")]
    Upstream {
        /// The server.
        server: SocketAddr,
        /// How.
        #[source]
        source: io::Error,
    },
}

/// How a query is asked.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// DNSSEC records are wanted.
    pub dnssec: bool,
    /// The servers need not check them.
    pub checking_disabled: bool,
    /// The client asked over TCP or TLS.
    pub stream: bool,
    /// Options that the servers are sent.
    pub options: Vec<EdnsOption>,
}

/// One `forward` directive at work.
#[derive(Debug)]
pub struct Forwarder {
    servers: Vec<Server>,
    policy: Policy,
    force_tcp: bool,
    prefer_udp: bool,
    max_fails: u32,
    fail_fast: bool,
    failover: Vec<ResponseCode>,
    next: Vec<ResponseCode>,
    next_on_nodata: bool,
    patience: Duration,
    max_attempts: usize,
    check: Check,
    permits: Semaphore,
    most: usize,
    turn: AtomicUsize,
    metrics: Metrics,
}

impl Forwarder {
    /// Resolves the directive's servers; files are read now.
    ///
    /// # Errors
    /// When a file is unusable.
    pub fn new(directive: &Forward, metrics: Metrics) -> Result<Self, SetUpError> {
        let new = |address| {
            let server = Server::new(address, directive.expire, directive.max_idle);
            server.from(directive.source).counting(metrics.clone())
        };
        let is_secure = |upstream: &Upstream| matches!(upstream, Upstream::Tls(..));
        let secure = directive.to.iter().any(is_secure).then(|| secure::client_config(&directive.tls));
        let secure = secure.transpose()?;
        let mut servers = Vec::new();
        for upstream in &directive.to {
            match (upstream, &secure) {
                (Upstream::Tls(address, name), Some(config)) => {
                    let name = name.clone().or_else(|| directive.server_name.clone());
                    servers.push(new(*address).over_tls(config.clone(), name));
                }
                (Upstream::Server(address) | Upstream::Tls(address, _), _) => servers.push(new(*address)),
                (Upstream::File(path), _) => {
                    let read = read_resolv_conf(path).map_err(|e| SetUpError::File(path.clone(), e))?;
                    servers.extend(read.into_iter().map(new));
                }
            }
        }
        let most = if directive.max_concurrent == 0 { DEFAULT_CONCURRENT } else { directive.max_concurrent };
        Ok(Self {
            servers,
            policy: directive.policy,
            force_tcp: directive.force_tcp,
            prefer_udp: directive.prefer_udp,
            max_fails: directive.max_fails,
            fail_fast: directive.fail_fast,
            failover: directive.failover.clone(),
            next: directive.next.clone(),
            next_on_nodata: directive.next_on_nodata,
            patience: directive.read_timeout,
            max_attempts: directive.max_attempts.unwrap_or(usize::MAX),
            check: directive.check.clone(),
            permits: Semaphore::new(most.min(Semaphore::MAX_PERMITS)),
            most,
            turn: AtomicUsize::new(0),
            metrics,
        })
    }

    /// Addresses of the servers.
    pub fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().map(|s| s.address)
    }

    /// Asks the servers in turn until one answers.
    ///
    /// # Errors
    /// When none does.
    pub async fn ask(&self, query: &Query, manner: &Manner) -> Result<Message, ForwardError> {
        let Ok(_permit) = self.permits.try_acquire() else {
            self.metrics.forward_rejected();
            return Err(ForwardError::Overloaded(self.most));
        };
        let (message, way) = (self.message(query, manner), self.way(manner));
        let (mut failure, mut unwanted) = (ForwardError::NoServer, None);
        let deadline = Instant::now() + DEADLINE.max(self.patience);
        for server in self.order().into_iter().take(self.max_attempts) {
            let patience = self.patience.min(deadline.saturating_duration_since(Instant::now()));
            if patience.is_zero() {
                break;
            }
            let started = Instant::now();
            let outcome = timeout(patience, server.ask(&message, way)).await;
            match outcome.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
                Ok(answer) => {
                    let code = answer.metadata.response_code;
                    self.metrics.forwarded(&server.address.to_string(), code, started.elapsed());
                    if !self.failover.contains(&code) {
                        return Ok(answer);
                    }
                    unwanted = Some(answer);
                }
                Err(source) => {
                    failure = ForwardError::Upstream { server: server.address, source };
                    server.has_failed();
                }
            }
        }
        unwanted.ok_or(failure)
    }

    /// Whether somebody else is to be asked after such an answer.
    pub fn passes_on(&self, answer: &Message) -> bool {
        let code = answer.metadata.response_code;
        let is_empty = code == ResponseCode::NoError && answer.answers.is_empty();
        self.next.contains(&code) || (self.next_on_nodata && is_empty)
    }

    /// Looks after servers that failed, until dropped.
    pub async fn watch(&self) {
        if self.max_fails == 0 {
            // They count as well whatever a check says; the next query finds out.
            futures::future::join_all(self.servers.iter().map(|server| self.forgive(server))).await;
        } else {
            futures::future::join_all(self.servers.iter().map(|server| self.watch_one(server))).await;
        }
    }

    async fn forgive(&self, server: &Server) {
        loop {
            server.wait_suspect().await;
            tokio::time::sleep(self.check.every).await;
            server.checked(true);
        }
    }

    async fn watch_one(&self, server: &Server) {
        loop {
            server.wait_suspect().await;
            while server.is_suspect() {
                let well = self.is_well(server).await;
                server.checked(well);
                if !well {
                    self.metrics.health_check_failed(&server.address.to_string());
                    tokio::time::sleep(self.check.every).await;
                }
            }
        }
    }

    /// Any answer will do, an error as well.
    async fn is_well(&self, server: &Server) -> bool {
        let query = Query::query(self.check.name.clone(), RecordType::NS);
        let mut message = self.message(&query, &Manner::default());
        message.metadata.recursion_desired = self.check.recursion;
        let way = if self.force_tcp { Way::Stream } else { Way::Udp };
        matches!(timeout(CHECK_PATIENCE, server.ask(&message, way)).await, Ok(Ok(_)))
    }

    /// Servers in the policy's order: those that failed last, those that are down not at all.
    fn order(&self) -> Vec<&Server> {
        let count = self.servers.len().max(1);
        let start = match self.policy {
            Policy::Random => rand::random_range(0..count),
            Policy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % count,
            Policy::Sequential => 0,
        };
        let turned = || self.servers.iter().cycle().skip(start).take(self.servers.len());
        let mut out: Vec<&Server> = turned().filter(|server| !server.is_down(self.max_fails)).collect();
        if out.is_empty() && !self.servers.is_empty() {
            self.metrics.all_upstreams_down();
            if !self.fail_fast {
                out.extend(self.servers.get(rand::random_range(0..count)));
            }
        }
        out.sort_by_key(|server| server.is_suspect());
        out
    }

    fn way(&self, manner: &Manner) -> Way {
        if self.force_tcp || (manner.stream && !self.prefer_udp) { Way::Stream } else { Way::Udp }
    }

    /// The query under a fresh id.
    fn message(&self, query: &Query, manner: &Manner) -> Message {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = manner.checking_disabled;
        message.add_query(query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_SIZE);
        edns.set_dnssec_ok(manner.dnssec);
        manner.options.iter().for_each(|option| edns.options_mut().insert(option.clone()));
        message.set_edns(edns);
        message
    }
}

fn read_resolv_conf(path: &Path) -> io::Result<Vec<SocketAddr>> {
    Ok(nameservers(&std::fs::read_to_string(path)?))
}

/// The servers a resolv.conf names.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests;
