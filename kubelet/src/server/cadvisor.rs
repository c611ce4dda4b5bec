//! `/metrics/cadvisor`: the node, its classes of pods, pods and containers in cAdvisor's names, as the kernel tells of them.
//!
//! ```text
//! cgroups, /proc -> rows (node, kubepods, classes, pods, containers) -> families, one after the other
//! ```
//! Contract: names and labels of the cAdvisor in upstream's kubelet. It takes no samples of the scheduler there, so load and
//! the states of tasks are always zero; neither here.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::{
    ServeError, Server,
    metrics::{Family, number},
    stats::{begun, boot_time, node_cpu},
};
use crate::{
    cgroup::{
        Cgroups,
        figures::{self, Figures, Limits, Memory, Pressure},
        usage::line,
    },
    cpus::topology::{self, Level, Topology},
    node::machine::{self, Machine},
    pod::qos::QosClass,
    stats::{
        ContainerUsage, PodUsage,
        disk::Taken,
        filesystems::{self, Filesystem},
        network::{self, Interface},
        processes::{self, Held},
    },
};

/// One cgroup.
#[derive(Debug, Default)]
struct Row<'a> {
    /// The cgroup's path.
    id: String,
    container: &'a str,
    /// The container's id.
    name: &'a str,
    image: &'a str,
    namespace: &'a str,
    pod: &'a str,
    figures: Figures,
    held: Held,
    started: Option<Timestamp>,
    /// A container's writable layer.
    layer: Option<Taken>,
    filesystems: &'a [Filesystem],
    network: &'a [Interface],
}

