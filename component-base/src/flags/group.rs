//! Flags that several daemons share, and the typed options read back from them.

use std::{net::IpAddr, net::Ipv4Addr, path::PathBuf, time::Duration};

use super::{Flag, Kind, Values};
use crate::{
    auth::AuthOptions,
    client::ClientOptions,
    features::{Gate, Gates},
    leader::LeaderElection,
    logging::{self, LoggingError, streams::Streams},
    metrics::view::View,
    quantity::Quantity,
    serving::SecureServingOptions,
    tls::Protocol,
};

/// `-v`, `--vmodule`, `--logging-format`, and which streams the log goes to.
pub fn logging() -> Vec<Flag> {
    let verbosity = Flag::new("v", Kind::Int, "0", "number for the log level verbosity").short('v');
    let rest = [
        (
            "vmodule",
            Kind::String,
            "",
            "comma-separated pattern=N settings for file-filtered logging (text only)",
        ),
        ("logging-format", Kind::String, "text", "log format: \"text\" or \"json\""),
        (FLUSH, Kind::Duration, "5s", "longest time that lines wait in a buffer of the log"),
        (
            "log-json-split-stream",
            Kind::Bool,
            "false",
            "write JSON log messages below errors to standard output (LoggingAlphaOptions)",
        ),
        (
            "log-text-split-stream",
            Kind::Bool,
            "false",
            "write text log messages below errors to standard output (LoggingAlphaOptions)",
        ),
        (
            "log-json-info-buffer-size",
            Kind::Quantity,
            "",
            "buffer of the split stream of JSON messages below errors; none unless given (LoggingAlphaOptions)",
        ),
        (
            "log-text-info-buffer-size",
            Kind::Quantity,
            "",
            "buffer of the split stream of text messages below errors; none unless given (LoggingAlphaOptions)",
        ),
    ]
    .map(|(name, kind, default, help)| Flag::new(name, kind, default, help));
    [verbosity].into_iter().chain(rest).map(|flag| flag.section("logs")).collect()
}

const FLUSH: &str = "log-flush-frequency";

/// Whether logs may be as the flags ask for.
///
/// # Errors
/// Where a gate of what is asked for is off.
pub fn check_logging(values: &Values, gates: Gates) -> Result<(), LoggingError> {
    let format: logging::Format = values.string("logging-format").parse()?;
    if format == logging::Format::Json && !gates.has(Gate::LoggingBetaOptions) {
        return Err(LoggingError::Disabled("json", Gate::LoggingBetaOptions));
    }
    for format in ["text", "json"] {
        let asked = [
            ("splitStream", values.bool(&format!("log-{format}-split-stream"))),
            ("infoBufferSize", buffer(values, format) != 0),
        ];
        if let Some((field, _)) = asked.into_iter().find(|(_, is_asked)| *is_asked)
            && !gates.has(Gate::LoggingAlphaOptions)
        {
            return Err(LoggingError::Option(format!("{format}.{field}"), Gate::LoggingAlphaOptions));
        }
    }
    Ok(())
}

/// How the log is written, as [`logging`]'s flags have it.
///
/// # Errors
/// For unknown formats, malformed `--vmodule`, and times that never pass.
pub fn logging_settings(values: &Values) -> Result<logging::Settings, LoggingError> {
    let format: logging::Format = values.string("logging-format").parse()?;
    let name = format.name();
    if values.duration(FLUSH).is_zero() {
        return Err(LoggingError::FlushFrequency(values.string(FLUSH).to_owned()));
    }
    Ok(logging::Settings {
        format,
        verbosity: u8::try_from(values.int("v").max(0)).unwrap_or(u8::MAX),
        modules: logging::parse_modules(values.string("vmodule"))?,
        streams: Streams {
            split: values.bool(&format!("log-{name}-split-stream")),
            buffer: usize::try_from(buffer(values, name)).unwrap_or(0),
            flush: values.duration(FLUSH),
        },
    })
}

fn buffer(values: &Values, format: &str) -> i64 {
    values.quantity(&format!("log-{format}-info-buffer-size")).map_or(0, Quantity::value)
}

/// `--disabled-metrics`, `--allow-metric-labels`, `--allow-metric-labels-manifest`.
pub fn metrics() -> Vec<Flag> {
    [
        ("disabled-metrics", Kind::Strings, "names of metrics that are not shown"),
        (
            "allow-metric-labels",
            Kind::StringArray,
            "values that are shown of a metric's label, as metric,label=value,value; may be repeated",
        ),
        (
            "allow-metric-labels-manifest",
            Kind::String,
            "file that says the same under allowListMapping; what the flag says of a label counts",
        ),
    ]
    .map(|(name, kind, help)| Flag::new(name, kind, "", help).section("metrics"))
    .into()
}

