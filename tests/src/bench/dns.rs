//! Answers of kube-dns for 10,000 services, beside NSD with the same records, by processor time.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hack::{command::command, control_plane::DNS_PORT, layout::Layout, packages, screen};
use http::Version;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{Figure, Goal, block_on, median, millis, plane::Plane, usage};

const SERVICES: usize = 10_000;
/// Requests to the API server at once.
const IN_FLIGHT: usize = 32;
/// Clients, each with a socket of its own, and questions each has under way.
const CLIENTS: usize = 2;
const WINDOW: usize = 32;
const TURNS: usize = 5;
/// Time of a turn.
const TURN: Duration = Duration::from_secs(2);
/// Questions one after the other, for the latency.
const SINGLE: usize = 5_000;
/// Megabytes kube-dns may have with all services.
const MEMORY: f64 = 30.0;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    packages::install(if packages::find("nsd").is_none() { &["nsd"] } else { &[] })?;
    let plane = Plane::start(layout)?;
    block_on(services(&plane))?;
    let pid = plane.start_dns()?;
    let ours = SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT));
    let nsd = Nsd::start(&layout.dir.join("nsd"))?;
    let peer_pid = nsd.pid();
    for (who, server) in [("kube-dns", ours), ("nsd", nsd.address)] {
        screen::wait(&format!("{who} answering for all services"), Duration::from_secs(60), || {
            let missing = (0..SERVICES).step_by(97).find(|index| !matches!(ask(server, *index), Ok(true)));
            Ok(missing.map(|index| format!("not for {}", name(index))))
        })?;
    }
    let (mut rates, mut peer_rates) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        rates.push(rate(ours, || usage::cpu(pid))?);
        peer_rates.push(rate(nsd.address, || usage::cpu_with_children(peer_pid))?);
    }
    let (mut waits, mut peer_waits) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        waits.push(worst(ours)?);
        peer_waits.push(worst(nsd.address)?);
    }
    let memory = usage::memory(pid)? as f64 / (1 << 20) as f64;
    Ok(vec![
        Figure::new(
            "DNS answers a second of processor time",
            "/s",
            median(rates),
            ("NSD", median(peer_rates)),
            Goal::AtLeast(0.7),
        ),
        Figure::new(
            "DNS, one at a time, p99",
            "ms",
            median(waits),
            ("NSD", median(peer_waits)),
            Goal::AtMost(1.0),
        ),
        Figure::bounded("kube-dns with 10,000 services", "MB", memory, MEMORY),
    ])
}

/// Creates the services, each with an address.
async fn services(plane: &Plane) -> Result<()> {
    let mut client = plane.client(Version::HTTP_2).await?;
    super::pods::prepare(&mut client).await?;
    stream::iter(0..SERVICES)
        .map(|index| {
            let client = client.share().context("filling needs HTTP/2");
            async move {
                let body = json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{index}")},
                    "spec": {"clusterIP": address(index), "ports": [{"name": "http", "port": 80}], "selector": {"app": "a"}},
                });
                let path = format!("/api/v1/namespaces/{}/services", super::pods::NAMESPACE);
                client?.json("POST", &path, Bytes::from(body.to_string())).await.map(drop)
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}

fn name(index: usize) -> String {
    format!("s{index}.{}.svc.cluster.local", super::pods::NAMESPACE)
}

fn address(index: usize) -> Ipv4Addr {
    // Far from the addresses that services of the cluster's own have.
    let [.., high, low] = u32::try_from(0x0100 + index).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// A question for a service's address, by its index (RFC 1035, section 4.1).
fn question(index: usize) -> Vec<u8> {
    let [.., high, low] = index.to_be_bytes();
    let mut out = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name(index).split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 1, 0, 1]);
    out
}

/// Whether a message answers a question with exactly one record.
fn is_answer(message: &[u8]) -> bool {
    matches!(message, [_, _, flags, code, _, _, 0, 1, ..] if flags & 0x80 != 0 && code & 0x0f == 0)
}