/// Samples of a row: labels besides the row's own, and the value.
type Samples = Vec<(Vec<(&'static str, String)>, f64)>;

/// A family of metrics.
struct Kind {
    name: Cow<'static, str>,
    kind: &'static str,
    help: Cow<'static, str>,
    /// Without a time of its own: it is not measured.
    fixed: bool,
    read: Box<dyn Fn(&Row<'_>) -> Samples + Send>,
}

/// Serves it.
pub(super) async fn serve(server: &Arc<Server>) -> Result<String, ServeError> {
    let pods = server.stats.all().await?;
    let cgroups = server.shared.cgroups.clone();
    let look = move || {
        let (filesystems, devices) = filesystems::of_node();
        let network = network::of_process(Path::new("/proc"));
        let mut rows = vec![node(&filesystems, &network)];
        rows.extend(cgroups.as_ref().map(classes).into_iter().flatten());
        for pod in &pods {
            rows.extend(of_pod(pod, cgroups.as_ref()));
        }
        let mut out = text(&rows, &devices, Timestamp::now().as_millisecond());
        // The machine's facts were read when the kubelet started, so they can be read.
        let machine = machine::read(Path::new("/")).unwrap_or_default();
        let processors = topology::read(Path::new("/")).unwrap_or_default();
        machine_text(&mut out, &machine, &processors);
        out
    };
    tokio::task::spawn_blocking(look).await.map_err(|error| ServeError::Internal(error.to_string()))
}

/// The node itself.
fn node<'a>(filesystems: &'a [Filesystem], network: &'a [Interface]) -> Row<'a> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/proc").join(name)).unwrap_or_default();
    let stat = read("stat");
    let figures = Figures {
        pressure: figures::pressure_of_node(Path::new("/")),
        ..of_node(&stat, &read("meminfo"), &read("vmstat"), node_cpu())
    };
    let started = boot_time(&stat);
    Row { id: "/".to_owned(), figures, started, filesystems, network, ..Row::default() }
}

/// What the files of /proc say of all processes together.
fn of_node(stat: &str, meminfo: &str, vmstat: &str, cpu: u64) -> Figures {
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map_while(|t| t.parse().ok())
        .collect();
    let at = |i: usize| ticks.get(i).copied().unwrap_or(0).saturating_mul(10_000_000);
    let bytes = |key: &str| {
        u64::try_from(machine::kilobytes(meminfo, key).unwrap_or(0)).unwrap_or(0).saturating_mul(1024)
    };
    let total = bytes("MemTotal:");
    Figures {
        cpu: [cpu, at(0).saturating_add(at(1)), at(2)],
        memory: Memory {
            usage: total.saturating_sub(bytes("MemFree:")),
            working_set: total.saturating_sub(bytes("MemAvailable:")),
            cache: bytes("Cached:"),
            rss: bytes("AnonPages:"),
            kernel: bytes("Slab:"),
            mapped: bytes("Mapped:"),
            swap: bytes("SwapTotal:").saturating_sub(bytes("SwapFree:")),
            active_file: bytes("Active(file):"),
            inactive_file: bytes("Inactive(file):"),
            faults: line(vmstat, "pgfault"),
            major_faults: line(vmstat, "pgmajfault"),
            ..Memory::default()
        },
        oom_kills: line(vmstat, "oom_kill"),
        limits: Limits { memory: total, swap: bytes("SwapTotal:"), ..Limits::default() },
        ..Figures::default()
    }
}

/// All pods, and those of the lower classes.
fn classes(cgroups: &Cgroups) -> Vec<Row<'static>> {
    let all = [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort].map(|c| cgroups.class(c));
    let one = |id: String| Some(Row { figures: cgroups.figures(&id)?, id, ..Row::default() });
    all.into_iter().filter_map(one).collect()
}

/// A pod and its containers.
fn of_pod<'a>(usage: &'a PodUsage, cgroups: Option<&Cgroups>) -> Vec<Row<'a>> {
    let known = usage.pod.as_ref().zip(cgroups);
    let path = known.map(|(pod, cgroups)| cgroups.pod(pod)).unwrap_or_default();
    let figures = cgroups.and_then(|cgroups| cgroups.figures(&path));
    let whole = Row {
        figures: figures.unwrap_or_else(|| told(&usage.compute)),
        id: path,
        namespace: &usage.namespace,
        pod: &usage.name,
        started: usage.status().and_then(|status| Some(status.start_time.as_ref()?.0)),
        network: &usage.network,
        ..Row::default()
    };
    let one = |container: &'a ContainerUsage| {
        let path = known.map(|(pod, cgroups)| cgroups.container(pod, &container.id)).unwrap_or_default();
        let figures = cgroups.and_then(|cgroups| cgroups.figures(&path));
        let ids = cgroups.map(|cgroups| cgroups.processes(&path)).unwrap_or_default();
        Row {
            figures: figures.unwrap_or_else(|| told(&container.compute)),
            held: processes::held(Path::new("/proc"), &ids),
            id: path,
            container: &container.name,
            name: &container.id,
            image: image(usage.status(), &container.name),
            started: begun(usage.status(), &container.name),
            layer: Some(container.root),
            network: &[],
            ..whole_of(usage)
        }
    };
    let containers: Vec<Row<'_>> = usage.containers.iter().map(one).collect();
    std::iter::once(whole).chain(containers).collect()
}

fn whole_of(usage: &PodUsage) -> Row<'_> {
    Row { namespace: &usage.namespace, pod: &usage.name, ..Row::default() }
}

/// What the runtime tells, where there are no cgroups to look at.
fn told(compute: &crate::stats::Compute) -> Figures {
    let usage = &compute.usage;
    Figures {
        cpu: [usage.cpu, 0, 0],
        memory: Memory {
            usage: usage.memory,
            working_set: usage.working_set,
            rss: usage.rss,
            cache: usage.memory.saturating_sub(usage.rss),
            swap: compute.swap,
            faults: usage.faults,
            major_faults: usage.major_faults,
            ..Memory::default()
        },
        threads: [usage.tasks, 0],
        ..Figures::default()
    }
}

fn image<'a>(status: Option<&'a PodStatus>, container: &str) -> &'a str {
    let statuses = status
        .into_iter()
        .flat_map(|s| [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses]);
    statuses.flatten().flatten().find(|s| s.name == container).map_or("", |s| s.image.as_str())
}