/// How metrics are shown, from [`metrics`]'s flags.
///
/// # Errors
/// The flag, its value and what is wrong with it.
pub fn metrics_view(values: &Values) -> Result<View, (&'static str, String, String)> {
    let mut view = View::default();
    view.disabled.extend(values.list("disabled-metrics"));
    for text in values.list("allow-metric-labels") {
        view.allow(&text).map_err(|error| ("allow-metric-labels", text, error.to_string()))?;
    }
    if let Some(path) = values.optional("allow-metric-labels-manifest") {
        let failed = |why: String| ("allow-metric-labels-manifest", path.to_owned(), why);
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        view.allow_manifest(&text).map_err(|error| failed(error.to_string()))?;
    }
    Ok(view)
}

/// `--kubeconfig`, `--master`, `--kube-api-qps`, `--kube-api-burst`, `--kube-api-content-type`.
pub fn client(qps: &str, burst: &str) -> Vec<Flag> {
    let section = "misc";
    vec![
        Flag::new("kubeconfig", Kind::String, "", "file with the API server's address and credentials")
            .section(section),
        Flag::new("master", Kind::String, "", "address of the API server, overriding the kubeconfig")
            .section(section),
        Flag::new("kube-api-qps", Kind::Float, qps, "requests per second to the API server").section(section),
        Flag::new("kube-api-burst", Kind::Int, burst, "requests to the API server that may go out at once")
            .section(section),
        Flag::new(
            "kube-api-content-type",
            Kind::String,
            "application/vnd.kubernetes.protobuf",
            "content type of requests to the API server",
        )
        .section(section),
    ]
}

/// The client options for a component from [`client`]'s flags.
pub fn client_options(values: &Values, component: &str) -> ClientOptions {
    ClientOptions {
        kubeconfig: values.optional("kubeconfig").map(PathBuf::from),
        master: values.optional("master").map(str::to_owned),
        qps: values.float("kube-api-qps") as f32,
        burst: u32::try_from(values.int("kube-api-burst")).unwrap_or(0),
        content_type: values.string("kube-api-content-type").to_owned(),
        ..ClientOptions::new(component)
    }
}

/// `--bind-address`, `--secure-port`, `--cert-dir`, `--tls-*` and the like.
pub fn secure_serving(port: &str) -> Vec<Flag> {
    let flags = [
        ("bind-address", Kind::Ip, "0.0.0.0", "address to serve HTTPS on; unspecified means all interfaces"),
        (
            "secure-port",
            Kind::Int,
            port,
            "port to serve HTTPS on, with authentication and authorization; 0 for none",
        ),
        (
            "cert-dir",
            Kind::String,
            "",
            "directory of the serving certificate when no --tls-cert-file is given; empty keeps it in memory",
        ),
        ("tls-cert-file", Kind::String, "", "file with the serving certificate and its intermediates"),
        ("tls-private-key-file", Kind::String, "", "file with the private key of --tls-cert-file"),
        ("tls-min-version", Kind::String, "", "least TLS version served: VersionTLS12 or VersionTLS13"),
        ("tls-cipher-suites", Kind::Strings, "", "cipher suites served with TLS 1.2, by their IANA names"),
        (
            "tls-sni-cert-key",
            Kind::StringArray,
            "",
            "files with a certificate and its key, and names it is for: certificate,key[:name,*.name]; may be repeated",
        ),
        (
            "tls-curve-preferences",
            Kind::Strings,
            "",
            "key exchanges served, by their IANA numbers; the order is the server's own",
        ),
        ("disable-http2-serving", Kind::Bool, "false", "serve HTTP/1.1 only"),
        (
            "http2-max-streams-per-connection",
            Kind::Int,
            "0",
            "requests at once on an HTTP/2 connection; 0 for the default",
        ),
        ("permit-port-sharing", Kind::Bool, "false", "bind with SO_REUSEPORT"),
        ("permit-address-sharing", Kind::Bool, "false", "bind with SO_REUSEADDR"),
    ];
    flags
        .map(|(name, kind, default, help)| Flag::new(name, kind, default, help).section("secure serving"))
        .into()
}

