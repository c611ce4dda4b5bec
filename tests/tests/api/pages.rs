//! What the scheduler and the controllers say of themselves: how they are set up, with which flags, and how they are.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{ControlPlane, control_plane::Options, runner::Test};

use crate::scheduling::Daemon;

pub(crate) const TESTS: &[Test<()>] =
    &[("the scheduler and the controllers say how they are set up and how they are", pages)];

/// Where a field is, and its value.
type Field = (&'static str, fn() -> Value);

/// A daemon's flag, its configuration's name and fields of it, and the checks of its endpoints.
struct Pages {
    daemon: &'static str,
    flag: &'static str,
    name: &'static str,
    fields: &'static [Field],
    checks: &'static [(&'static str, &'static [&'static str])],
}

const PAGES: &[Pages] = &[
    Pages {
        daemon: "kube-controller-manager",
        flag: "--concurrent-rc-syncs=3",
        name: "kubecontrollermanager.config.k8s.io",
        fields: &[
            ("/kind", || json!("KubeControllerManagerConfiguration")),
            ("/ReplicationController/ConcurrentRCSyncs", || json!(3)),
            ("/Generic/LeaderElection/leaderElect", || json!(true)),
        ],
        checks: &[("/healthz", &["leaderElection", "garbage-collector-controller", "job-controller"])],
    },
    Pages {
        daemon: "kube-scheduler",
        flag: "--scheduler-name=other",
        name: "componentconfig",
        fields: &[
            ("/kind", || json!("KubeSchedulerConfiguration")),
            ("/profiles/0/schedulerName", || json!("other")),
            ("/profiles/0/plugins/multiPoint/enabled/0/name", || json!("SchedulingGates")),
            ("/leaderElection/leaderElect", || json!(true)),
        ],
        checks: &[
            ("/healthz", &["leaderElection"]),
            ("/readyz", &["leaderElection", "shutdown", "sched-handler-sync"]),
            ("/livez", &["ping"]),
        ],
    },
];

fn pages(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    for pages in PAGES {
        let daemon = Daemon::start(&plane, pages.daemon, &["--leader-elect=true", pages.flag])?;
        let client = daemon.client(&plane)?;
        for (path, checks) in pages.checks {
            plane.eventually("all checks are there and pass", 60, || {
                let told = client.get(&format!("{path}?verbose"))?.text();
                for check in *checks {
                    ensure!(told.contains(&format!("[+]{check} ok\n")), "{path} of {}: {told}", pages.daemon);
                }
                ensure!(told.ends_with(" check passed\n"), "{path} of {}: {told}", pages.daemon);
                Ok(Some(()))
            })?;
        }
        let config = client.get("/configz")?.ok()?;
        for (path, expected) in pages.fields {
            let found = config[pages.name].pointer(path);
            ensure!(found == Some(&expected()), "{path} of {}: {found:?}", pages.daemon);
        }
        let flags = client.get("/flagz")?.text();
        let flag = pages.flag.trim_start_matches("--");
        ensure!(flags.contains(flag) && flags.contains("leader-elect=true"), "{flags}");
        let status = client.get("/statusz")?.text();
        ensure!(status.contains(pages.daemon) && status.contains("Binary version: 1.36.0"), "{status}");
    }
    Ok(())
}