// === families ===

fn one(value: f64) -> Samples {
    vec![(vec![], value)]
}

/// Billionths as a whole.
fn billionths(value: u64) -> f64 {
    number(value) / 1e9
}

fn family(
    name: impl Into<Cow<'static, str>>,
    kind: &'static str,
    help: impl Into<Cow<'static, str>>,
    read: impl Fn(&Row<'_>) -> Samples + Send + 'static,
) -> Kind {
    Kind { name: name.into(), kind, help: help.into(), fixed: false, read: Box::new(read) }
}

fn gauge(name: &'static str, help: &'static str, read: fn(&Figures) -> u64) -> Kind {
    family(name, "gauge", help, move |row| one(number(read(&row.figures))))
}

fn counter(name: &'static str, help: &'static str, read: fn(&Figures) -> u64) -> Kind {
    family(name, "counter", help, move |row| one(number(read(&row.figures))))
}

fn seconds(name: &'static str, help: &'static str, read: fn(&Figures) -> u64) -> Kind {
    family(name, "counter", help, move |row| one(billionths(read(&row.figures))))
}

/// Of a quota, so only where there is one.
fn of_quota(name: &'static str, help: &'static str, read: fn(&Figures) -> f64) -> Kind {
    family(name, "counter", help, move |row| match row.figures.limits.quota {
        0 => vec![],
        _ => one(read(&row.figures)),
    })
}

fn limit(name: &'static str, help: &'static str, read: fn(&Limits) -> u64) -> Kind {
    let read = move |row: &Row<'_>| one(number(read(&row.figures.limits)));
    Kind { fixed: true, ..family(name, "gauge", help, read) }
}

fn held(name: &'static str, help: &'static str, read: fn(&Held) -> usize) -> Kind {
    family(name, "gauge", help, move |row| one(number(u64::try_from(read(&row.held)).unwrap_or(0))))
}

/// Of the node's file systems, by device.
fn of_filesystem(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    read: fn(&Filesystem) -> Option<f64>,
) -> Kind {
    family(name, kind, help, move |row| {
        let one = |system: &Filesystem| Some((vec![("device", system.device.clone())], read(system)?));
        row.filesystems.iter().filter_map(one).collect()
    })
}

fn of_interface(name: &'static str, help: &'static str, read: fn(&Interface) -> u64) -> Kind {
    family(name, "counter", help, move |row| {
        let one = |i: &Interface| (vec![("interface", i.name.clone())], number(read(i)));
        row.network.iter().map(one).collect()
    })
}

/// What went to and from devices: of cgroups by the numbers of their devices, of the node by its file systems.
fn traffic(
    name: &'static str,
    help: &'static str,
    devices: &BTreeMap<String, String>,
    of_cgroup: fn(&figures::Io) -> u64,
    of_node: fn(&filesystems::Traffic) -> Option<u64>,
) -> Kind {
    let devices = devices.clone();
    family(name, "counter", help, move |row| {
        let cgroup = row.figures.io.iter().map(|io| {
            let device = devices.get(&io.device).cloned().unwrap_or_default();
            (vec![("device", device)], number(of_cgroup(io)))
        });
        let node = row.filesystems.iter().filter_map(|system| {
            let value = of_node(system.traffic.as_ref()?)?;
            Some((vec![("device", system.device.clone())], number(value)))
        });
        cgroup.chain(node).collect()
    })
}

fn amount(value: i64) -> f64 {
    number(u64::try_from(value).unwrap_or(0))
}

fn thousandths(value: u64) -> f64 {
    number(value) / 1e3
}

fn spec() -> Vec<Kind> {
    let started =
        |row: &Row<'_>| row.started.map(|at| one(number(u64::try_from(at.as_second()).unwrap_or(0))));
    let quota = |row: &Row<'_>| match row.figures.limits.quota {
        0 => vec![],
        quota => one(number(quota)),
    };
    vec![
        Kind {
            fixed: true,
            ..family(
                "container_start_time_seconds",
                "gauge",
                "Start time of the container since unix epoch in seconds.",
                move |row| started(row).unwrap_or_default(),
            )
        },
        limit("container_spec_cpu_period", "CPU period of the container.", |l| l.period),
        Kind {
            fixed: true,
            ..family("container_spec_cpu_quota", "gauge", "CPU quota of the container.", quota)
        },
        limit("container_spec_cpu_shares", "CPU share of the container.", |l| l.shares),
        limit("container_spec_memory_limit_bytes", "Memory limit for the container.", |l| l.memory),
        limit("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |l| l.swap),
        limit(
            "container_spec_memory_reservation_limit_bytes",
            "Memory reservation limit for the container.",
            |l| l.reservation,
        ),
    ]
}

fn cpu() -> Vec<Kind> {
    vec![
        seconds("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |f| {
            f.cpu[1]
        }),
        seconds(
            "container_cpu_system_seconds_total",
            "Cumulative system cpu time consumed in seconds.",
            |f| f.cpu[2],
        ),
        family(
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            |row| vec![(vec![("cpu", "total".to_owned())], billionths(row.figures.cpu[0]))],
        ),
        of_quota("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |f| {
            number(f.periods)
        }),
        of_quota("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |f| {
            number(f.throttled)
        }),
        of_quota(
            "container_cpu_cfs_throttled_seconds_total",
            "Total time duration the container has been throttled.",
            |f| billionths(f.throttled_time),
        ),
        of_quota("container_cpu_cfs_burst_periods_total", "Number of periods when burst occurs.", |f| {
            number(f.bursts)
        }),
        of_quota(
            "container_cpu_cfs_burst_seconds_total",
            "Total time duration the container has been bursted.",
            |f| billionths(f.burst_time),
        ),
        gauge(
            "container_cpu_load_average_10s",
            "Value of container cpu load average over the last 10 seconds.",
            |_| 0,
        ),
        gauge(
            "container_cpu_load_d_average_10s",
            "Value of container cpu load.d average over the last 10 seconds.",
            |_| 0,
        ),
        family("container_tasks_state", "gauge", "Number of tasks in given state", |_| {
            ["sleeping", "running", "stopped", "uninterruptible", "iowaiting"]
                .map(|state| (vec![("state", state.to_owned())], 0.0))
                .into()
        }),
    ]
}