/// The serving options from [`secure_serving`]'s flags.
pub fn secure_serving_options(values: &Values, pair_name: &str) -> SecureServingOptions {
    SecureServingOptions {
        bind_address: values.ip("bind-address").unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: u16::try_from(values.int("secure-port")).unwrap_or(0),
        cert_dir: PathBuf::from(values.string("cert-dir")),
        pair_name: pair_name.to_owned(),
        certificate: values.optional("tls-cert-file").map(PathBuf::from),
        key: values.optional("tls-private-key-file").map(PathBuf::from),
        named: values.list("tls-sni-cert-key"),
        protocol: Protocol {
            min_version: values.string("tls-min-version").to_owned(),
            cipher_suites: values.list("tls-cipher-suites"),
            curves: values.list("tls-curve-preferences"),
            disable_http2: values.bool("disable-http2-serving"),
        },
        max_streams: u32::try_from(values.int("http2-max-streams-per-connection")).unwrap_or(0),
        share_port: values.bool("permit-port-sharing"),
    }
}

/// `--authentication-*`, `--authorization-*`, `--client-ca-file`, `--requestheader-*`; `tolerates` is what is said of
/// failed lookups where nothing is given.
pub fn delegated_auth(tolerates: bool) -> Vec<Flag> {
    let authentication = [
        (
            "authentication-kubeconfig",
            Kind::String,
            "",
            "kubeconfig for reviewing tokens; without it bearer tokens are refused",
        ),
        (
            "authentication-skip-lookup",
            Kind::Bool,
            "false",
            "accepted for compatibility: nothing is looked up in the cluster",
        ),
        (
            "authentication-tolerate-lookup-failure",
            Kind::Bool,
            if tolerates { "true" } else { "false" },
            "accepted for compatibility: nothing is looked up in the cluster",
        ),
        (
            "authentication-token-webhook-cache-ttl",
            Kind::Duration,
            "10s",
            "how long a token review is remembered",
        ),
        (
            "client-ca-file",
            Kind::String,
            "",
            "authorities of client certificates; their common name is the user",
        ),
        (
            "requestheader-client-ca-file",
            Kind::String,
            "",
            "authorities of front proxies, whose headers name the user",
        ),
        (
            "requestheader-allowed-names",
            Kind::Strings,
            "",
            "common names that front proxies may have; empty for any",
        ),
        ("requestheader-username-headers", Kind::Strings, "x-remote-user", "headers with the user's name"),
        ("requestheader-group-headers", Kind::Strings, "x-remote-group", "headers with the user's groups"),
        (
            "requestheader-extra-headers-prefix",
            Kind::Strings,
            "x-remote-extra-",
            "prefixes of headers with more about the user",
        ),
        ("requestheader-uid-headers", Kind::Strings, "", "headers with the user's uid"),
    ];
    let authorization = [
        (
            "authorization-kubeconfig",
            Kind::String,
            "",
            "kubeconfig for reviewing access; without it all but always-allowed paths are refused",
        ),
        (
            "authorization-always-allow-paths",
            Kind::Strings,
            "/healthz,/readyz,/livez",
            "paths that need no authorization",
        ),
        (
            "authorization-webhook-cache-authorized-ttl",
            Kind::Duration,
            "10s",
            "how long a permission is remembered",
        ),
        (
            "authorization-webhook-cache-unauthorized-ttl",
            Kind::Duration,
            "10s",
            "how long a refusal is remembered",
        ),
    ];
    let flag =
        |section| move |(name, kind, default, help)| Flag::new(name, kind, default, help).section(section);
    let authentication = authentication.into_iter().map(flag("authentication"));
    authentication.chain(authorization.into_iter().map(flag("authorization"))).collect()
}

/// The options from [`delegated_auth`]'s flags.
pub fn auth_options(values: &Values) -> AuthOptions {
    AuthOptions {
        authentication_kubeconfig: values.optional("authentication-kubeconfig").map(PathBuf::from),
        authorization_kubeconfig: values.optional("authorization-kubeconfig").map(PathBuf::from),
        follows_files: true,
        client_ca: values.optional("client-ca-file").map(PathBuf::from),
        proxy_ca: values.optional("requestheader-client-ca-file").map(PathBuf::from),
        proxy_names: values.list("requestheader-allowed-names"),
        username_headers: values.list("requestheader-username-headers"),
        group_headers: values.list("requestheader-group-headers"),
        extra_prefixes: values.list("requestheader-extra-headers-prefix"),
        always_allow: values.list("authorization-always-allow-paths"),
        token_ttl: values.duration("authentication-token-webhook-cache-ttl"),
        allowed_ttl: values.duration("authorization-webhook-cache-authorized-ttl"),
        refused_ttl: values.duration("authorization-webhook-cache-unauthorized-ttl"),
        anonymous: true,
    }
}

