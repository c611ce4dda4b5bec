//! kube-proxy at 10,000 and 44,000 services, beside the smallest transactions the kernel takes, beside `nft` loading
//! the same rules, and beside connections without a service. All in network namespaces of their own.

use std::{
    borrow::Cow,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command as Program,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hack::{command::command, layout::Layout, packages, screen};
use http::Version;
use kube_proxy::{
    kernel::{Kernel, SERVICES},
    model::{Endpoint, Model, PortName, Protocol, ServicePort, Settings},
    sync::Syncer,
    tables::{Command, Family, Part, Value},
};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use smallvec::smallvec;

use super::{Figure, Goal, block_on, median, plane::Plane, pods::NAMESPACE, usage};

/// Changes of one endpoint that are measured, and raw transactions beside them.
const CHANGES: usize = 201;
/// Cold syncs, and loads by `nft` beside them.
const TURNS: usize = 3;
/// Connections with a service, and as many without.
const CONNECTIONS: usize = 2_000;
/// Microseconds a connection through a service may take more.
const SLOWER: f64 = 5.0;
/// Services of the real daemon, and the megabytes it may have with them.
const SERVED: usize = 10_000;
const MEMORY: f64 = 30.0;
/// How long after the first synchronization memory is looked at: what only that needed is given back by then.
const SETTLE: Duration = Duration::from_secs(30);
/// Requests to the API server at once.
const IN_FLIGHT: usize = 32;
/// Where connections end.
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)), 8080);

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    packages::install(if packages::find("nft").is_none() { &["nftables"] } else { &[] })?;
    let mut figures = Vec::new();
    for count in [10_000, 44_000] {
        figures.extend(changes(layout, count)?);
    }
    figures.push(isolated(connections)?);
    figures.push(isolated(|| memory(layout))?);
    Ok(figures)
}

/// Runs something on a thread with a network namespace of its own; what it starts lives there too.
fn isolated<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ip(&["link", "set", "lo", "up"])?;
        work()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|_| Err(anyhow!("it panicked"))))
}

fn ip(args: &[&str]) -> Result<()> {
    let status = Program::new("ip").args(args).status()?;
    ensure!(status.success(), "ip {args:?}: {status}");
    Ok(())
}

// === the plan ===

fn name(index: usize) -> Arc<PortName> {
    let (namespace, service) = (NAMESPACE.into(), format!("s{index}").into());
    Arc::new(PortName { namespace, service, port: "http".into(), protocol: Protocol::Tcp })
}

fn endpoint(high: u8, index: usize) -> Endpoint {
    let [.., middle, low] = index.to_be_bytes();
    Endpoint {
        address: IpAddr::from([10, high, middle, low]),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        zones: vec![],
        nodes: vec![],
    }
}

/// Adds a service with two endpoints; the second is one of two.
fn add(model: &mut Model, index: usize, second: u8) {
    let service =
        ServicePort { cluster_ips: smallvec![address(index).into()], port: 80, ..ServicePort::default() };
    model.services.insert(name(index), service.into());
    model.endpoints.insert(name(index), vec![endpoint(1, index), endpoint(second, index)]);
}

fn settings() -> Settings {
    Settings {
        node: "bench".into(),
        node_port_ips: vec![Ipv4Addr::LOCALHOST.into()],
        pod_ranges: "10.200.0.0/16".parse().into_iter().collect(),
        masquerade_mark: 0x4000,
        ..Settings::default()
    }
}