fn memory() -> Vec<Kind> {
    vec![
        gauge("container_memory_cache", "Number of bytes of page cache memory.", |f| f.memory.cache),
        gauge("container_memory_rss", "Size of RSS in bytes.", |f| f.memory.rss),
        gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", |f| {
            f.memory.kernel
        }),
        gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", |f| f.memory.mapped),
        gauge("container_memory_swap", "Container swap usage in bytes.", |f| f.memory.swap),
        counter("container_memory_failcnt", "Number of memory usage hits limits", |f| f.memory.failures),
        gauge(
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |f| f.memory.usage,
        ),
        gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |f| {
            f.memory.most
        }),
        gauge("container_memory_working_set_bytes", "Current working set in bytes.", |f| {
            f.memory.working_set
        }),
        gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", |f| {
            f.memory.active_file
        }),
        gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", |f| {
            f.memory.inactive_file
        }),
        family(
            "container_memory_failures_total",
            "counter",
            "Cumulative count of memory allocation failures.",
            |row| {
                let memory = &row.figures.memory;
                let one = |(kind, scope, count): (&str, &str, u64)| {
                    (vec![("failure_type", kind.to_owned()), ("scope", scope.to_owned())], number(count))
                };
                let of =
                    |scope| [("pgfault", scope, memory.faults), ("pgmajfault", scope, memory.major_faults)];
                ["container", "hierarchy"].into_iter().flat_map(of).map(one).collect()
            },
        ),
        counter(
            "container_oom_events_total",
            "Count of out of memory events observed for the container",
            |f| f.oom_kills,
        ),
    ]
}