/// `--leader-elect*`, with the lease's default name.
pub fn leader_election(name: &str) -> Vec<Flag> {
    let flags = [
        ("leader-elect", Kind::Bool, "true", "act only while holding the lease, for replicated daemons"),
        ("leader-elect-lease-duration", Kind::Duration, "15s", "how long others wait for a silent leader"),
        (
            "leader-elect-renew-deadline",
            Kind::Duration,
            "10s",
            "how long a leader tries to renew before it stops",
        ),
        (
            "leader-elect-retry-period",
            Kind::Duration,
            "2s",
            "pause between attempts to take or renew the lease",
        ),
        (
            "leader-elect-resource-lock",
            Kind::String,
            "leases",
            "kind of the lock; \"leases\" is the only one",
        ),
        ("leader-elect-resource-name", Kind::String, name, "name of the lease"),
        ("leader-elect-resource-namespace", Kind::String, "kube-system", "namespace of the lease"),
    ];
    flags
        .map(|(name, kind, default, help)| Flag::new(name, kind, default, help).section("leader election"))
        .into()
}

/// The election from [`leader_election`]'s flags; none if it is switched off.
pub fn leader_election_options(values: &Values) -> Option<LeaderElection> {
    if !values.bool("leader-elect") {
        return None;
    }
    let name = values.string("leader-elect-resource-name");
    let namespace = values.string("leader-elect-resource-namespace");
    let positive = |name: &str| values.duration(name).max(Duration::ZERO);
    Some(LeaderElection {
        lease_duration: positive("leader-elect-lease-duration"),
        renew_deadline: positive("leader-elect-renew-deadline"),
        retry_period: positive("leader-elect-retry-period"),
        ..LeaderElection::new(name, namespace)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{FlagSet, Parsed};

    fn values(flags: &[&str]) -> Values {
        let all = FlagSet::new("kube-test", "Tests.", logging());
        match all.parse(flags.iter().map(|flag| (*flag).to_owned())).unwrap() {
            Parsed::Run(values) => values,
            Parsed::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn options_of_logs_go_with_their_gates() {
        let alpha = Gates::default().with(Gate::LoggingAlphaOptions, true);
        for (flag, refusal) in [
            ("--log-text-split-stream", "options.text.splitStream"),
            ("--log-json-split-stream=true", "options.json.splitStream"),
            ("--log-text-info-buffer-size=1Mi", "options.text.infoBufferSize"),
            ("--log-json-info-buffer-size=512", "options.json.infoBufferSize"),
        ] {
            let given = values(&[flag]);
            let refusal = format!("{refusal}: Forbidden: Feature LoggingAlphaOptions is disabled");
            assert_eq!(check_logging(&given, Gates::default()).unwrap_err().to_string(), refusal);
            assert_eq!(check_logging(&given, alpha), Ok(()), "{flag}");
        }
        for flag in
            ["--log-text-split-stream=false", "--log-json-info-buffer-size=0", "--logging-format=json"]
        {
            assert_eq!(check_logging(&values(&[flag]), Gates::default()), Ok(()), "{flag}");
        }
        let no_beta = Gates::default().with(Gate::LoggingBetaOptions, false);
        assert_eq!(
            check_logging(&values(&["--logging-format=json"]), no_beta).unwrap_err().to_string(),
            "format: Forbidden: Log format json is disabled, see LoggingBetaOptions feature"
        );
    }

    #[test]
    fn streams_are_those_of_the_format() {
        let flags =
            ["--log-json-split-stream", "--log-json-info-buffer-size=2Ki", "--log-flush-frequency=1s"];
        let flush = Duration::from_secs(1);
        let of = |more: &[&str]| logging_settings(&values(&[&flags[..], more].concat()));
        let json = of(&["--logging-format=json", "-v=3"]).unwrap();
        assert_eq!((json.verbosity, json.streams), (3, Streams { split: true, buffer: 2048, flush }));
        assert_eq!(of(&[]).unwrap().streams, Streams { split: false, buffer: 0, flush });
        assert_eq!(
            of(&["--log-flush-frequency=0s"]).unwrap_err().to_string(),
            "flushFrequency: Invalid value: \"0s\": Must be greater than zero"
        );
    }
}