fn connect(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// Whether one question is answered.
fn ask(server: SocketAddr, index: usize) -> Result<bool> {
    let (socket, mut buffer) = (connect(server)?, [0; 512]);
    socket.send(&question(index))?;
    let size = socket.recv(&mut buffer)?;
    Ok(is_answer(&buffer[..size]))
}

/// Answers a second of processor time that the server spends on them.
fn rate(server: SocketAddr, cpu: impl Fn() -> Result<Duration>) -> Result<f64> {
    let answers = AtomicU64::new(0);
    let before = cpu()?;
    std::thread::scope(|scope| {
        let answers = &answers;
        let clients: Vec<_> =
            (0..CLIENTS).map(|at| scope.spawn(move || flood(server, at, answers))).collect();
        let failed = || anyhow::anyhow!("a client failed");
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| Err(failed())))
    })?;
    let spent = (cpu()? - before).as_secs_f64();
    let answered = answers.load(Ordering::Relaxed);
    ensure!(answered > 0 && spent > 0.0, "no answers from {server}");
    Ok(answered as f64 / spent)
}

/// Keeps a window of questions under way for a turn, and counts the answers.
fn flood(server: SocketAddr, client: usize, answers: &AtomicU64) -> Result<()> {
    let socket = connect(server)?;
    let questions: Vec<Vec<u8>> =
        (0..SERVICES).map(|index| question((index * 7 + client) % SERVICES)).collect();
    let mut next = questions.iter().cycle();
    let mut send = || next.next().map_or(Ok(0), |question| socket.send(question));
    for _ in 0..WINDOW {
        send()?;
    }
    let (end, mut buffer, mut count) = (Instant::now() + TURN, [0; 512], 0);
    while Instant::now() < end {
        match socket.recv(&mut buffer) {
            Ok(size) => {
                ensure!(is_answer(&buffer[..size]), "no answer but {:?}", &buffer[..size]);
                count += 1;
                send()?;
            }
            // All that were under way are lost: others take their place.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                for _ in 0..WINDOW {
                    send()?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    answers.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

/// Milliseconds that 99 of 100 questions, one after the other, wait at most.
fn worst(server: SocketAddr) -> Result<f64> {
    let (socket, mut buffer) = (connect(server)?, [0; 512]);
    let mut waits = Vec::with_capacity(SINGLE);
    for index in 0..SINGLE {
        let question = question(index * 13 % SERVICES);
        let start = Instant::now();
        socket.send(&question)?;
        let size = socket.recv(&mut buffer).context("a question was lost")?;
        ensure!(is_answer(&buffer[..size]), "no answer");
        waits.push(millis(start.elapsed()));
    }
    waits.sort_by(f64::total_cmp);
    waits.get(SINGLE * 99 / 100).copied().context("nothing was measured")
}

/// A running NSD, ended when dropped.
struct Nsd {
    child: Child,
    address: SocketAddr,
}

// === impl Nsd ===

impl Nsd {
    /// Serves the services' addresses out of a zone file in a new folder.
    fn start(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        let listen = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut zone = "$ORIGIN cluster.local.\n@ 30 IN SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ 30 IN NS ns.dns\nns.dns 30 IN A 10.96.0.10\n".to_owned();
        for index in 0..SERVICES {
            zone += &format!("{}. 30 IN A {}\n", name(index), address(index));
        }
        fs::write(root.join("zone"), zone)?;
        let at = root.display();
        let config = root.join("nsd.conf");
        let text = format!(
            "server:\n  ip-address: {}@{}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{at}\"\n  \
             database: \"\"\n  pidfile: \"{at}/pid\"\n  xfrdfile: \"{at}/xfrd\"\n  xfrdir: \"{at}\"\n  zonelistfile: \"{at}/zones\"\n  \
             minimal-responses: yes\nremote-control:\n  control-enable: no\nzone:\n  name: cluster.local\n  zonefile: zone\n",
            listen.ip(),
            listen.port()
        );
        fs::write(&config, text)?;
        let program = packages::find("nsd").context("nsd is not installed")?;
        let log = fs::File::create(root.join("log"))?;
        let mut run = command(&program.to_string_lossy(), ["-d", "-c", &config.to_string_lossy()]);
        let child = run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { child, address: listen })
    }

    /// Its first process; those that answer are its children.
    fn pid(&self) -> i32 {
        // Process ids are far below the limit.
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // The first process ends the others; its pid is ours until it is waited for.
        if kill(Pid::from_raw(self.pid()), Signal::SIGTERM).is_ok() {
            drop(self.child.wait());
        }
    }
}