fn address(index: usize) -> Ipv4Addr {
    // Far from the addresses that services of the cluster's own have.
    let [.., high, low] = (0x0100 + index).to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// Cold syncs and changes of one endpoint, at so many services.
fn changes(layout: &Layout, count: usize) -> Result<Vec<Figure>> {
    let mut model = Model::default();
    (0..count).for_each(|index| add(&mut model, index, 2));
    fs::create_dir_all(&layout.dir)?;
    let rules = layout.dir.join("bench.nft");
    let (mut cold, mut loads, mut changes, mut raw) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (model, rules) = (&model, &rules);
        cold.push(isolated(|| {
            let mut syncer = Syncer::open()?;
            let began = Instant::now();
            syncer.sync(model, &settings())?;
            let took = began.elapsed().as_secs_f64();
            if turn == 0 {
                save(rules)?;
                let mut kernel = Kernel::open(SERVICES)?;
                for at in 0..CHANGES {
                    changes.push(change(&mut syncer, model, at * 37 % count, at)?);
                    raw.push(touch(&mut kernel, at)?);
                }
            }
            Ok(took)
        })?);
        loads.push(isolated(|| load(rules))?);
    }
    fs::remove_file(&rules)?;
    let (cold, load) = (median(cold), median(loads));
    let mut figures = vec![Figure::new(
        format!("one endpoint of {count} services"),
        "µs",
        median(changes),
        ("one element", median(raw)),
        Goal::AtMost(1.5),
    )];
    figures.push(Figure::new(
        format!("all {count} services"),
        "s",
        cold,
        ("nft -f", load),
        Goal::AtMost(0.3),
    ));
    if count == 44_000 {
        figures.push(Figure::bounded(format!("all {count} services at once"), "s", cold, 5.0));
    }
    Ok(figures)
}

/// Microseconds of a change of one endpoint, from the model of its service to the kernel's agreement. The service is the
/// one it was, as in the daemon, where what changes is a slice.
fn change(syncer: &mut Syncer, all: &Model, index: usize, at: usize) -> Result<f64> {
    let (name, port) = all.services.get_key_value(&name(index)).context("there is no such service")?;
    let second = if at.is_multiple_of(2) { 3 } else { 4 };
    let mut model = Model::default();
    model.services.insert(Arc::clone(name), Arc::clone(port));
    model.endpoints.insert(Arc::clone(name), vec![endpoint(1, index), endpoint(second, index)]);
    let service = name.key();
    let began = Instant::now();
    syncer.change(&service, &model)?;
    Ok(micros(began))
}

/// Microseconds of a transaction of one element, in the same table and map.
fn touch(kernel: &mut Kernel, at: usize) -> Result<f64> {
    let unused = Part::Address(Ipv4Addr::new(10, 255, 0, 1).into());
    let key = smallvec![unused, Part::Protocol(6), Part::Port(80), Part::Slot(u32::try_from(at)?)];
    let value = Value::Parts(smallvec![unused, Part::Port(80)]);
    let command = Command::AddElements("endpoints".into(), vec![(key, value)]);
    let began = Instant::now();
    kernel.commit(Family::V4, [command])?;
    Ok(micros(began))
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// Writes the tables down as `nft` shows them.
fn save(to: &Path) -> Result<()> {
    let mut text = String::new();
    for family in ["ip", "ip6"] {
        let shown = command("nft", ["list", "table", family, SERVICES]).output()?;
        if shown.status.success() {
            text.extend(
                String::from_utf8(shown.stdout)?.lines().flat_map(|line| [loadable(line), "\n".into()]),
            );
        }
    }
    ensure!(!text.is_empty(), "nft shows no table");
    Ok(fs::write(to, text)?)
}

/// A line as `nft` takes it back: a place among endpoints has the type of a mark, which it does not take a random number
/// for, so that such keys are said by what they are compared with.
fn loadable(line: &str) -> Cow<'_, str> {
    let Some(types) = line.trim().strip_prefix("type ").filter(|types| types.contains(" . mark")) else {
        return line.into();
    };
    let said = types.split(' ').map(|word| match word {
        "ipv4_addr" => "ip daddr",
        "ipv6_addr" => "ip6 daddr",
        "inet_proto" => "meta l4proto",
        "inet_service" => "th dport",
        "mark" => "numgen random mod 2",
        other => other,
    });
    format!("typeof {}", said.collect::<Vec<_>>().join(" ")).into()
}

