//! The version every daemon reports: the `/version` payload (`version.Info` of apimachinery) and the `--version` line.

use serde::Serialize;

use crate::metrics::{self, Stability};

/// Version of the Kubernetes API that is implemented.
pub const GIT_VERSION: &str = "v1.36.0";

/// The `/version` payload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    pub major: &'static str,
    pub minor: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub emulation_major: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub emulation_minor: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub min_compatibility_major: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub min_compatibility_minor: &'static str,
    pub git_version: &'static str,
    pub git_commit: &'static str,
    pub git_tree_state: &'static str,
    pub build_date: &'static str,
    /// The language runtime that built the daemon; upstream names its Go version here.
    pub go_version: &'static str,
    pub compiler: &'static str,
    pub platform: String,
}

/// Shows in the metrics which version the daemon has and emulates; only daemons whose gates may be those of another.
pub fn show_compatibility() {
    let info = info();
    let version = |major: &str, minor: &str| format!("{major}.{minor}");
    let labels = [
        "kube".to_owned(),
        version(info.major, info.minor),
        version(info.emulation_major, info.emulation_minor),
        version(info.min_compatibility_major, info.min_compatibility_minor),
    ];
    let names = &["component", "binary", "emulation", "min_compat"];
    metrics::gauge_vec(
        "version_info",
        "Which versions the daemon has and emulates.",
        Stability::Alpha,
        names,
    )
    .with_label_values(&labels.each_ref().map(String::as_str))
    .set(1);
}

/// What this build reports.
pub fn info() -> Info {
    Info {
        major: "1",
        minor: "36",
        emulation_major: "1",
        emulation_minor: "36",
        min_compatibility_major: "1",
        min_compatibility_minor: "35",
        git_version: GIT_VERSION,
        git_commit: option_env!("KEELSON_GIT_COMMIT").unwrap_or("unknown"),
        git_tree_state: "clean",
        build_date: option_env!("KEELSON_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z"),
        go_version: "rust",
        compiler: "rustc",
        platform: format!("linux/{}", architecture()),
    }
}

/// Go's name of the CPU architecture, as node labels and the version payload carry it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The `--version` line.
pub fn text() -> String {
    format!("Kubernetes {GIT_VERSION}")
}

/// The `User-Agent` of a daemon, shaped as client-go's default.
pub fn user_agent(component: &str) -> String {
    format!("{component}/{GIT_VERSION} (linux/{}) kubernetes/keelson", architecture())
}