fn disks(devices: &BTreeMap<String, String>) -> Vec<Kind> {
    vec![
        of_filesystem("container_fs_inodes_free", "gauge", "Number of available Inodes", |s| {
            Some(amount(s.usage.inodes_free))
        }),
        of_filesystem("container_fs_inodes_total", "gauge", "Number of Inodes", |s| {
            Some(amount(s.usage.inodes))
        }),
        of_filesystem(
            "container_fs_limit_bytes",
            "gauge",
            "Number of bytes that can be consumed by the container on this filesystem.",
            |s| Some(amount(s.usage.capacity)),
        ),
        family(
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
            |row| {
                let of_node = row.filesystems.iter().map(|system| {
                    let used = system.usage.capacity.saturating_sub(system.usage.available);
                    (vec![("device", system.device.clone())], amount(used))
                });
                let layer = row.layer.map(|layer| (vec![("device", String::new())], number(layer.bytes)));
                of_node.chain(layer).collect()
            },
        ),
        traffic(
            "container_fs_reads_bytes_total",
            "Cumulative count of bytes read",
            devices,
            |io| io.read[0],
            |_| None,
        ),
        traffic(
            "container_fs_reads_total",
            "Cumulative count of reads completed",
            devices,
            |io| io.read[1],
            |t| Some(t.read[0]),
        ),
        traffic(
            "container_fs_writes_bytes_total",
            "Cumulative count of bytes written",
            devices,
            |io| io.written[0],
            |_| None,
        ),
        traffic(
            "container_fs_writes_total",
            "Cumulative count of writes completed",
            devices,
            |io| io.written[1],
            |t| Some(t.written[0]),
        ),
        of_filesystem(
            "container_fs_reads_merged_total",
            "counter",
            "Cumulative count of reads merged",
            |s| Some(number(s.traffic?.read[1])),
        ),
        of_filesystem(
            "container_fs_sector_reads_total",
            "counter",
            "Cumulative count of sector reads completed",
            |s| Some(number(s.traffic?.read[2])),
        ),
        of_filesystem(
            "container_fs_read_seconds_total",
            "counter",
            "Cumulative count of seconds spent reading",
            |s| Some(thousandths(s.traffic?.read[3])),
        ),
        of_filesystem(
            "container_fs_writes_merged_total",
            "counter",
            "Cumulative count of writes merged",
            |s| Some(number(s.traffic?.written[1])),
        ),
        of_filesystem(
            "container_fs_sector_writes_total",
            "counter",
            "Cumulative count of sector writes completed",
            |s| Some(number(s.traffic?.written[2])),
        ),
        of_filesystem(
            "container_fs_write_seconds_total",
            "counter",
            "Cumulative count of seconds spent writing",
            |s| Some(thousandths(s.traffic?.written[3])),
        ),
        of_filesystem("container_fs_io_current", "gauge", "Number of I/Os currently in progress", |s| {
            Some(number(s.traffic?.current))
        }),
        of_filesystem(
            "container_fs_io_time_seconds_total",
            "counter",
            "Cumulative count of seconds spent doing I/Os",
            |s| Some(thousandths(s.traffic?.time)),
        ),
        of_filesystem(
            "container_fs_io_time_weighted_seconds_total",
            "counter",
            "Cumulative weighted I/O time in seconds",
            |s| Some(thousandths(s.traffic?.weighted)),
        ),
    ]
}

fn interfaces() -> Vec<Kind> {
    vec![
        of_interface("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| {
            i.rx_bytes
        }),
        of_interface(
            "container_network_receive_packets_total",
            "Cumulative count of packets received",
            |i| i.rx_packets,
        ),
        of_interface(
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
            |i| i.rx_dropped,
        ),
        of_interface(
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            |i| i.rx_errors,
        ),
        of_interface(
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
            |i| i.tx_bytes,
        ),
        of_interface(
            "container_network_transmit_packets_total",
            "Cumulative count of packets transmitted",
            |i| i.tx_packets,
        ),
        of_interface(
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
            |i| i.tx_dropped,
        ),
        of_interface(
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            |i| i.tx_errors,
        ),
    ]
}