/// Seconds `nft` takes to load them.
fn load(rules: &Path) -> Result<f64> {
    let began = Instant::now();
    let status = Program::new("nft").arg("-f").arg(rules).status()?;
    ensure!(status.success(), "nft -f: {status}");
    Ok(began.elapsed().as_secs_f64())
}

// === connections ===

/// Connections through a service among 10,000, beside connections to its endpoint.
fn connections() -> Result<Figure> {
    ip(&["addr", "add", "10.200.0.1/32", "dev", "lo"])?;
    ip(&["route", "add", "10.96.0.0/16", "dev", "lo"])?;
    let mut model = Model::default();
    (0..SERVED).for_each(|index| add(&mut model, index, 2));
    let served = Endpoint { address: SERVER.ip(), ..endpoint(1, 0) };
    model.endpoints.insert(name(0), vec![served]);
    Syncer::open()?.sync(&model, &settings())?;
    let listener = TcpListener::bind(SERVER)?;
    let service = SocketAddr::from((address(0), 80));
    std::thread::scope(|scope| {
        let total = 2 * CONNECTIONS;
        scope.spawn(move || listener.incoming().take(total).for_each(drop));
        let (mut through, mut direct) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            for (to, times) in [(service, &mut through), (SERVER, &mut direct)] {
                let began = Instant::now();
                let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
                    .with_context(|| format!("no connection to {to}"));
                times.push(micros(began));
                // The listener waits for all of them.
                drop(stream?);
            }
        }
        let (through, direct) = (median(through), median(direct));
        screen::detail(&format!("connections: {through:.1} µs through a service, {direct:.1} µs without"));
        Ok(Figure::bounded("a connection through a service, over direct", "µs", through - direct, SLOWER))
    })
}

// === the daemon ===

/// Resident memory of the real daemon with all services of a real API server.
fn memory(layout: &Layout) -> Result<Figure> {
    let plane = Plane::start(layout)?;
    block_on(objects(&plane))?;
    let pid = plane.start_proxy()?;
    let all = || {
        let shown = command("nft", ["list", "set", "ip", SERVICES, "services-2"]).output()?;
        let found = String::from_utf8_lossy(&shown.stdout).matches(" . tcp . ").count();
        Ok((found < SERVED).then(|| format!("{found} of {SERVED} services are served")))
    };
    screen::wait("kube-proxy serving all services", Duration::from_secs(60), all)?;
    screen::detail(&format!("once served: {:.1} MB", usage::memory(pid)? as f64 / (1 << 20) as f64));
    block_on(async {
        tokio::time::sleep(SETTLE).await;
        Ok(())
    })?;
    let resident = usage::memory(pid)? as f64 / (1 << 20) as f64;
    Ok(Figure::bounded(format!("kube-proxy with {SERVED} services"), "MB", resident, MEMORY))
}

/// Creates the services and their slices.
async fn objects(plane: &Plane) -> Result<()> {
    let mut client = plane.client(Version::HTTP_2).await?;
    super::pods::prepare(&mut client).await?;
    stream::iter(0..SERVED)
        .map(|index| {
            let client = client.share().context("filling needs HTTP/2");
            async move {
                let mut client = client?;
                let service = json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{index}")},
                    "spec": {"clusterIP": address(index), "ports": [{"name": "http", "port": 80}]},
                });
                let endpoint = |high| json!({"addresses": [endpoint(high, index).address], "nodeName": "elsewhere"});
                let slice = json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": {"name": format!("s{index}-x"), "labels": {"kubernetes.io/service-name": format!("s{index}")}},
                    "endpoints": [endpoint(1), endpoint(2)], "ports": [{"name": "http", "port": 8080}],
                });
                for (path, body) in [
                    (format!("/api/v1/namespaces/{NAMESPACE}/services"), service),
                    (format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"), slice),
                ] {
                    client.json("POST", &path, Bytes::from(body.to_string())).await?;
                }
                Ok(())
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}
