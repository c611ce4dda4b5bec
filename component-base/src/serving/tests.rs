//! Endpoints over real TLS on loopback.

use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::PrivateKeyDer;

use super::*;
use crate::auth::AuthOptions;

type HttpClient =
    Client<hyper_rustls::HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>, Full<Bytes>>;

struct Pki {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Pki {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.crt"), certificate.pem()).unwrap();
        Pki { directory, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, name: &str, common_name: &str, organisation: &str, usage: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn client(&self, identity: Option<&str>) -> HttpClient {
        let roots: RootCertStore = tls::load_roots(&self.file("ca.crt")).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = tls::load_certificates(&self.file(&format!("{name}.crt"))).unwrap();
                let key: PrivateKeyDer<'static> = tls::load_key(&self.file(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_all_versions()
            .build();
        Client::builder(TokioExecutor::new()).build(connector)
    }
}

async fn get(client: &HttpClient, port: u16, path: &str, token: Option<&str>) -> (u16, String) {
    let mut request = Request::get(format!("https://localhost:{port}{path}"));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let response = client.request(request.body(Full::default()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn start(pki: &Pki, tasks: &Tasks) -> u16 {
    start_with(pki, tasks, |site| {
        site.configz("test.config.k8s.io", serde_json::json!({"parallelism": 16}));
    })
    .await
}

async fn start_with(pki: &Pki, tasks: &Tasks, furnish: impl FnOnce(&Site)) -> u16 {
    tls::install_provider();
    pki.issue("server", "server", "servers", ExtendedKeyUsagePurpose::ServerAuth);
    let options = SecureServingOptions {
        bind_address: "127.0.0.1".parse().unwrap(),
        port: 0,
        cert_dir: PathBuf::new(),
        pair_name: "kube-test".to_owned(),
        certificate: Some(pki.file("server.crt")),
        key: Some(pki.file("server.key")),
        named: Vec::new(),
        protocol: Protocol::default(),
        max_streams: 0,
        share_port: false,
    };
    let server = SecureServer::bind(&options).unwrap();
    let port = server.address().port();
    let auth = AuthOptions { client_ca: Some(pki.file("ca.crt")), ..AuthOptions::default() };
    let auth = Arc::new(Delegated::new(auth, "test").await.unwrap());
    let site = Site::default();
    furnish(&site);
    server.serve(site, auth, tasks);
    port
}

#[tokio::test]
async fn health_is_open_and_the_rest_needs_permission() {
    let (pki, tasks) = (Pki::new(), Tasks::new());
    let port = start(&pki, &tasks).await;
    let anonymous = pki.client(None);
    assert_eq!(get(&anonymous, port, "/healthz", None).await, (200, "ok".to_owned()));
    let verbose = get(&anonymous, port, "/readyz?verbose", None).await;
    assert_eq!(verbose, (200, "[+]ping ok\nreadyz check passed\n".to_owned()));
    let (status, body) = get(&anonymous, port, "/metrics", None).await;
    assert_eq!(status, 403);
    let message = "forbidden: User \\\"system:anonymous\\\" cannot get path \\\"/metrics\\\"";
    assert!(body.contains(message), "{body}");
    assert_eq!(get(&anonymous, port, "/metrics", Some("forged")).await.0, 401);

    pki.issue("admin", "admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let admin = pki.client(Some("admin"));
    let (status, body) = get(&admin, port, "/metrics", None).await;
    assert!(status == 200 && body.contains("process_resident_memory_bytes"), "{status}");
    let (_, body) = get(&admin, port, "/configz", None).await;
    assert_eq!(body, r#"{"test.config.k8s.io":{"parallelism":16}}"#);
    assert!(get(&admin, port, "/version", None).await.1.contains("\"gitVersion\":\"v1.36.0\""));
    assert_eq!(get(&admin, port, "/nothing", None).await.0, 404);

    let stranger = Pki::new();
    stranger.issue("admin", "admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    std::fs::copy(pki.file("ca.crt"), stranger.file("ca.crt")).unwrap();
    assert_eq!(get(&stranger.client(Some("admin")), port, "/healthz", None).await.0, 401);
    assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_self_signed_pair_is_made_once() {
    tls::install_provider();
    let directory = tempfile::tempdir().unwrap();
    let pair = |directory: &std::path::Path| tls::self_signed(directory, "kube-test", &self_names()).unwrap();
    let first = pair(directory.path());
    assert_eq!(first.cert, pair(directory.path()).cert);
    assert_ne!(first.cert, pair(std::path::Path::new("")).cert);
}

#[test]
fn protocol_settings_are_checked() {
    let certificate = || {
        let pair = tls::self_signed(std::path::Path::new(""), "x", &["localhost".to_owned()]).unwrap();
        Arc::new(ServingCertificate::new(pair))
    };
    let config = |version: &str, suites: &[&str], curves: &[&str]| {
        let protocol = Protocol {
            min_version: version.to_owned(),
            cipher_suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
            curves: curves.iter().map(|curve| (*curve).to_owned()).collect(),
            disable_http2: false,
        };
        tls::server_config(certificate(), &protocol).map(drop)
    };
    assert!(config("VersionTLS13", &[], &["29", "23"]).is_ok());
    assert!(
        config("", &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"], &[])
            .is_ok()
    );
    assert!(matches!(config("VersionTLS99", &[], &[]), Err(TlsError::Version(_))));
    assert!(matches!(config("", &["TLS_NOPE"], &[]), Err(TlsError::CipherSuite(_))));
    for unknown in ["25", "1", "x"] {
        assert!(matches!(config("", &[], &["29", unknown]), Err(TlsError::Curve(_))), "{unknown}");
    }
}

#[tokio::test]
async fn a_kubeconfig_leads_over_tls_to_the_server_and_carries_the_identity() {
    let (pki, tasks) = (Pki::new(), Tasks::new());
    pki.issue("admin", "admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let port = start_with(&pki, &tasks, |site| {
        site.page("/api/v1/namespaces/ns/configmaps/a", |parts| {
            let agent = parts.headers[header::USER_AGENT].to_str().unwrap().to_owned();
            let version = format!("{:?}", parts.version);
            let data = serde_json::json!({"agent": agent, "http": version});
            json(StatusCode::OK, &serde_json::json!({"metadata": {"name": "a"}, "data": data}))
        });
    })
    .await;
    let kubeconfig = pki.file("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: https://localhost:{port}\n    \
         certificate-authority: {ca}\nusers:\n- name: u\n  user:\n    client-certificate: {certificate}\n    client-key: {key}\n\
         contexts:\n- name: c\n  context:\n    cluster: c\n    user: u\n",
        ca = pki.file("ca.crt").display(),
        certificate = pki.file("admin.crt").display(),
        key = pki.file("admin.key").display(),
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let mut options = crate::client::ClientOptions::new("kube-test");
    options.kubeconfig = Some(kubeconfig);
    let client = crate::client::connect(&options).await.unwrap();
    let api = kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(client, "ns");
    let data = api.get("a").await.unwrap().data.unwrap();
    assert!(data["agent"].starts_with("kube-test/v1.36.0 (linux/"), "{data:?}");
    assert_eq!(data["http"], "HTTP/2.0");
    assert!(crate::client::is_not_found(&api.get("b").await.unwrap_err()));

    // A certificate of another authority, swapped in, is refused by the same server.
    let stranger = Pki::new();
    stranger.issue("admin", "admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth);
    let pair = tls::load_pair(&stranger.file("admin.crt"), &stranger.file("admin.key")).unwrap();
    let certificate = Arc::new(tls::ClientCertificate::new(pair));
    let client = crate::client::connect_with_certificate(&options, certificate).await.unwrap();
    let api = kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(client, "ns");
    let refused = api.get("a").await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 401));

    options.kubeconfig = Some(pki.file("missing"));
    let missing = crate::client::connect(&options).await;
    assert!(matches!(missing, Err(crate::client::ClientError::Kubeconfig { .. })));
}

#[test]
fn pages_about_the_process_may_be_switched_off() {
    zpages::describe("test", BTreeMap::new());
    let status = |gates: Gates, path: &str| {
        let (parts, ()) = Request::builder().uri(path).body(()).unwrap().into_parts();
        Site::gated(gates).answer(&parts).status().as_u16()
    };
    for (gate, path) in ZPAGES {
        assert_eq!(status(Gates::default(), path), 200, "{path}");
        assert_eq!(status(Gates::default().with(gate, false), path), 404, "{path}");
    }
    assert_eq!(status(Gates::default().with(Gate::ComponentFlagz, false), "/statusz"), 200);
}
