//! Probes and lifecycle hooks of containers: what the kubelet does to them and when.
//!
//! Contract: core/v1 `Probe`, `Lifecycle`; sleep is KEP-3960, stop signals KEP-4960.

use crate::{at::At, field::ErrorList, format};

/// Signals a container of a Linux pod may be stopped with.
pub const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// The probes and hooks of a container that keeps running; `grace` is the pod's, `os` its operating system.
pub(super) fn check(container: &At<'_>, grace: Option<i64>, os: &str, errors: &mut ErrorList) {
    if container.has("lifecycle") {
        lifecycle(&container.get("lifecycle"), grace, os, errors);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !container.has(name) {
            continue;
        }
        let probe = container.get(name);
        check_probe(&probe, grace, errors);
        if name == "readinessProbe" {
            let own = probe.get("terminationGracePeriodSeconds");
            if own.is_set() {
                own.invalid(errors, "must not be set for readinessProbes");
            }
        } else {
            let successes = probe.get("successThreshold");
            if successes.int() != 1 {
                successes.invalid_as(errors, successes.int(), "must be 1");
            }
        }
    }
}

fn check_probe(probe: &At<'_>, grace: Option<i64>, errors: &mut ErrorList) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, errors);
    probe.check_counts(
        &["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"],
        errors,
    );
    let own = probe.get("terminationGracePeriodSeconds");
    if own.number().is_some_and(|seconds| seconds <= 0) {
        own.invalid(errors, "must be greater than 0");
    }
}

fn lifecycle(lifecycle: &At<'_>, grace: Option<i64>, os: &str, errors: &mut ErrorList) {
    for name in ["postStart", "preStop"] {
        if lifecycle.has(name) {
            handler(&lifecycle.get(name), &["exec", "httpGet", "tcpSocket", "sleep"], grace, errors);
        }
    }
    let signal = lifecycle.get("stopSignal");
    if !signal.is_set() {
        return;
    }
    match os {
        "linux" => signal.check_is_one_of(errors, SIGNALS),
        "windows" => signal.check_is_one_of(errors, &["SIGKILL", "SIGTERM"]),
        "" => signal.forbidden(errors, "may not be set for containers with empty `spec.os.name`"),
        _ => {}
    }
}

/// One way to reach into a container, of those a field knows.
fn handler(at: &At<'_>, kinds: &[&str], grace: Option<i64>, errors: &mut ErrorList) {
    let mut found = false;
    for kind in kinds.iter().filter(|kind| at.has(kind)) {
        let way = at.get(kind);
        if std::mem::replace(&mut found, true) {
            way.forbidden(errors, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" => {
                way.get("command").check_required(errors);
            }
            "httpGet" => http_get(&way, errors),
            "tcpSocket" => way.get("port").check_port_or_name(errors),
            "grpc" => way.get("port").check_port(errors),
            _ => sleep(&way, grace, errors),
        }
    }
    if !found {
        at.required(errors, "must specify a handler type");
    }
}

fn http_get(http: &At<'_>, errors: &mut ErrorList) {
    http.get("path").check_required(errors);
    http.get("port").check_port_or_name(errors);
    http.get("scheme").check_is_one_of(errors, &["HTTP", "HTTPS"]);
    let headers = http.get("httpHeaders");
    for header in headers.items() {
        let name = header.text_of("name");
        for detail in format::http_header(name) {
            headers.invalid_as(errors, name, detail);
        }
    }
}

fn sleep(sleep: &At<'_>, grace: Option<i64>, errors: &mut ErrorList) {
    let Some(grace) = grace else { return };
    let seconds = sleep.get("seconds").int();
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        sleep.invalid_as(errors, seconds, detail);
    }
}