fn processes() -> Vec<Kind> {
    vec![
        held("container_processes", "Number of processes running inside the container.", |h| h.processes),
        held("container_file_descriptors", "Number of open file descriptors for the container.", |h| h.files),
        held("container_sockets", "Number of open sockets for the container.", |h| h.sockets),
        gauge(
            "container_threads_max",
            "Maximum number of threads allowed inside the container, infinity if value is zero",
            |f| f.threads[1],
        ),
        gauge("container_threads", "Number of threads running inside the container", |f| f.threads[0]),
        family(
            "container_ulimits_soft",
            "gauge",
            "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
            |row| {
                let name = || vec![("ulimit", "max_open_files".to_owned())];
                let value = |most: i64| if most < 0 { -1.0 } else { amount(most) };
                row.held.most_files.iter().map(|most| (name(), value(*most))).collect()
            },
        ),
    ]
}

fn pressure() -> Vec<Kind> {
    const WAITS: [(&str, &str); 2] = [
        ("stalled", "no tasks in the container could make progress"),
        ("waiting", "tasks in the container have waited"),
    ];
    let mut all = Vec::with_capacity(6);
    for (which, (resource, called)) in [("cpu", "CPU"), ("memory", "memory"), ("io", "IO")].iter().enumerate()
    {
        for (state, who) in WAITS {
            let name = format!("container_pressure_{resource}_{state}_seconds_total");
            let help = format!("Total time duration {who} due to {called} congestion.");
            all.push(family(name, "counter", help, move |row| {
                let pressure = row.figures.pressure[which].iter();
                let stall = |p: &Pressure| if state == "stalled" { p.full.total } else { p.some.total };
                pressure.flat_map(|pressure| one(number(stall(pressure)) / 1e6)).collect()
            }));
        }
    }
    all
}

fn text(rows: &[Row<'_>], devices: &BTreeMap<String, String>, now: i64) -> String {
    let seen = vec![
        family("container_last_seen", "gauge", "Last time a container was seen by the exporter", move |_| {
            one(amount(now / 1000))
        }),
        gauge("container_health_state", "The result of the container's health check", |_| 0),
    ];
    let all = [spec(), seen, cpu(), memory(), disks(devices), interfaces(), processes(), pressure()];
    let mut out = String::new();
    for kind in all.into_iter().flatten() {
        let mut family = Family::new(&mut out, &kind.name, kind.kind, &kind.help);
        let at = (!kind.fixed).then_some(now);
        for row in rows {
            for (more, value) in (kind.read)(row) {
                let mut labels = vec![
                    ("container", row.container),
                    ("id", &row.id),
                    ("image", row.image),
                    ("name", row.name),
                    ("namespace", row.namespace),
                    ("pod", row.pod),
                ];
                labels.extend(more.iter().map(|(key, value)| (*key, value.as_str())));
                labels.sort_unstable();
                family.add(&labels, value, at);
            }
        }
    }
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    Family::new(&mut out, "container_scrape_error", "gauge", help).add(&[], 0.0, None);
    out
}

fn machine_text(out: &mut String, machine: &Machine, processors: &Topology) {
    let help = "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor \
                version & cadvisor revision.";
    let labels = [
        ("cadvisorRevision", ""),
        ("cadvisorVersion", ""),
        ("dockerVersion", ""),
        ("kernelVersion", machine.kernel.as_str()),
        ("osVersion", &machine.os_image),
    ];
    Family::new(out, "cadvisor_version_info", "gauge", help).add(&labels, 1.0, None);
    let ids = [
        ("boot_id", machine.boot_id.as_str()),
        ("machine_id", &machine.machine_id),
        ("system_uuid", &machine.system_uuid),
    ];
    let sockets: BTreeSet<u32> =
        processors.groups(Level::Socket).iter().map(|(place, _)| place.socket).collect();
    let many = |count: usize| number(u64::try_from(count).unwrap_or(0));
    for (name, help, value) in [
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", many(processors.count(Level::Core))),
        ("machine_cpu_cores", "Number of logical CPU cores.", amount(machine.cpus)),
        ("machine_cpu_sockets", "Number of CPU sockets.", many(sockets.len())),
        // Of mainframes.
        ("machine_cpu_books", "Number of CPU books.", 0.0),
        ("machine_cpu_drawers", "Number of CPU drawers.", 0.0),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", amount(machine.memory)),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", amount(machine.swap)),
        // A kubelet is not built with the library that knows of such memory.
        ("machine_nvm_avg_power_budget_watts", "NVM power budget.", 0.0),
    ] {
        Family::new(out, name, "gauge", help).add(&ids, value, None);
    }
    let help = "NVM capacity value labeled by NVM mode (memory mode or app direct mode).";
    let mut family = Family::new(out, "machine_nvm_capacity", "gauge", help);
    for mode in ["app_direct_mode", "memory_mode"] {
        let [boot, machine, system] = ids;
        family.add(&[boot, machine, ("mode", mode), system], 0.0, None);
    }
    let help = "1 if there was an error while getting machine metrics, 0 otherwise.";
    Family::new(out, "machine_scrape_error", "gauge", help).add(&[], 0.0, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroup::figures::Io, testing, testing::at};

    #[test]
    fn without_cgroups_the_runtimes_word_is_shown() {
        let mut usage = testing::usage();
        usage.containers[0].root.bytes = 11;
        usage.network = vec![Interface { name: "eth0".into(), rx_packets: 3, ..Interface::default() }];
        let none = BTreeMap::new();
        let text = text(&of_pod(&usage, None), &none, 9000);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"\",image=\"\",name=\"1\",namespace=\"ns\",pod=\"a\"} 1.5 9000\n",
            "container_network_receive_packets_total{container=\"\",id=\"\",image=\"\",interface=\"eth0\",name=\"\",namespace=\"ns\",pod=\"a\"} 3 9000\n",
            "container_fs_usage_bytes{container=\"c\",device=\"\",id=\"\",image=\"\",name=\"1\",namespace=\"ns\",pod=\"a\"} 11 9000\n",
            "container_last_seen{container=\"c\",id=\"\",image=\"\",name=\"1\",namespace=\"ns\",pod=\"a\"} 9 9000\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("container_cpu_cfs_periods_total{"), "there is no quota: {text}");
        assert!(!text.contains("container_start_time_seconds{"), "it has not been started: {text}");
    }

    #[test]
    fn a_cgroup_shows_what_the_kernel_tells() {
        let stall = |total| figures::Stall { total, average: [0.0; 3] };
        let figures = Figures {
            periods: 4,
            throttled_time: 2_000_000_000,
            io: vec![Io { device: "8:0".into(), read: [4096, 2], written: [0, 0] }],
            pressure: [Some(Pressure { some: stall(3_000_000), full: stall(1_000_000) }), None, None],
            limits: Limits { quota: 5000, period: 10_000, shares: 512, memory: 1 << 20, ..Limits::default() },
            ..Figures::default()
        };
        let held = Held { processes: 2, files: 9, sockets: 1, most_files: Some(-1) };
        let row = Row { id: "/kubepods/pod1".into(), figures, held, started: Some(at(5)), ..Row::default() };
        let devices = BTreeMap::from([("8:0".to_owned(), "/dev/sda".to_owned())]);
        let text = text(&[row], &devices, 1000);
        let of = "container=\"\",id=\"/kubepods/pod1\",image=\"\",name=\"\",namespace=\"\",pod=\"\"";
        for line in [
            format!("container_start_time_seconds{{{of}}} {}\n", at(5).as_second()),
            format!("container_spec_cpu_quota{{{of}}} 5000\n"),
            format!("container_spec_memory_limit_bytes{{{of}}} 1048576\n"),
            format!("container_cpu_cfs_periods_total{{{of}}} 4 1000\n"),
            format!("container_cpu_cfs_throttled_seconds_total{{{of}}} 2 1000\n"),
            format!("container_pressure_cpu_waiting_seconds_total{{{of}}} 3 1000\n"),
            format!("container_pressure_cpu_stalled_seconds_total{{{of}}} 1 1000\n"),
            format!("container_file_descriptors{{{of}}} 9 1000\n"),
            format!("container_ulimits_soft{{{of},ulimit=\"max_open_files\"}} -1 1000\n"),
            format!("container_tasks_state{{{of},state=\"running\"}} 0 1000\n"),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        let read = "container_fs_reads_bytes_total{container=\"\",device=\"/dev/sda\",id=\"/kubepods/pod1\"";
        assert!(text.contains(read), "{text}");
        assert!(
            !text.contains("container_pressure_memory_waiting_seconds_total{"),
            "it is not measured: {text}"
        );
    }

    #[test]
    fn the_node_is_the_outermost_cgroup() {
        let stat = "cpu  10 1 5 100 0 0 0 0 0 0\n";
        let meminfo = "MemTotal: 100 kB\nMemFree: 30 kB\nMemAvailable: 60 kB\nCached: 7 kB\nSwapTotal: 9 kB\nSwapFree: 4 kB\n";
        let figures = of_node(stat, meminfo, "pgfault 8\noom_kill 2\n", 160_000_000);
        assert_eq!(figures.cpu, [160_000_000, 110_000_000, 50_000_000]);
        let memory = &figures.memory;
        assert_eq!((memory.usage, memory.working_set, memory.swap), (70 << 10, 40 << 10, 5 << 10));
        assert_eq!((memory.faults, figures.oom_kills, figures.limits.memory), (8, 2, 100 << 10));
    }

    /// Names of upstream's that are not here, and why.
    const ABSENT: &[(&str, &str)] = &[];

    #[test]
    fn upstreams_names_are_here() {
        let Some(folder) = component_base::reference::reference("metrics") else { return };
        let list = std::fs::read_to_string(folder.join("kubelet-cadvisor.tsv")).unwrap();
        let filesystem = Filesystem { traffic: Some(Default::default()), ..Filesystem::default() };
        let filesystems = [filesystem];
        let row = Row {
            started: Some(at(1)),
            filesystems: &filesystems,
            network: &[Interface {
                name: String::new(),
                rx_bytes: 0,
                rx_packets: 0,
                rx_errors: 0,
                rx_dropped: 0,
                tx_bytes: 0,
                tx_packets: 0,
                tx_errors: 0,
                tx_dropped: 0,
            }],
            held: Held { most_files: Some(1), ..Held::default() },
            ..Row::default()
        };
        let mut text = text(&[row], &BTreeMap::new(), 0);
        machine_text(&mut text, &Machine::default(), &Topology::default());
        let mut seen = 0;
        for line in list.lines().skip(1) {
            let fields: Vec<&str> = line.split('\t').collect();
            let (name, kind) = (fields[0], fields[1]);
            if ABSENT.iter().any(|(absent, _)| *absent == name) {
                continue;
            }
            seen += 1;
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} is not served as {kind}");
            let start = format!("{name}{{");
            let sample = text.lines().find(|line| line.starts_with(&start) || **line == format!("{name} 0"));
            let sample = sample.unwrap_or_else(|| panic!("{name} has no sample"));
            for label in fields.get(2).unwrap_or(&"").split(',').filter(|label| !label.is_empty()) {
                assert!(sample.contains(&format!("{label}=\"")), "{name} lacks {label}: {sample}");
            }
        }
        assert!(seen > 60, "{seen}");
    }
}
